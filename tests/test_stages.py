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
from PIL import Image
from small_runs import BUNDLES, DATA, run_sizes, small_sizes, write_prepared, write_small_bundle

from medseglatdiff_monai.bundle.folders import bundles_dir
from medseglatdiff_monai.networks.weights import stage_finished
from medseglatdiff_monai.predict import predict
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
    assert len(list((tmp_path / "masks").glob("*.png"))) == 24


@pytest.mark.parametrize("name", BUNDLES)
def test_monai_alone_writes_what_predict_writes(name: str, tmp_path: Path) -> None:
    """Pictures that are not square; for the lung bundle also a small one, and slices stored along two kinds of axes."""
    root, images = write_small_bundle(tmp_path / "bundle", name), tmp_path / "images"
    images.mkdir()
    channels = DATA[name][0]
    rng = np.random.default_rng(0)
    for stem, size in {"wide": (72, 150), "tall": (140, 90), "small": (40, 52)}.items():
        pixels = np.kron(rng.integers(0, 256, (size[0] // 2, size[1] // 2, channels)), np.ones((2, 2, 1)))
        Image.fromarray(pixels.astype(np.uint8).squeeze()).save(images / f"{stem}.png")
    if channels == 1:
        voxels = np.kron(rng.integers(-900, 300, (75, 40)), np.ones((2, 2)))[..., None].astype(np.int16)
        for stem, affine in (("ras", np.diag([0.7, 0.6, 2.0, 1.0])), ("lps", np.diag([-0.7, -0.6, 2.0, 1.0]))):
            nibabel.save(nibabel.Nifti1Image(voxels, affine), images / f"{stem}.nii.gz")
    files = sorted(images.iterdir())
    run(
        config_file=str(root / "configs" / "inference.json"),
        bundle_root=str(root), dataset_dir=str(images), output_dir=str(tmp_path / "masks"),
    )  # fmt: skip
    for result in predict(root, files, tmp_path / "predicted"):
        for kind in ("consensus", "confidence"):
            expected = Path(result["files"][kind])
            found = tmp_path / "masks" / expected.name
            if expected.suffix == ".png":
                mask, other = np.asarray(Image.open(found)), np.asarray(Image.open(expected))
                assert mask.shape == tuple(result["input"]["shape"])
            else:
                one, two = nibabel.load(found), nibabel.load(expected)
                np.testing.assert_array_equal(one.affine, two.affine)
                assert one.get_data_dtype() == two.get_data_dtype()
                mask, other = np.asarray(one.dataobj), np.asarray(two.dataobj)
            np.testing.assert_array_equal(mask, other)
            assert len(np.unique(mask)) > 1
    assert len(list((tmp_path / "masks").iterdir())) == 2 * len(files)


def test_monai_alone_refuses_a_volume(tmp_path: Path) -> None:
    root = write_small_bundle(tmp_path / "bundle")
    (tmp_path / "images").mkdir()
    nibabel.save(nibabel.Nifti1Image(np.zeros((70, 70, 3), np.int16), np.eye(4)), tmp_path / "images" / "scan.nii.gz")
    with pytest.raises(RuntimeError) as caught:
        run(
            config_file=str(root / "configs" / "inference.json"),
            bundle_root=str(root), dataset_dir=str(tmp_path / "images"), output_dir=str(tmp_path / "masks"),
        )  # fmt: skip
    messages, error = [], caught.value
    while error is not None:
        messages.append(str(error))
        error = error.__cause__
    assert any("scan.nii.gz: a volume; expected a picture or a NIfTI of one slice" in message for message in messages)
