"""A bundle of one's own: what the command writes is what the shipped bundles are, and says what is left to fill in."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, verify_metadata
from PIL import Image
from small_runs import LUNG, RETINA, SKIN, small_sizes, write_prepared

from medseglatdiff_monai.bundle import folders
from medseglatdiff_monai.bundle.build import build_bundle
from medseglatdiff_monai.bundle.check import check_bundle
from medseglatdiff_monai.bundle.config import STAGES, Bundle, load_stage_config
from medseglatdiff_monai.bundle.folders import bundles_dir
from medseglatdiff_monai.bundle.metadata import PLACEHOLDER
from medseglatdiff_monai.bundle.new import new_bundle
from medseglatdiff_monai.cli import main
from medseglatdiff_monai.errors import InputError

SCHEMA = Path(__file__).with_name("metadata_schema.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-alone bundle for prepared grey images of four raters, started from one for RGB."""
    folder = tmp_path_factory.mktemp("own")
    data = write_prepared(folder / "data", LUNG, training=2, validation=1)
    sizes = {key: value for key, value in small_sizes(SKIN).items() if key not in ("image_size", "device")}
    return new_bundle(
        "my_discs", SKIN, folder / "bundles", data, image_size=64, mask_resize="area", modality="phantom", **sizes
    )


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy of configs/ and of one bundle that takes the place of the source tree."""
    root = tmp_path / "tree"
    shutil.copytree(bundles_dir().parent / "configs", root / "configs")
    for name in (SKIN, RETINA):
        shutil.copytree(bundles_dir() / name, root / "bundles" / name, ignore=shutil.ignore_patterns("models"))
    monkeypatch.setattr(folders, "SOURCE_TREE", root)
    # Where `bundles/` would be found before.
    monkeypatch.chdir(root)
    return root


def fill_in(root: Path) -> None:
    for name in ("configs/metadata.json", "docs/README.md", "docs/data_license.txt"):
        path = root / name
        path.write_text(path.read_text().replace(PLACEHOLDER, "Filled in"))


def test_metadata_follows_the_data_and_passes_the_schema(made: Path) -> None:
    path = made / "configs" / "metadata.json"
    verify_metadata(meta_file=str(path), filepath=SCHEMA)
    metadata = json.loads(path.read_text())
    image = metadata["network_data_format"]["inputs"]["image"]
    assert (image["num_channels"], image["spatial_shape"], image["modality"]) == (1, [64, 64], "phantom")
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "disc"}
    assert metadata["label_classes"].startswith("4 channel(s)")
    card = (made / "docs" / "README.md").read_text()
    for needed in ("Not a medical device", "## Limitations", "## Data", "data_license.txt", "(B, 1, 64, 64)"):
        assert needed in card


@pytest.mark.parametrize("stage", STAGES)
def test_stage_is_the_sources_with_the_choices(made: Path, stage: str) -> None:
    own, source = load_stage_config(made, stage), load_stage_config(SKIN, stage)
    assert own.keys() == source.keys()
    changed = {key for key in own if own[key] != source[key]}
    sizes = set(small_sizes(SKIN)) - {"device"}
    assert changed <= sizes | {"image_channels", "image_size", "preprocessing_transforms"}
    assert {"image_channels", "image_size", "preprocessing_transforms"} <= changed


@pytest.mark.parametrize("stage", ["train", "inference"])
def test_check_properties(made: Path, stage: str, tmp_path: Path) -> None:
    data = write_prepared(tmp_path / "data", LUNG, training=2, validation=1)
    if stage == "train":
        arguments = {
            "dataset_dir": str(data), "output_dir": str(tmp_path), "training_stages": ["train"], "tracking_uri": None,
            "batch_size": 2, "cache_workers": 0,
        }  # fmt: skip
    else:
        arguments = {"dataset_dir": str(data / "images"), "network": "$@network_def"}
    workflow = ConfigWorkflow(
        config_file=str(made / "configs" / f"{stage}.json"), workflow_type="train" if stage == "train" else "infer",
        bundle_root=str(made), device="cpu", **arguments,
    )  # fmt: skip
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.finalize()


def test_area_keeps_a_line_that_nearest_loses(tmp_path: Path) -> None:
    mask = np.zeros((128, 128), np.uint8)
    # 128 → 64: by area an output column is the mean of two, of which nearest takes the first and leaves the second.
    mask[:, 31] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(mask).save(tmp_path / "image.png")
    item = {"image": str(tmp_path / "image.png"), "label": str(tmp_path / "mask.png")}
    masks = {}
    for how in ("nearest", "area"):
        root = new_bundle(f"lines_{how}", SKIN, tmp_path, image_size=64, channels=1, mask_resize=how)
        transforms = load_stage_config(root, "inference")["preprocessing_transforms"]
        parser = ConfigParser({"transforms": transforms, "image_size": 64})
        data: dict = item
        for transform in parser.get_parsed_content("transforms"):
            data = transform(data)
        masks[how] = torch.as_tensor(data["label"])[0]
    assert not masks["nearest"].any()
    expected = torch.zeros(64, 64)
    expected[:, 15] = 1
    assert torch.equal(masks["area"].float(), expected)


@pytest.mark.parametrize(
    ("intensities", "values", "expected"),
    [((100, 300), (0, 100, 150, 400), (0.0, 0.0, 0.25, 1.0)), ("image", (10, 20, 30, 50), (0.0, 0.25, 0.5, 1.0))],
)
def test_intensities(intensities: object, values: tuple, expected: tuple, tmp_path: Path) -> None:
    root = new_bundle("grey_values", SKIN, tmp_path, channels=1, intensities=intensities)
    parser = ConfigParser({"scale": load_stage_config(root, "train")["preprocessing_transforms"][-1]})
    scaled = parser.get_parsed_content("scale")({"image": torch.tensor(values, dtype=torch.float32).view(1, 2, 2)})
    np.testing.assert_allclose(np.asarray(scaled["image"]).ravel(), expected, atol=1e-6)


def test_checker_names_every_placeholder_and_then_nothing(made: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made, tmp_path / "my_discs")
    found = check_bundle(root)
    assert {line.split(",")[0] for line in found} == {
        "configs/metadata.json",
        "docs/README.md",
        "docs/data_license.txt",
    }
    assert all(PLACEHOLDER in line for line in found)
    fill_in(root)
    assert check_bundle(root) == []
    metadata = json.loads((root / "configs" / "metadata.json").read_text())
    del metadata["authors"]
    metadata["version"] = "0.2.0"
    metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] = [128, 128]
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (root / "LICENSE").unlink()
    report = "\n".join(check_bundle(root))
    for needed in ("LICENSE: is missing", "no 'authors'", "no entry for version 0.2.0", "[128, 128]"):
        assert needed in report
    assert report.count("\n") == 3


def test_in_the_source_tree_the_choices_become_one_small_file(tree: Path) -> None:
    stages = {"train": {"draws": 3}}
    root = new_bundle("my_own", SKIN, image_size=128, mask_resize="area", batch_size=5, val_interval=7, stages=stages)
    assert root == tree / "bundles" / "my_own"
    own = json.loads((tree / "configs" / "bundles" / "my_own.json").read_text())
    assert own["image_size"] == 128
    # A key that some stages know goes to those alone, and wins over what the source has for a stage (16).
    assert "batch_size" not in own
    assert {stage: block["batch_size"] for stage, block in own["stages"].items()} == dict.fromkeys(
        ("image_codec", "mask_codec", "train", "scoring", "evaluate"), 5
    )
    assert (own["stages"]["train"]["draws"], own["stages"]["train"]["val_interval"]) == (3, 7)
    for stage in STAGES:
        changes = {"image_size": 128, "batch_size": 5, "val_interval": 7, "stages": stages}
        changes["preprocessing_transforms"] = own["preprocessing_transforms"]
        assert load_stage_config(root, stage) == load_stage_config(SKIN, stage, overrides=changes)
    before = {path.name: path.read_text() for path in (root / "configs").iterdir()}
    build_bundle("my_own", destination=root)
    assert before == {path.name: path.read_text() for path in (root / "configs").iterdir()}
    fill_in(root)
    assert check_bundle(root) == []
    own["image_size"] = 64
    (tree / "configs" / "bundles" / "my_own.json").write_text(json.dumps(own))
    assert len([line for line in check_bundle(root) if "differs from configs/" in line]) == len(STAGES)


def test_bundle_from_the_worked_example_inherits_its_choices(tree: Path) -> None:
    new_bundle("my_vessels", RETINA, channels=3, structure="vessel", modality="fundus photography")
    folder = tree / "configs" / "bundles"
    expected = json.loads((folder / f"{RETINA}.json").read_text())
    assert json.loads((folder / "my_vessels.json").read_text()) == expected


@pytest.mark.parametrize("name", ["", "ab", "My_Bundle", "1st", "a-b-c", "../escape", "a b", "x" * 81])
def test_bad_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lower-case"):
        new_bundle(name, SKIN, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"image_size": 100}, "multiple of 32, e.g. 96"),
        ({"image_size": 0}, "at least 1"),
        ({"channels": -1}, "at least 1"),
        ({"mask_resize": "cubic"}, "nearest or area"),
        ({"intensities": (5, 1)}, "LOW,HIGH"),
        ({"denoiser_chanels": [32, 32]}, "denoiser_channels"),
        ({"stages": {"training": {"draws": 1}}}, "training"),
        ({"stages": {"train": {"drows": 1}}}, "draws"),
        ({"denoiser_channels": [30, 30, 30]}, "cannot be built"),
        ({"mask_resize": "area", "preprocessing_transforms": []}, "not both"),
    ],
)
def test_bad_choice_is_refused_and_leaves_nothing(choices: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        new_bundle("my_own", SKIN, tmp_path, **choices)
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_not_touched(tmp_path: Path, tree: Path) -> None:
    (tmp_path / "my_own").mkdir()
    with pytest.raises(InputError, match="exists already"):
        new_bundle("my_own", SKIN, tmp_path)
    with pytest.raises(InputError, match="exists already"):
        new_bundle(RETINA, SKIN)
    (tree / "configs" / "bundles" / "taken.json").write_text("{}")
    with pytest.raises(InputError, match="exists already"):
        new_bundle("taken", SKIN)
    assert not (tree / "bundles" / "taken").exists()


def test_sources_that_do_not_fit_are_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Resized"):
        new_bundle("my_own", LUNG, tmp_path, mask_resize="area")
    with pytest.raises(InputError, match="give --output-dir"):
        new_bundle("my_own", made)
    with pytest.raises(InputError, match="Did you mean"):
        new_bundle("my_own", "skin_lesion", tmp_path)
    data = write_prepared(tmp_path / "data", LUNG, training=1, validation=1)
    with pytest.raises(InputError, match="--channels is 3"):
        new_bundle("my_own", SKIN, tmp_path, data, channels=3)


def test_a_bundle_made_so_can_be_a_source(made: Path, tmp_path: Path) -> None:
    root = new_bundle("second", made, tmp_path, mask_resize="nearest", structure="ring")
    targets = [step["_target_"] for step in load_stage_config(root, "inference")["preprocessing_transforms"]]
    assert targets == [
        step["_target_"] for step in load_stage_config(SKIN, "inference")["preprocessing_transforms"]
    ]  # fmt: skip
    assert Bundle(root).stages_that_know("draws") == ["train"]
    assert Bundle(root).stages_that_know("scoring_samples") == ["scoring"]


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    arguments = ["new-bundle", "my_own", "--from", SKIN, "--output-dir", str(tmp_path), "--image-size", "64"]
    arguments += ["--intensities", "0,4095", "--channels", "1", "--num_samples", "7"]
    monkeypatch.setattr(sys, "argv", ["medseglatdiff", *arguments])
    main()
    printed = capsys.readouterr().out
    assert str(tmp_path / "my_own") in printed
    assert f" things to fill in before you share it: medseglatdiff check-bundle {tmp_path / 'my_own'}\n" in printed
    config = load_stage_config(tmp_path / "my_own", "evaluate")
    assert (config["image_size"], config["image_channels"], config["preprocessing_transforms"][-1]["a_max"]) == (
        64, 1, 4095.0,
    )  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["medseglatdiff", "check-bundle", str(tmp_path / "my_own")])
    with pytest.raises(SystemExit, match=r"things? to mend:"):
        main()
    monkeypatch.setattr(sys, "argv", ["medseglatdiff", "new-bundle", "other"])
    with pytest.raises(SystemExit):
        main()
