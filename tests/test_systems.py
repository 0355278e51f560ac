"""Every system of the literature trains and samples by the same commands: overlays of one configuration."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from small_runs import LUNG, POLYP, SKIN, run_sizes, small_sizes, write_prepared

from medseglatdiff_monai.bundle.config import load_stage_config
from medseglatdiff_monai.bundle.segmenter import load_segmenter
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.evaluation.run import evaluate
from medseglatdiff_monai.networks import OneToOneSegmenter
from medseglatdiff_monai.networks.weights import load_tensors
from medseglatdiff_monai.predict.command import predict
from medseglatdiff_monai.training import handlers as engines
from medseglatdiff_monai.training.record import count_multiply_accumulates
from medseglatdiff_monai.training.run import stage_weights, train

pytestmark = pytest.mark.integration

RUN = {**run_sizes(), "tracking_uri": False, "device": "cpu", "max_val_cases": 2, "val_num_samples": 2}
NETWORK = "network_def#network"
UNET = {f"{NETWORK}#channels": [8, 8, 8], f"{NETWORK}#strides": [1, 2]}
ONE_TO_ONE: dict[str, dict[str, Any]] = {
    "unet": UNET,
    "resunet": {
        f"{NETWORK}#kernel_size": [3, 3, 3], f"{NETWORK}#strides": [1, 2, 2], f"{NETWORK}#filters": [8, 8, 8],
        f"{NETWORK}#upsample_kernel_size": [2, 2],
    },
    "unetpp": {f"{NETWORK}#features": [8] * 6},
    "nnunet": {f"{NETWORK}#base_features": 4},
    "unetr": {f"{NETWORK}#hidden_size": 24, f"{NETWORK}#mlp_dim": 24, f"{NETWORK}#feature_size": 4},
    "swinunetr": {f"{NETWORK}#feature_size": 12, f"{NETWORK}#depths": [1, 1, 1, 1]},
    "swinunet": {f"{NETWORK}#channels": 12, f"{NETWORK}#depths": [1, 1, 1, 1]},
    "transunet": {
        f"{NETWORK}#channels": [8, 8], f"{NETWORK}#hidden_size": 24, f"{NETWORK}#mlp_dim": 24,
        f"{NETWORK}#num_layers": 1,
    },
    "segformer": {f"{NETWORK}#hidden_sizes": [8, 16, 40, 64], f"{NETWORK}#depths": [1, 1, 1, 1]},
    "hyperseg": {f"{NETWORK}#channels": [8, 8, 8, 8, 8], f"{NETWORK}#signal_channels": 8},
    "probabilistic_unet": {"network_def#features": [8] * 6, "network_def#channels": [8, 8]},
}  # fmt: skip
# As on CUDA: not every parameter of four dimensions is a convolution's.
PIXELS = {
    "channels_last": True,
    "image_size": 32, "denoiser_channels": [16, 16, 16], "denoiser_attention_levels": [False, False, True],
    "denoiser_res_blocks": 1, "denoiser_head_channels": 8, "denoiser_norm_groups": 8, "val_num_inference_steps": 2,
}  # fmt: skip
DIFFUSION: dict[str, dict[str, Any]] = {
    "ensemblediff": PIXELS,
    "segdiff": {**PIXELS, "image_embedding_dim": 8, "image_codec_def#num_blocks": 1, "image_codec_def#growth": 4},
    "medsegdiff": PIXELS,
    "medsegdiff_v2": PIXELS,
    "ldseg": {
        key: value for key, value in small_sizes(LUNG).items() if key not in ("mask_num_embeddings", "num_samples")
    },
    "paper": {
        **small_sizes(LUNG), "image_codec_channels": [8] * 3, "mask_codec_channels": [8] * 3,
        "val_num_inference_steps": 2, "val_sampler": "ddim",
    },
}  # fmt: skip
STAGES = {"ldseg": ["mask_codec", "train"], "paper": ["image_codec", "mask_codec", "train"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("prepared") / "lung", LUNG)


@pytest.fixture(scope="module")
def unet_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(LUNG, data, "unet", tmp_path_factory.mktemp("unet") / "run", **RUN, **UNET)


def check_run(run: Path, data: Path, name: str, folder: Path) -> None:
    """The run has what its stages leave, its cost on record, and is evaluated as any other."""
    stages = STAGES.get(name, ["train"])
    assert {path.name for path in (run / "models").iterdir()} == {stage_weights(stage, stages) for stage in stages}
    state = load_tensors(run / "models" / "model.pt")
    assert all(value.isfinite().all() for value in state.values())

    record = json.loads((run / "training.json").read_text())
    assert list(record["stages"]) == stages
    assert all(entry["iterations"] == 2 and entry["minutes"] > 0 for entry in record["stages"].values())
    assert 0 < record["trainable_parameters"] <= record["parameters"]
    assert record["multiply_accumulates"] > 0

    steps = 1 if name in ONE_TO_ONE else 2
    metrics = evaluate(run, data, folder, num_samples=2, num_inference_steps=steps, max_cases=2)
    assert metrics["summary"]["num_cases"] == 2
    assert 0.0 <= metrics["summary"]["ged_v"] <= 2.0
    assert metrics["summary"]["num_inference_steps"] == steps


@pytest.mark.parametrize("name", [*ONE_TO_ONE, *DIFFUSION])
def test_system_trains_and_samples(name: str, data: Path, tmp_path: Path) -> None:
    run = train(LUNG, data, name, tmp_path / "run", **{**RUN, **(ONE_TO_ONE | DIFFUSION)[name]})
    check_run(run, data, name, tmp_path / "scores")


@pytest.mark.parametrize("name", ["nnunet", "segdiff"])
def test_system_trains_on_three_channels(name: str, tmp_path: Path) -> None:
    data = write_prepared(tmp_path / "data", SKIN, training=8, validation=2)
    sizes = {"image_size": 64, **(ONE_TO_ONE | DIFFUSION)[name]}
    run = train(SKIN, data, name, tmp_path / "run", **{**RUN, **sizes})
    check_run(run, data, name, tmp_path / "scores")
    kernel = load_tensors(run / "models" / "model.pt")
    shapes = [tuple(value.shape) for value in kernel.values() if value.ndim == 4 and value.shape[1] == 3]
    assert shapes, "no convolution takes three channels"


@pytest.mark.parametrize("bundle", [LUNG, SKIN, POLYP])
@pytest.mark.parametrize("name", [*ONE_TO_ONE, *DIFFUSION])
def test_overlay_fits_every_bundle_at_its_own_size(name: str, bundle: str) -> None:
    """Networks at their full sizes take the bundle's images; shapes alone are computed."""
    config = load_stage_config(bundle, "inference", name, {"device": "cpu"})
    network = ConfigParser(config).get_parsed_content("network_def").to("meta").eval()
    side = config["image_size"]
    image = torch.empty(1, config["image_channels"], side, side, device="meta")
    if name == "probabilistic_unet":
        # Its noise cannot be drawn on the device meta.
        assert network.network(image).shape == (1, 32, side, side)
        return
    if name in ONE_TO_ONE:
        assert network(image).shape == (1, 1, side, side)
        return
    small = side // network.mask_codec.downsampling
    z_t = torch.empty(1, network.mask_codec.latent_channels, small, small, device="meta")
    timesteps = torch.zeros(1, dtype=torch.long, device="meta")
    assert network.denoise(z_t, timesteps, network.conditioner(image)).shape == z_t.shape


def test_one_to_one_run_predicts_and_loads(unet_run: Path, data: Path, tmp_path: Path) -> None:
    segmenter = load_segmenter(unet_run)
    assert isinstance(segmenter.network, OneToOneSegmenter)
    assert segmenter.inferer.num_samples == 1
    predict(unet_run, data / "images" / "case-0.png", tmp_path, num_samples=3)
    written = {path.name: path for path in tmp_path.iterdir()}
    record = json.loads(written["case-0_prediction.json"].read_text())
    assert record["provenance"]["num_samples"] == 3
    assert record["provenance"]["num_inference_steps"] == 1
    # Three times the same mask.
    assert len(set(record["area_pixels"]["samples"])) == 1
    assert record["area_pixels"]["consensus"] == record["area_pixels"]["samples"][0]


def test_one_to_one_learns_the_discs(data: Path, tmp_path: Path) -> None:
    """A small U-Net finds bright discs in twenty steps: the target, the loss and the threshold belong together."""
    run = train(
        LUNG, data, "unet", tmp_path / "run",
        **{**RUN, **UNET, "max_epochs": 20, "val_interval": 20, "learning_rate": 0.02, "batch_size": 8},
    )  # fmt: skip
    summary = evaluate(run, data, tmp_path / "scores", num_samples=1)["summary"]
    assert summary["dice_network"] > 0.8


def test_training_record_adds_up_over_calls(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Asked at the start and after every iteration: time is up after the second.
    times = iter([0.0, 0.0, 1e6])
    monkeypatch.setattr(engines, "time", SimpleNamespace(monotonic=lambda: next(times)))
    sizes = {**RUN, **UNET, "max_epochs": 2}
    run = train(LUNG, data, "unet", tmp_path / "run", max_minutes=5, **sizes)
    first = json.loads((run / "training.json").read_text())
    monkeypatch.undo()
    assert first["max_minutes"] == 5
    train(LUNG, data, "unet", tmp_path / "run", **sizes)
    second = json.loads((run / "training.json").read_text())
    assert first["stages"]["train"]["iterations"] < second["stages"]["train"]["iterations"] == 4
    assert second["stages"]["train"]["minutes"] > first["stages"]["train"]["minutes"] > 0
    assert second["max_minutes"] is None
    assert second["provenance"]["torch"] == torch.__version__


def test_multiply_accumulates_by_hand() -> None:
    """One convolution of 3 × 3 from 1 to 4 channels on 8 × 8 pixels: 64 · 9 · 4."""
    network = OneToOneSegmenter(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Conv2d(4, 1, 1)))
    assert count_multiply_accumulates(network, torch.zeros(1, 1, 8, 8), 1) == 64 * 9 * 4 + 64 * 4


def test_multiply_accumulates_grow_with_the_steps(make_segmenter) -> None:
    network, image = make_segmenter(), torch.zeros(1, 1, 32, 32)
    costs = [count_multiply_accumulates(network, image, steps) for steps in (1, 2, 10)]
    step = costs[1] - costs[0]
    assert step > 0
    assert costs[2] - costs[1] == pytest.approx(8 * step, rel=1e-6)
    # Conditioner and decoder are in it once.
    assert costs[0] > step


@pytest.mark.parametrize("stages", [["train", "mask_codec"], ["train", "diffusion"], ["scoring", "train"], []])
def test_stages_that_make_no_sense_are_refused(stages: list[str], data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="training_stages"):
        train(LUNG, data, None, tmp_path / "run", training_stages=stages)
    assert not (tmp_path / "run").exists()


def test_spacing_of_the_data_goes_into_the_run(data: Path, tmp_path: Path) -> None:
    run = train(LUNG, data, "nnunet", tmp_path / "run", **RUN, **ONE_TO_ONE["nnunet"])
    assert json.loads((run / "configs" / "inference.json").read_text())["image_spacing_mm"] == [0.7, 0.7]
    # The same call finds the run finished, not another configuration.
    train(LUNG, data, "nnunet", tmp_path / "run", **RUN, **ONE_TO_ONE["nnunet"])


def test_paper_takes_its_weight_and_batch_by_data_set() -> None:
    for bundle, weight, batch in ((LUNG, 50.0, 64), (SKIN, 5.0, 32), (POLYP, 5.0, 32)):
        parser = ConfigParser(load_stage_config(bundle, "train", "paper"))
        assert parser.get_parsed_content("positive_weight") == weight
        assert parser.get_parsed_content("batch_size") == batch
