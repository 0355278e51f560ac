"""Training a bundle stage by stage: order, skipping, interruption and resumption, refusals, tracking."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_runs import LUNG, SKIN, run_sizes, small_sizes, write_prepared

from medseglatdiff_monai.bundle.config import load_stage_config
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.io.prepared import LoadCased
from medseglatdiff_monai.networks.encoders import EncoderContext, load_published_weights
from medseglatdiff_monai.networks.weights import load_tensors
from medseglatdiff_monai.training import handlers as engines
from medseglatdiff_monai.training import stages as training
from medseglatdiff_monai.training.handlers import GradientClipping
from medseglatdiff_monai.training.run import TRAINING_STAGES, train

pytestmark = pytest.mark.integration

# The codecs differ in their latents' length, so that tests can tell them apart.
SIZES = {
    **small_sizes(LUNG), **run_sizes(), "mask_embedding_dim": 3, "draws": 2, "val_interval": 1, "val_num_samples": 2,
    "max_epochs": 2, "tracking_uri": False, "plan": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("prepared") / "data", LUNG)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs of two iterations a stage, never interrupted."""
    return train(LUNG, data, output_dir=tmp_path_factory.mktemp("whole") / "run", **SIZES)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages that a call of ``train`` starts."""
    names: list[str] = []

    class Recorded(training.ConfigWorkflow):
        def __init__(self, config_file: str, **arguments: Any) -> None:
            names.append(Path(config_file).stem)
            super().__init__(config_file=config_file, **arguments)

    monkeypatch.setattr(training, "ConfigWorkflow", Recorded)
    return names


def read_models(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {path.name: load_tensors(path) for path in (run / "models").iterdir()}


def assert_same_weights(run: Path, reference: Path) -> None:
    found, expected = read_models(run), read_models(reference)
    assert found.keys() == expected.keys() == set(TRAINING_STAGES.values())
    for name, state in expected.items():
        assert found[name].keys() == state.keys()
        different = [key for key, value in state.items() if not torch.equal(found[name][key], value)]
        assert different == [], name


def test_stages_as_one_word_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="training_stages"):
        train(LUNG, data, output_dir=tmp_path / "run", stages="scoring", **SIZES)
    assert not (tmp_path / "run").exists()


def test_stages_that_do_not_fit_the_sampler_are_refused_before_anything_is_trained(data: Path, tmp_path: Path) -> None:
    stages = ["image_codec", "mask_codec", "train"]
    with pytest.raises(InputError, match="--sampler dpm"):
        train(LUNG, data, output_dir=tmp_path / "run", training_stages=stages, **SIZES)
    with pytest.raises(InputError, match="--prediction_type sample"):
        train(LUNG, data, output_dir=tmp_path / "run", prediction_type="epsilon", **SIZES)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stage", ["train", "scoring"])
def test_channels_last_trains_the_same_weights(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """The memory format that CUDA takes by default changes the order of sums alone."""
    formats = []

    class Recorded(training.ConfigWorkflow):
        def finalize(self) -> None:
            weight = self.parser.get_parsed_content("network").segmenter.denoiser.conv_in.conv.weight
            formats.append(weight.is_contiguous(memory_format=torch.channels_last))
            super().finalize()

    monkeypatch.setattr(training, "ConfigWorkflow", Recorded)
    weights = whole / "models" / "model.pt"
    small = {**SIZES, "max_epochs": 1, "initial_weights": weights, "training_stages": [stage]}
    if stage == "train":
        small["sampler"] = "dpm++"
    plain, found = (
        load_tensors(
            train(LUNG, data, output_dir=tmp_path / str(chosen), channels_last=chosen, **small) / "models/model.pt"
        )
        for chosen in (False, True)
    )
    assert formats == [False, True]
    assert all(value.is_contiguous() for value in found.values())
    for name, value in plain.items():
        torch.testing.assert_close(found[name].float(), value.float(), rtol=0.02, atol=2e-3, msg=name)
    before = load_tensors(weights)
    assert any(name.startswith("denoiser") and not torch.equal(value, found[name]) for name, value in before.items())


def test_every_image_is_read_once(data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    class Counted(LoadCased):
        def __call__(self, data: Any, *args: Any, **kwargs: Any) -> Any:
            read.append(data["case"])
            return super().__call__(data, *args, **kwargs)

    monkeypatch.setattr("medseglatdiff_monai.io.prepared.LoadCased", Counted)
    train(LUNG, data, output_dir=tmp_path, initial_weights=whole / "models" / "model.pt", **{**SIZES, "max_epochs": 3})
    assert sorted(read) == sorted(f"case-{number}" for number in range(12))


def test_stages_run_in_order_and_finished_ones_are_skipped(data: Path, tmp_path: Path, started: list[str]) -> None:
    output = train(LUNG, data, output_dir=tmp_path, **{**SIZES, "max_epochs": 1})
    assert output == tmp_path
    assert started == list(TRAINING_STAGES)
    times = {path: path.stat().st_mtime_ns for path in (output / "models").iterdir()}
    assert {path.name for path in times} == {"image_codec.pt", "mask_codec.pt", "diffusion.pt", "model.pt"}

    train(LUNG, data, output_dir=tmp_path, **{**SIZES, "max_epochs": 1})
    assert started == list(TRAINING_STAGES)
    assert {path: path.stat().st_mtime_ns for path in (output / "models").iterdir()} == times

    (output / "models" / "model.pt").unlink()
    train(LUNG, data, output_dir=tmp_path, **{**SIZES, "max_epochs": 1})
    assert started == [*TRAINING_STAGES, "scoring"]


def test_checkpoints_hold_latent_statistics_and_positive_weight(whole: Path) -> None:
    models = read_models(whole)
    codec, model = models["mask_codec.pt"], models["model.pt"]
    assert models["diffusion.pt"].keys() == model.keys()
    assert int(codec["num_latent_updates"]) == 4
    assert codec["latent_mean"].shape == codec["latent_std"].shape == (3,)
    assert not torch.equal(codec["latent_std"], torch.ones(3).half())
    assert float(codec["positive_weight"]) == 5.0
    for name, value in codec.items():
        # The composite network takes the codec as it is.
        for later in ("diffusion.pt", "model.pt"):
            torch.testing.assert_close(models[later][f"mask_codec.{name}"], value, rtol=0, atol=0)
    assert int(models["image_codec.pt"]["num_latent_updates"]) == 4
    assert int(model["conditioner.codec.num_latent_updates"]) == 4
    assert {value.dtype for value in model.values() if value.is_floating_point()} == {torch.float16}


def test_run_that_failed_in_each_stage_ends_as_if_it_had_not(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[str]
) -> None:
    """Every stage breaks off in the middle of its second epoch, once."""
    original, broken = GradientClipping.__call__, set()

    def fail_once(self: GradientClipping, engine: Any) -> None:
        if engine.state.iteration == 4 and started[-1] not in broken:
            broken.add(started[-1])
            raise ConnectionError("the disk went away")
        original(self, engine)

    monkeypatch.setattr(GradientClipping, "__call__", fail_once)
    for weights in TRAINING_STAGES.values():
        with pytest.raises(RuntimeError, match="Failed to evaluate"):
            train(LUNG, data, output_dir=tmp_path, **SIZES)
        state = load_tensors(tmp_path / "models" / f"training_state_{weights}")
        assert (state["epoch"], state["iteration"]) == (1, 2)
    train(LUNG, data, output_dir=tmp_path, **SIZES)
    assert started == [stage for stage in TRAINING_STAGES for _ in range(2)]
    assert_same_weights(tmp_path, whole)


@pytest.mark.parametrize("iterations", [2, 3, 4])
@pytest.mark.parametrize("stage", ["image_codec", "scoring"])
def test_run_whose_time_was_up_goes_on(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, iterations: int
) -> None:
    models, weights = tmp_path / "models", TRAINING_STAGES[stage]
    if stage == "scoring":
        shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
        (models / weights).unlink()
    before = {path.name for path in models.glob("*")}
    clock = SimpleNamespace(calls=-1)

    def monotonic() -> float:
        # Asked at the start and after every iteration.
        clock.calls += 1
        return 0.0 if clock.calls < iterations else 1e6

    monkeypatch.setattr(engines, "time", SimpleNamespace(monotonic=monotonic))
    train(LUNG, data, output_dir=tmp_path, max_minutes=10_000, **SIZES)
    assert {path.name for path in models.iterdir()} - before == {weights, f"training_state_{weights}"}
    assert load_tensors(models / f"training_state_{weights}")["iteration"] == iterations
    monkeypatch.undo()
    train(LUNG, data, output_dir=tmp_path, max_minutes=10_000, **SIZES)
    assert int(read_models(tmp_path)["image_codec.pt"]["num_latent_updates"]) == 4
    if iterations == 3:
        assert read_models(tmp_path).keys() == read_models(whole).keys()
    else:
        assert_same_weights(tmp_path, whole)


def test_a_run_does_not_go_on_with_another_data_set(whole: Path, data: Path, tmp_path: Path) -> None:
    other = write_prepared(tmp_path / "other", LUNG, training=5)
    with pytest.raises(InputError, match="trained on another data set"):
        train(LUNG, other, output_dir=whole, **SIZES)
    train(LUNG, data, output_dir=whole, **SIZES)


def test_no_time_at_all_starts_nothing_more(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[str]
) -> None:
    times = iter([0.0, 1e6])
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: next(times)))
    train(LUNG, data, output_dir=tmp_path, max_minutes=1, **SIZES)
    assert started == []


@pytest.mark.parametrize("minutes", [0, -2])
def test_time_limit_must_be_positive(data: Path, tmp_path: Path, minutes: float) -> None:
    with pytest.raises(InputError, match="--max-minutes"):
        train(LUNG, data, output_dir=tmp_path / "run", max_minutes=minutes, **SIZES)
    assert not (tmp_path / "run").exists()


def test_several_processes_are_sent_to_the_bundles_own_overlays(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"WORLD_SIZE=2.*monai\.bundle run.*multi_gpu_"):
        train(LUNG, data, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_network_sizes_do_not_resume(data: Path, whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(InputError, match=r"another configuration.*--output-dir"):
        train(LUNG, data, output_dir=run, **{**SIZES, "denoiser_channels": [16, 32]})
    assert json.loads((run / "configs" / "train.json").read_text())["denoiser_channels"] == [16, 16]
    assert_same_weights(run, whole)


def test_codec_weights_of_other_sizes_are_refused(data: Path, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for name in ("image_codec.pt", "mask_codec.pt"):
        shutil.copyfile(whole / "models" / name, tmp_path / "models" / name)
    with pytest.raises(InputError, match=r"mask_codec\.pt do not fit the network"):
        train(LUNG, data, output_dir=tmp_path, **{**SIZES, "mask_embedding_dim": 5})
    assert not (tmp_path / "models" / "model.pt").exists()


def test_more_epochs_or_less_memory_are_no_other_configuration(
    data: Path, whole: Path, tmp_path: Path, started: list[str]
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    train(LUNG, data, output_dir=run, **{**SIZES, "max_epochs": 3, "cache_rate": 0.0})
    assert started == []


def test_unknown_override_names_the_nearest_and_leaves_nothing(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'learning_rat'.*Did you mean 'learning_rate'"):
        train(LUNG, data, output_dir=tmp_path / "run", learning_rat=0.1)
    assert not (tmp_path / "run").exists()


def test_unknown_experiment_names_the_nearest(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Did you mean 'paper'"):
        train(LUNG, data, experiment="papre", output_dir=tmp_path / "run")


def test_data_that_does_not_fit_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="images of 1 channels, the bundle expects 3"):
        train(SKIN, data, output_dir=tmp_path / "run")
    with pytest.raises(InputError, match=r"dataset\.json is missing"):
        train(LUNG, tmp_path, output_dir=tmp_path / "run")
    info = json.loads((data / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**info, "validation": []}))
    with pytest.raises(InputError, match="validation part"):
        train(LUNG, tmp_path, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unreadable_image_is_named(data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(data, tmp_path / "data")
    (folder / "images" / "case-3.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"case-3\.png"):
        train(LUNG, folder, output_dir=tmp_path / "run", **SIZES)


def test_diffusion_of_pixels_is_the_same_program(data: Path, tmp_path: Path, started: list[str]) -> None:
    sizes = {key: value for key, value in SIZES.items() if "codec_" not in key and "embedding" not in key}
    sizes |= {"image_size": 32, "max_epochs": 1}
    run = train(LUNG, data, experiment="ensemblediff", output_dir=tmp_path / "run", **sizes)
    assert started == ["train"]
    assert list(read_models(run)) == ["model.pt"]


def test_experiment_of_the_paper(data: Path, tmp_path: Path) -> None:
    config = load_stage_config(LUNG, "train", "paper")
    assert len(config["image_codec_channels"]) == len(config["mask_codec_channels"]) == 3
    assert config["denoiser_channels"] == [64, 128, 256]
    assert (config["prediction_type"], config["sampler"]) == ("epsilon", "ddpm")
    assert config["num_train_timesteps"] == config["num_inference_steps"] == 1000
    assert config["correct_logits"] is False
    small = {
        **SIZES, "max_epochs": 1, "image_codec_channels": [8, 8, 8], "mask_codec_channels": [8, 8, 8],
    }  # fmt: skip
    run = train(LUNG, data, experiment="paper", output_dir=tmp_path, **small)
    codec = read_models(run)["mask_codec.pt"]
    assert read_models(run).keys() == {"image_codec.pt", "mask_codec.pt", "model.pt"}
    assert all(value.isfinite().all() for value in codec.values())
    written = json.loads((run / "configs" / "inference.json").read_text())
    assert (written["prediction_type"], written["sampler"]) == ("epsilon", "ddpm")
    assert written["quantize_mask_latents"] is True


def test_runs_are_tracked_in_one_file(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sizes = {key: value for key, value in SIZES.items() if key != "tracking_uri"}
    run = train(LUNG, data, output_dir=tmp_path, **{**sizes, "batch_size": 2, "max_epochs": 5})
    with sqlite3.connect(run / "mlruns.db") as database:
        rows = database.execute(
            "SELECT name, runs.status, key, value, step FROM runs JOIN metrics USING (run_uuid)"
        ).fetchall()
    stages = set(TRAINING_STAGES) - {"train"} | {"diffusion"}
    # Beside the stages their parent, with what came out of each.
    assert {name for name, *_ in rows} == stages | {run.name}
    assert {f"{stage}.minutes" for stage in stages} <= {key for name, _, key, *_ in rows if name == run.name}
    assert {status for _, status, *_ in rows} == {"FINISHED"}
    # Twenty iterations a stage: the loss is noted once.
    losses = {name: (value, step) for name, _, key, value, step in rows if key == "Loss"}
    assert len(losses) == len(TRAINING_STAGES)
    assert all(value > 0 and step == 20 for value, step in losses.values())


def test_tracking_is_off_on_demand(whole: Path) -> None:
    assert not (whole / "mlruns.db").exists()
    assert not list(whole.glob("mlruns*"))


@pytest.mark.parametrize("stages", [["image_codec", "mask_codec", "train", "scoring"], ["mask_codec", "train"]])
def test_a_run_goes_on_from_finished_weights_with_its_last_stage_alone(data, whole, started, tmp_path, stages):
    weights = whole / "models" / "model.pt"
    sizes = {**SIZES, "learning_rate": 0.0, "training_stages": stages}
    if stages[-1] == "train":
        sizes["sampler"] = "dpm++"
    run = train(LUNG, data, output_dir=tmp_path / "run", initial_weights=weights, **sizes)
    assert started == stages[-1:]
    assert list(read_models(run)) == ["model.pt"]
    # Without a learning rate the new weights are the old ones, up to the average's rounding.
    before, after = load_tensors(weights), load_tensors(run / "models" / "model.pt")
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=2e-3, atol=1e-5)


def test_weights_to_go_on_from_must_be_there_and_fit(data, whole, tmp_path):
    with pytest.raises(InputError, match=r"No weights at .*none\.pt"):
        train(LUNG, data, output_dir=tmp_path / "run", initial_weights=tmp_path / "none.pt", **SIZES)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="do not fit the network"):
        train(LUNG, data, output_dir=tmp_path / "run", initial_weights=whole / "models" / "mask_codec.pt", **SIZES)
    assert not (tmp_path / "run" / "models" / "model.pt").exists()


def test_an_image_encoder_starts_from_its_published_weights_and_is_kept_by_the_scoring_stage(tmp_path: Path) -> None:
    """The skin bundle with its encoder: a learning rate of 0 shows where each stage starts, another that it learns."""
    prefix = "conditioner.image_encoder.encoder."
    data = write_prepared(tmp_path / "data", SKIN, training=4, validation=1)
    sizes = {**SIZES, **small_sizes(SKIN), "max_epochs": 1, "image_encoder": "efficientnet-lite0", "learning_rate": 0.0}
    run = train(SKIN, data, output_dir=tmp_path / "run", **sizes)
    models = read_models(run)
    assert models.keys() == set(TRAINING_STAGES.values())
    holder = torch.nn.ModuleDict({"context": EncoderContext("efficientnet-lite0", 4, 8)})
    load_published_weights(holder)
    parameters = dict(holder["context"].encoder.named_parameters())
    assert len(parameters) > 100
    for name, value in parameters.items():
        for file in ("diffusion.pt", "model.pt"):
            # Stored in half precision, after two roundings in the scoring stage.
            torch.testing.assert_close(models[file][prefix + name].float(), value.data, rtol=2e-3, atol=1e-5)

    # Weights to go on from bring theirs along, of which all parts learn.
    sizes |= {"learning_rate": 1e-3, "published_encoder": False}
    after = read_models(
        train(SKIN, data, output_dir=tmp_path / "on", initial_weights=run / "models" / "model.pt", **sizes)
    )["model.pt"]
    moved = [name for name in after if not torch.equal(after[name], models["model.pt"][name])]
    for part in (f"{prefix}stem.", f"{prefix}stacks.6.", "conditioner.image_encoder.to_mean_mask.", "denoiser."):
        assert any(name.startswith(part) for name in moved), part
    torch.testing.assert_close(
        after[f"{prefix}stem.1.weight"].float(), parameters["stem.1.weight"].data, rtol=0.05, atol=0.01
    )
