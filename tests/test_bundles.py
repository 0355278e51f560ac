"""The bundles pass what the model zoo's checks ask, offline, and are what ``configs/`` builds."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigComponent, ConfigParser, ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out
from monai.utils import optional_import
from small_runs import (
    BUNDLES,
    LUNG,
    STAGE_TYPES,
    build_network,
    copy_bundle,
    run_sizes,
    small_sizes,
    write_prepared,
)  # fmt: skip

import medseglatdiff_monai
from medseglatdiff_monai.bundle import config as config_module
from medseglatdiff_monai.bundle import folders
from medseglatdiff_monai.bundle.build import build_bundle, build_stages, write_run_folder
from medseglatdiff_monai.bundle.check import check_bundle
from medseglatdiff_monai.bundle.config import STAGES, Bundle, load_stage_config
from medseglatdiff_monai.bundle.folders import bundles_dir
from medseglatdiff_monai.bundle.json_style import dump_config
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.networks.weights import load_weights, save_weights

SCHEMA = Path(__file__).with_name("metadata_schema.json")
# Of several processes, laid over a stage.
OVERLAYS = {
    stage: "multi_gpu_evaluate.json" if stage == "evaluate" else "multi_gpu_train.json"
    for stage in STAGES
    if stage != "inference"
}
# Of the zoo's docs/readme_template.md, without "Citation Info", which is optional.
CARD_HEADINGS = [
    "### Authors", "### Tags", "## Model Description", "## Data", "#### Preprocessing", "## Performance",
    "## Additional Usage Steps", "## System Configuration", "## Limitations", "## References",
]  # fmt: skip
FEW = {"num_samples": 2, "num_inference_steps": 2}


def read_metadata(name: str) -> dict:
    return json.loads((bundles_dir() / name / "configs" / "metadata.json").read_text())


@pytest.fixture(scope="module", params=BUNDLES)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy of a bundle at its real size, with the weights that it ships or random ones."""
    return copy_bundle(request.param, tmp_path_factory.mktemp("bundle"))


def test_bundles_are_all_known() -> None:
    assert sorted(path.name for path in bundles_dir().iterdir() if (path / "configs").is_dir()) == sorted(BUNDLES)


@pytest.mark.parametrize("name", BUNDLES)
def test_bundle_is_complete_and_its_model_card_speaks_of_limits(name: str) -> None:
    assert check_bundle(name) == []
    required = read_metadata(name)["required_packages_version"]
    assert required["medseglatdiff_monai"] == medseglatdiff_monai.__version__
    card = (bundles_dir() / name / "docs" / "README.md").read_text()
    for needed in ("Not a medical device", "exclude_verify_torchscript_list", "TensorRT", "data_license.txt"):
        assert needed in card
    assert [line for line in card.splitlines() if line in CARD_HEADINGS] == CARD_HEADINGS


@pytest.mark.parametrize("name", BUNDLES)
def test_verify_metadata(name: str) -> None:
    verify_metadata(meta_file=str(bundles_dir() / name / "configs" / "metadata.json"), filepath=SCHEMA)


@pytest.mark.parametrize("missing", ["task", "required_packages_version", "network_data_format"])
def test_verify_metadata_refuses_what_is_incomplete(missing: str, tmp_path: Path) -> None:
    metadata = read_metadata(LUNG)
    del metadata[missing]
    path = tmp_path / "metadata.json"
    path.write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match=missing):
        verify_metadata(meta_file=str(path), filepath=SCHEMA)


@pytest.mark.parametrize("name", BUNDLES)
def test_stage_files_equal_the_build_from_configs(name: str, tmp_path: Path) -> None:
    built = build_bundle(name, destination=tmp_path)
    assert {path.name for path in built} == {
        path.name for path in (bundles_dir() / name / "configs").glob("*.json") if path.name != "metadata.json"
    }
    for path in built:
        shipped = (bundles_dir() / name / "configs" / path.name).read_text()
        assert shipped == path.read_text(), f"{name}/{path.name} differs from configs/: run 'make bundles'"


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", BUNDLES)
def test_top_level_keys_are_used(name: str, stage: str) -> None:
    """A key at the top is there to be overridden: with nothing that refers to it, that would be without effect."""
    config = json.loads((bundles_dir() / name / "configs" / f"{stage}.json").read_text())
    text = json.dumps(config)
    # What MONAI's own run asks for, what train reads, and what experiments refer to.
    asked = {
        "imports", "initialize", "run", "finalize", "training_stages", "image_spacing_mm", "published_batch_size",
        "published_positive_weight", "image_channels", "train", "validate",
    }  # fmt: skip
    unused = [key for key in config if not key.startswith("_") and key not in asked and f"@{key}" not in text]
    assert unused == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, "{}\n"),
        ({"a": [1, 2], "b": {"c": None}}, '{\n  "a": [1, 2],\n  "b": {"c": null}\n}\n'),
        # A list of 118 columns is one that fits with its margin; the comma after it is one too many.
        ({"a": ["x" * 107]}, '{\n  "a": ["' + "x" * 107 + '"]\n}\n'),
        (
            {"a": ["x" * 110], "b": 1},
            '{\n  "a": [\n    "' + "x" * 110 + '"\n  ],\n  "b": 1\n}\n',
        ),
        ({"_note_": "256×256"}, '{\n  "_note_": "256×256"\n}\n'),
    ],
)
def test_short_values_stand_on_one_line(value: dict, text: str) -> None:
    assert dump_config(value) == text
    assert json.loads(text) == value


@pytest.mark.parametrize("path", sorted((bundles_dir().parent / "configs").rglob("*.json")), ids=lambda path: path.stem)
def test_configurations_are_written_as_the_bundles_are(path: Path) -> None:
    assert path.read_text() == dump_config(json.loads(path.read_text()))


def find_components(config: Any, path: str = "") -> Iterator[tuple[str, dict]]:
    if isinstance(config, dict):
        if "_target_" in config:
            yield path, config
        for key, value in config.items():
            yield from find_components(value, f"{path}#{key}")
    elif isinstance(config, list):
        for index, value in enumerate(config):
            yield from find_components(value, f"{path}#{index}")


def load_merged(name: str, stage: str, overlay: bool = False) -> dict:
    folder = bundles_dir() / name / "configs"
    files = [str(folder / f"{stage}.json")] + ([str(folder / OVERLAYS[stage])] if overlay else [])
    parser = ConfigParser()
    parser.read_config(files)
    return {key: value for key, value in parser.get().items() if key != "_meta_"}


@pytest.mark.parametrize("overlay", [False, True])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", BUNDLES)
def test_targets_import_and_arguments_bind(name: str, stage: str, overlay: bool) -> None:
    if overlay and stage == "inference":
        pytest.skip("inference has no overlay for several processes")
    components = list(find_components(load_merged(name, stage, overlay)))
    assert len(components) > 10
    for path, component in components:
        target = ConfigComponent(component).resolve_module_name()
        if isinstance(target, str):
            module, _, attribute = target.rpartition(".")
            target, found = optional_import(module, name=attribute)
            assert found, f"{path}: {component['_target_']} cannot be imported"
        arguments = {key: None for key in component if not (key.startswith("_") and key.endswith("_"))}
        signature = inspect.signature(target)
        try:
            # A callable is handed on, to be called with more arguments.
            (signature.bind_partial if component.get("_mode_") == "callable" else signature.bind)(**arguments)
        except TypeError as error:
            pytest.fail(f"{path}: {component['_target_']}: {error}")


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "inference"])
def test_overlays_change_only_what_is_there(stage: str) -> None:
    single = load_merged(LUNG, stage)
    overlay = json.loads((bundles_dir() / LUNG / "configs" / OVERLAYS[stage]).read_text())
    keys = [key for key in overlay if not key.startswith("_")]
    assert len(keys) >= 4
    parser = ConfigParser(single)
    assert [key for key in keys if key not in parser] == []


@pytest.mark.parametrize("stage", STAGES)
def test_unknown_key_is_an_error_that_names_the_nearest(stage: str) -> None:
    with pytest.raises(InputError, match="num_inference_steps"):
        load_stage_config(LUNG, stage, overrides={"num_inferense_steps": 3})
    with pytest.raises(InputError, match="network_def#num_samples"):
        load_stage_config(LUNG, stage, overrides={"network_def#num_sample": 3})


def write_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"stages": "scoring"}, "training_stages"),
        ({"stages": ["scoring"]}, "expected a block of keys per stage"),
        ({"stages": {"scoring": 3}}, "the block of the stage 'scoring' is 3"),
        ({"stages": {"scorign": {"draws": 3}}}, "Did you mean 'scoring'?"),
        ({"stages": {"scoring": {"drows": 3}}}, "Did you mean 'draws'?"),
        ([{"draws": 3}], "holds a list; expected keys and values"),
    ],
    ids=["text", "list", "number", "stage", "key", "no mapping"],
)
@pytest.mark.parametrize("stage", ["train", "inference"])
def test_bad_overlay_is_an_error_in_every_stage(overlay: Any, message: str, stage: str, tmp_path: Path) -> None:
    file = write_json(tmp_path / "mine.json", overlay)
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        load_stage_config(LUNG, stage, file)
    if isinstance(overlay, dict):
        with pytest.raises(InputError, match=message.replace("?", r"\?")):
            load_stage_config(LUNG, stage, overrides=overlay)


def test_overlay_that_is_based_on_another(tmp_path: Path) -> None:
    overlay = {"based_on": "unet", "+network_def#network": {"norm": "instance"}, "stages": {"train": {"draws": 3}}}
    found, base = (
        load_stage_config(LUNG, "train", name) for name in (write_json(tmp_path / "mine.json", overlay), "unet")
    )
    assert found["network_def"]["network"] == {**base["network_def"]["network"], "norm": "instance"}
    assert (base["draws"], found["draws"]) == (1, 3)
    assert found["train"] == base["train"]
    with pytest.raises(InputError, match=r"Did you mean 'unet'\?"):
        load_stage_config(LUNG, "train", write_json(tmp_path / "mine.json", {"based_on": "unett"}))


def test_keys_that_begin_with_an_underscore_are_comments(tmp_path: Path) -> None:
    overlay = {
        "_why": "all",
        "warmup_iterations": 3,
        "stages": {"_which": "both", "train": {"_how": "more", "warmup_iterations": 4}},
    }
    file = write_json(tmp_path / "mine.json", overlay)
    for arguments in ({"experiment": file}, {"overrides": overlay}):
        found = load_stage_config(LUNG, "train", **arguments)
        assert found == {**load_stage_config(LUNG, "train"), "warmup_iterations": 4}
        assert load_stage_config(LUNG, "scoring", **arguments)["warmup_iterations"] == 3


def test_comments_of_a_run_may_change(tmp_path: Path) -> None:
    run = write_run_folder(LUNG, tmp_path / "run")
    path = run / "configs" / "train.json"
    config = json.loads(path.read_text())
    write_json(path, {**config, "_note": "written by hand"})
    write_run_folder(LUNG, run)
    write_json(path, {**config, "draws": 77})
    with pytest.raises(InputError, match=r"train\.json differs"):
        write_run_folder(LUNG, run)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"image_sise": 64}, "Did you mean 'image_size'?"),
        ({"stages": {"trian": {"draws": 3}}}, "Did you mean 'train'?"),
        ({"stages": {"train": {"drows": 3}}}, "Did you mean 'draws'?"),
    ],
)
def test_misspelt_key_of_a_bundles_own_file_is_an_error(
    own: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundles_dir().parent / "configs", tmp_path / "configs")
    monkeypatch.setattr(folders, "SOURCE_TREE", tmp_path)
    file = tmp_path / "configs" / "bundles" / "mine.json"
    kept = json.loads(file.with_name(f"{LUNG}.json").read_text())
    write_json(file, {**kept, "_note": "a comment", "stages": {"_note": "too"}})
    assert build_stages("mine")["train"]["image_size"] == kept["image_size"]
    write_json(file, {**kept, **own})
    with pytest.raises(InputError, match=message.replace("?", r"\?")) as caught:
        build_stages("mine")
    assert str(file) in str(caught.value)


def test_each_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = config_module.read_keys
    monkeypatch.setattr(config_module, "read_keys", lambda path: read.append(str(path)) or original(path))
    write_run_folder(LUNG, tmp_path / "run", "ablations/kl", {"max_epochs": 3})
    assert len(read) == len(set(read)) == len(STAGES) + 1


def test_stage_that_a_bundle_lacks_is_named(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    write_json(tmp_path / "configs" / "metadata.json", {})
    write_json(tmp_path / "configs" / "inference.json", {"image_size": 64})
    with pytest.raises(InputError, match=r"has no configs/train.json; it has inference"):
        Bundle(tmp_path).config("train")


def test_a_configuration_can_be_changed_without_changing_the_bundle() -> None:
    bundle = Bundle(LUNG)
    bundle.config("train", {"draws": 3})["network_def"].clear()
    assert bundle.config("train") == load_stage_config(LUNG, "train")


@pytest.mark.parametrize("stage", ["train", "scoring"])
def test_the_best_validation_has_the_lowest_distance(stage: str) -> None:
    parser = ConfigParser(load_stage_config(LUNG, stage))
    is_better = parser.get_parsed_content("validate#evaluator#metric_cmp_fn")
    assert is_better(0.2, 0.3)
    assert not is_better(0.3, 0.2)


@pytest.mark.parametrize("stage", ["train", "scoring"])
def test_validation_does_not_praise_empty_masks(stage: str) -> None:
    """Among crops without a nodule, a network that marks nothing is right, and of no use."""
    parser = ConfigParser(load_stage_config(LUNG, stage))
    dice = parser.get_parsed_content("validate#additional_metrics#dice#metric_fn")
    raters = torch.zeros(3, 2, 4, 4)
    raters[0] = 1.0
    dice(torch.zeros(3, 5, 4, 4), raters)
    assert dice.aggregate().item() == 0.0


def test_bundle_is_not_trained_into_its_own_folder_with_other_settings() -> None:
    with pytest.raises(InputError, match="give another --output-dir"):
        write_run_folder(LUNG, bundles_dir() / LUNG, overrides={"seed": 1})


def test_known_key_is_taken_over() -> None:
    assert load_stage_config(LUNG, "inference", overrides={"num_inference_steps": 3})["num_inference_steps"] == 3


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", BUNDLES)
def test_check_properties(name: str, stage: str, tmp_path: Path) -> None:
    sizes = small_sizes(name)
    root = copy_bundle(name, tmp_path / "bundle", **sizes)
    data = write_prepared(tmp_path / "data", name, training=2, validation=1)
    arguments = {**sizes, "bundle_root": str(root), "dataset_dir": str(data)}
    if stage == "inference":
        arguments["dataset_dir"] = str(data / "images")
    elif STAGE_TYPES[stage] == "train":
        arguments |= {**run_sizes(2), "tracking_uri": None}
        if stage in ("train", "scoring"):
            for codec in ("image_codec", "mask_codec"):
                parser = build_network(root, **sizes)[1]
                save_weights(parser.get_parsed_content(f"{codec}_def"), root / "models" / f"{codec}.pt")
    workflow = ConfigWorkflow(
        config_file=str(root / "configs" / f"{stage}.json"), workflow_type=STAGE_TYPES[stage], **arguments
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.finalize()


def test_verify_net_in_out(bundle: Path) -> None:
    configs = bundle / "configs"
    files = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.json")}
    verify_net_in_out("network_def", device="cpu", **files, **FEW)
    shape = read_metadata(bundle.name)["network_data_format"]["inputs"]["image"]
    with pytest.raises(RuntimeError):
        verify_net_in_out(
            "network_def", device="cpu", **files, **FEW,
            **{"_meta_#network_data_format#inputs#image#num_channels": shape["num_channels"] + 1},
        )  # fmt: skip


def test_scripting_says_what_to_call_instead(bundle: Path, tmp_path: Path) -> None:
    configs = bundle / "configs"
    with pytest.raises(InputError, match=r"cannot be scripted.* --use_trace True"):
        ckpt_export(
            "network_def", filepath=str(tmp_path / "model.ts"), ckpt_file=str(bundle / "models" / "model.pt"),
            meta_file=str(configs / "metadata.json"), config_file=str(configs / "inference.json"),
        )  # fmt: skip


def test_exported_file_gives_the_same_confidence_map(bundle: Path, tmp_path: Path) -> None:
    configs, weights, exported = bundle / "configs", bundle / "models" / "model.pt", tmp_path / "model.ts"
    ckpt_export(
        "network_def", filepath=str(exported), ckpt_file=str(weights), meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"), use_trace=True, **FEW,
    )  # fmt: skip
    parser = ConfigParser()
    parser.read_config(str(configs / "inference.json"))
    parser.update(FEW)
    network = load_weights(parser.get_parsed_content("network_def"), weights).eval()
    side = parser["image_size"]
    torch.manual_seed(3)
    image = torch.rand(1, parser["image_channels"], side, side)
    with torch.no_grad():
        expected, loaded = network(image), torch.jit.load(str(exported))
        found, again = loaded(image), loaded(image)
    assert found.shape == (1, 1, side, side)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    # A traced generator would be at another place in every later call.
    torch.testing.assert_close(again, expected, rtol=0, atol=0)
    if not (bundles_dir() / bundle.name / "models" / "model.pt").is_file():
        # Trained weights may well find nothing in noise; the random ones are made to find half of everything.
        assert expected.unique().numel() == 3


def test_weights_are_small_flat_and_half_precision(bundle: Path) -> None:
    path = bundle / "models" / "model.pt"
    assert path.stat().st_size <= 10 * 2**20
    state = torch.load(path, weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float16}
    network, _ = build_network(bundle)
    assert state.keys() == network.state_dict().keys()
    assert sum(parameter.numel() for parameter in network.parameters()) <= 5_000_000
