"""Every ablation, LSegDiff and the volumetric variant: built from its overlay, trained for two steps, and sampled."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import LUNG, run_sizes, small_sizes, write_prepared

from medseglatdiff_monai.bundle.config import load_experiment, load_stage_config
from medseglatdiff_monai.bundle.segmenter import load_segmenter
from medseglatdiff_monai.data.prepare import prepare
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.evaluation.run import evaluate
from medseglatdiff_monai.integrations.export.torchscript import export_torchscript
from medseglatdiff_monai.networks.weights import load_tensors
from medseglatdiff_monai.training.losses import automatic_positive_weight
from medseglatdiff_monai.training.run import train

pytestmark = pytest.mark.integration

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "experiments"
ABLATIONS = sorted(f"ablations/{path.stem}" for path in (FOLDER / "ablations").glob("*.json"))
# Which codecs an overlay trains otherwise than the default; the others are taken from one run.
OWN_CODECS = {
    "ablations/kl": {"image_codec", "mask_codec"},
    **{f"ablations/{name}": {"mask_codec"} for name in (
        "continuous", "focal", "dice", "mask_mse", "w1", "w50", "wauto"
    )},
    "lsegdiff": {"mask_codec"},
}  # fmt: skip
SIZES = {
    **{key: value for key, value in small_sizes(LUNG).items() if key != "num_inference_steps"}, **run_sizes(),
    "image_size": 32, "draws": 2, "val_num_samples": 2, "val_interval": 1, "max_val_cases": 2, "tracking_uri": False,
}  # fmt: skip
INFERENCE_KEYS = set(load_stage_config(LUNG, "inference"))
# These the overlays choose themselves.
OWN_SIZES = {"ablations/continuous": {"mask_num_embeddings"}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("prepared") / "data", LUNG, 8, 2)


@pytest.fixture(scope="module")
def codecs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of a default run."""
    return train(LUNG, data, output_dir=tmp_path_factory.mktemp("codecs") / "run", **SIZES) / "models"


def run_variant(experiment: str, data: Path, codecs: Path, output: Path) -> Path:
    (output / "models").mkdir(parents=True)
    for stage in ("image_codec", "mask_codec"):
        if stage not in OWN_CODECS.get(experiment, set()):
            shutil.copyfile(codecs / f"{stage}.pt", output / "models" / f"{stage}.pt")
    own = OWN_SIZES.get(experiment, set())
    return train(LUNG, data, experiment, output, **{key: value for key, value in SIZES.items() if key not in own})


def draw(network, image: torch.Tensor, number: int, steps: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents and logits of an ensemble; a codec that was hardly trained may decode all latents alike."""
    latents, decode = [], network.decode_latents
    network.decode_latents = lambda x_0: latents.append(x_0) or decode(x_0)
    logits = network.ensemble_logits(image, number, 0, num_inference_steps=steps)
    network.decode_latents = decode
    assert bool(logits.isfinite().all())
    return torch.cat(latents), logits


def test_the_list_of_ablations_is_that_of_the_issue() -> None:
    names = {name.removeprefix("ablations/") for name in ABLATIONS}
    assert names >= {
        "kl", "quantised", "continuous", "focal", "dice", "w1", "w5", "w50", "wauto", "guidance", "rflow",
        "frozen_encoder", "consensus_target", "epsilon", "v_prediction", "pixels_scale",
    }  # fmt: skip


@pytest.mark.parametrize("experiment", [*ABLATIONS, "lsegdiff"])
def test_variant_trains_and_samples(experiment: str, data: Path, codecs: Path, tmp_path: Path) -> None:
    run = run_variant(experiment, data, codecs, tmp_path / "run")
    state = load_tensors(run / "models" / "model.pt")
    assert all(bool(value.isfinite().all()) for value in state.values())
    segmenter = load_segmenter(run)
    image = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    latents, logits = draw(segmenter.network, image, 3)
    assert logits.shape == (2, 3, 32, 32)
    assert not torch.equal(latents[0], latents[1])
    # What the overlay says is what the network is.
    network, overlay = segmenter.network, load_experiment(experiment)[-1]
    for name in ("condition_dropout", "guidance_scale", "sampler"):
        assert getattr(network, name) == overlay.get(name, load_stage_config(LUNG, "train")[name])
    for name in ("prediction_type", "input_scale"):
        if name in overlay:
            assert getattr(network.process, name) == overlay[name]
    weight = float(network.mask_codec.positive_weight)
    if experiment == "ablations/wauto":
        labels = [torch.as_tensor(item["label"]) > 0 for item in training_items(run, data)]
        marked = [label[label.flatten(1).any(1)] for label in labels]
        assert weight == pytest.approx(automatic_positive_weight(marked), rel=1e-3)
        assert not math.isclose(weight, 5.0, rel_tol=0.01)
    else:
        assert weight == overlay.get("positive_weight", 5.0)


def training_items(run: Path, data: Path):
    from monai.bundle import ConfigParser

    parser = ConfigParser(load_stage_config(run, "mask_codec", overrides={"dataset_dir": str(data)}))
    assert math.isclose(
        parser.get_parsed_content("train#loss").positive_weight,
        float(parser.get_parsed_content("network_def").positive_weight),
    )
    return parser.get_parsed_content("train#dataset")


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize(
    ("experiment", "sampler"),
    [
        (None, "direct"), (None, "dpm++"), (None, "ddim"), (None, "ddpm"),
        ("ablations/rflow", "rflow"), ("ablations/rflow", "direct"),
    ],
)  # fmt: skip
def test_few_steps_sample(experiment, sampler, steps: int, codecs: Path, data: Path, tmp_path: Path) -> None:
    """The sweep of steps is an override of evaluation: it needs no training of its own."""
    config = {key: value for key, value in SIZES.items() if key in INFERENCE_KEYS}
    segmenter = load_segmenter(LUNG, codecs / "model.pt", experiment, **config, sampler=sampler)
    assert draw(segmenter.network, torch.rand(1, 1, 32, 32), 2, steps)[1].shape == (1, 2, 32, 32)


def test_guidance_is_an_override_of_sampling(codecs: Path) -> None:
    config = {key: value for key, value in SIZES.items() if key in INFERENCE_KEYS}

    def load(**overrides):
        return load_segmenter(LUNG, codecs / "model.pt", "ablations/guidance", **config, **overrides).network

    weak, strong, off = load(), load(guidance_scale=2.0), load(guidance_scale=0.0)
    assert (weak.guidance_scale, strong.guidance_scale, off.guidance_scale) == (0.3, 2.0, 0.0)
    image = torch.rand(1, 1, 32, 32)
    latents = [draw(network, image, 2)[0] for network in (weak, strong, off)]
    assert not torch.equal(latents[0], latents[1])
    assert not torch.equal(latents[0], latents[2])
    with pytest.raises(InputError, match="condition_dropout"):
        load_segmenter(LUNG, codecs / "model.pt", None, **config, guidance_scale=0.3)


@pytest.mark.parametrize("experiment", ["ablations/guidance", "ablations/rflow"])
def test_exported_variant_equals_the_network(experiment: str, codecs: Path, data: Path, tmp_path: Path) -> None:
    run = run_variant(experiment, data, codecs, tmp_path / "run")
    path = export_torchscript(run, tmp_path / "model.ts", num_inference_steps=2)
    network = load_segmenter(run, num_inference_steps=2).network
    image = torch.rand(1, 1, 32, 32)
    noise = network.draw_noise(image, network.num_samples, 5, [""], network.count_passes())
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(str(path))(image, noise), network(image, noise))


VOLUME_SIZES = {
    "image_size": 16, "image_codec_channels": [8, 8], "mask_codec_channels": [8, 8], "image_embedding_dim": 4,
    "image_num_embeddings": 16, "mask_num_embeddings": 16, "denoiser_channels": [16, 16],
    "denoiser_head_channels": 8, "denoiser_norm_groups": 8, "num_samples": 2, "num_inference_steps": 2,
    "val_num_samples": 2, "val_interval": 1, "max_epochs": 2, "batch_size": 2, "cache_workers": 0,
    "warmup_iterations": 1, "tracking_uri": False, "device": "cpu",
}  # fmt: skip


def test_volumes_train_and_sample(tmp_path: Path) -> None:
    data = prepare(
        "phantom", output_dir=tmp_path / "data", num_cases=5, crop=24, depth=12, ratios="3:1:1", workers=1
    ).parent
    with pytest.raises(InputError, match="3 dimensions, the configuration expects 2"):
        train(LUNG, data, None, tmp_path / "flat", tracking_uri=False)
    run = train(LUNG, data, "volumetric", tmp_path / "run", **VOLUME_SIZES, cache_latents=True)
    segmenter = load_segmenter(run)
    assert segmenter.image_size == (16, 16, 16)
    item = json.loads((data / "dataset.json").read_text())["validation"][0]
    image = segmenter.preprocessing({"image": str(data / item["image"])})["image"][None]
    assert image.shape == (1, 1, 16, 16, 16)
    result = segmenter.inferer(image, segmenter.network, ["case"])
    assert result["samples"].shape == (1, 2, 16, 16, 16)
    assert result["confidence_map"].shape == (1, 1, 16, 16, 16)
    assert segmenter.network(image.as_tensor()).shape == (1, 1, 16, 16, 16)
    summary = evaluate(run, data, tmp_path / "scores", num_samples=2)["summary"]
    assert summary["num_cases"] == 1
    assert 0.0 <= summary["ged_v"] <= 2.0
    path = export_torchscript(run, tmp_path / "model.ts")
    noise = segmenter.network.draw_noise(image, 2, 0, [""], segmenter.network.count_passes())
    with torch.no_grad():
        torch.testing.assert_close(
            torch.jit.load(str(path))(image.as_tensor(), noise), segmenter.network(image.as_tensor(), noise)
        )


@pytest.mark.parametrize("experiment", ["ablations/kl", "ablations/rflow", "ablations/guidance"])
def test_variants_of_volumes(experiment: str, tmp_path: Path) -> None:
    """Overlays combine: one is based on the other."""
    overlay = {"based_on": "volumetric", **load_experiment(experiment)[-1]}
    (tmp_path / "both.json").write_text(json.dumps(overlay))
    config = {key: value for key, value in VOLUME_SIZES.items() if key in INFERENCE_KEYS}
    root = load_stage_config(LUNG, "inference", tmp_path / "both.json", config)
    from monai.bundle import ConfigParser

    network = ConfigParser(root).get_parsed_content("network_def").eval()
    logits = network.ensemble_logits(torch.rand(1, 1, 16, 16, 16), 2)
    assert logits.shape == (1, 2, 16, 16, 16)


@pytest.mark.data
def test_real_nodules_as_volumes(unpack, tmp_path: Path) -> None:
    """Crops of four raters, stacked along the nodule, go through the folder source into training."""
    source = unpack("lidc_idri_slices_train_val.tar.xz", r"LIDC-IDRI-000[1-4]/.*\.png$", r"LIDC-IDRI-000[5-9]/")
    nodules = sorted(path.parent for path in source.rglob("images") if len(list(path.iterdir())) >= 4)
    assert len(nodules) >= 3
    for nodule in nodules:
        for folder in ("images", *(f"mask-{slot}" for slot in range(4))):
            slices = sorted((nodule / folder).glob("slice-*.png"), key=lambda path: int(path.stem.split("-")[1]))
            volume = np.stack([np.asarray(Image.open(path).convert("L")) for path in slices], axis=-1)
            target = tmp_path / "mine" / folder.replace("mask-", "masks-")
            target.mkdir(parents=True, exist_ok=True)
            name = f"{nodule.parent.name}_{nodule.name}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(volume.swapaxes(0, 1).astype(np.int16), np.eye(4)), target / name)
    data = prepare("folder", tmp_path / "mine", output_dir=tmp_path / "data", volumes=True, ratios="2:1:0", workers=1)
    run = train(LUNG, data.parent, "volumetric", tmp_path / "run", **{**VOLUME_SIZES, "image_size": 32})
    segmenter = load_segmenter(run)
    item = json.loads(data.read_text())["validation"][0]
    loaded = segmenter.preprocessing({key: str(data.parent / item[key]) for key in ("image", "label")})
    assert loaded["image"].shape == (1, 32, 32, 32)
    assert loaded["label"].shape == (4, 32, 32, 32)
    assert bool(loaded["label"].any())
    logits = segmenter.network.ensemble_logits(loaded["image"].as_tensor()[None], 2)
    assert logits.shape == (1, 2, 32, 32, 32)
    assert bool(logits.isfinite().all())
