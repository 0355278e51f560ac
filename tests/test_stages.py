"""Every stage of every bundle, run by ``monai.bundle`` in its order on a few images, each from the stage before."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import run
from small_runs import BUNDLES, DATA, copy_bundle, run_sizes, small_sizes, write_prepared

from medseglatdiff_monai.bundle.config import bundles_dir
from medseglatdiff_monai.networks.weights import stage_finished
from medseglatdiff_monai.training.run import TRAINING_STAGES

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("name", BUNDLES)
def test_stages_run_one_after_the_other(name: str, tmp_path: Path) -> None:
    configs = bundles_dir() / name / "configs"
    data, output = write_prepared(tmp_path / "data", name), tmp_path / "run"
    # All of them, of a bundle that leaves some out by default, too.
    shared = {**small_sizes(name), "training_stages": list(TRAINING_STAGES)}
    shared |= {"bundle_root": str(bundles_dir() / name), "output_dir": str(output)}

    for stage, weights in TRAINING_STAGES.items():
        extra = {"train": {"draws": 2, "val_interval": 1}, "scoring": {"val_interval": 1}}.get(stage, {})
        run(config_file=str(configs / f"{stage}.json"), dataset_dir=str(data), **shared, **run_sizes(), **extra)
        path = output / "models" / weights
        assert stage_finished(path)
        state = torch.load(path, weights_only=True)
        assert all(torch.isfinite(value).all() for value in state.values())
    assert int(state["mask_codec.num_latent_updates"]) == 2
    with sqlite3.connect(output / "mlruns.db") as database:
        keys = {key for (key,) in database.execute("SELECT DISTINCT key FROM latest_metrics")}
    assert {"psnr", "dice", "ged", "perplexity", "codebook_usage"} <= keys
    # A single rater has no distance from another one.
    assert ("ged_unbiased" in keys) == (DATA[name][1] > 1)

    run(
        config_file=str(configs / "evaluate.json"), dataset_dir=str(data),
        **{**shared, "output_dir": str(tmp_path / "scores"), "weights": str(output / "models" / "model.pt")},
    )  # fmt: skip
    summary = json.loads((tmp_path / "scores" / "metrics.json").read_text())["summary"]
    assert summary["num_cases"] == 4
    assert 0.0 <= summary["ged_v"] <= 2.0

    run(
        config_file=str(configs / "inference.json"), dataset_dir=str(data / "images"),
        **{**shared, "output_dir": str(tmp_path / "masks"), "weights": str(output / "models" / "model.pt")},
    )  # fmt: skip
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 24


@pytest.mark.parametrize("name", BUNDLES)
def test_inference_restores_the_native_frame(name: str, tmp_path: Path) -> None:
    sizes = small_sizes(name)
    root = copy_bundle(name, tmp_path / "bundle", **sizes)
    data, output = write_prepared(tmp_path / "data", name, training=1, validation=1), tmp_path / "masks"
    run(
        config_file=str(root / "configs" / "inference.json"),
        **{**sizes, "bundle_root": str(root), "dataset_dir": str(data / "images"), "output_dir": str(output)},
    )
    side = nibabel.load(data / "masks" / "case-0.nii.gz").shape[0]
    masks, maps = [], []
    for path in sorted(output.glob("*.nii.gz")):
        array = np.asarray(nibabel.load(path).dataobj).squeeze()
        assert array.shape == (side, side)
        (masks if array.dtype == np.uint8 else maps).append(array)
    assert len(masks) == len(maps) == 2
    for mask, confidence in zip(masks, maps, strict=True):
        assert 0.05 < mask.mean() < 0.95
        assert set(np.unique(mask)) == {0, 1}
        assert confidence.min() >= 0
        assert confidence.max() <= 1
        if side == 128:
            # The network sees the middle of the crop: nothing is claimed about its rim.
            assert not mask[:32].any()
            assert not mask[:, 96:].any()
