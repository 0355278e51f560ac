"""Masks of other programs: scored as our own, in a benchmark too, and data written for nnU-Net."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from small_runs import LUNG, write_prepared, write_small_bundle

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.evaluation.predictions import score
from medseglatdiff_monai.evaluation.run import evaluate
from medseglatdiff_monai.integrations.nnunet import to_nnunet
from medseglatdiff_monai.suites.command import run_suite


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("prepared") / "data", LUNG, training=2, validation=3)


@pytest.fixture(scope="module")
def evaluated(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    evaluate(write_small_bundle(folder / "run", LUNG), data, folder / "scores", num_samples=4, save_samples=True)
    return folder / "scores"


def write_masks(samples: Path, folder: Path) -> Path:
    """The samples of an evaluation as NIfTI, (row, column, sample)."""
    folder.mkdir(parents=True)
    for path in samples.glob("*.npz"):
        masks = np.moveaxis(np.load(path)["samples"], 0, -1).astype(np.uint8)
        nibabel.Nifti1Image(masks, np.eye(4)).to_filename(folder / f"{path.stem}.nii.gz")
    return folder


@pytest.mark.parametrize("kind", ["npz", "nifti"])
def test_samples_score_as_in_their_evaluation(data: Path, evaluated: Path, tmp_path: Path, kind: str) -> None:
    masks = evaluated / "samples" if kind == "npz" else write_masks(evaluated / "samples", tmp_path / "masks")
    threshold = json.loads((evaluated / "metrics.json").read_text())["settings"]["threshold"]
    found = score(masks, data, tmp_path / "out", threshold=threshold)
    expected = json.loads((evaluated / "metrics.json").read_text())
    for name in ("ged_v", "ged_u", "hm_iou", "dice", "dice_all", "ece", "ece_band", "brier", "ncc", "num_samples"):
        assert found["summary"][name] == pytest.approx(expected["summary"][name]), name
    assert found["calibration"] == expected["calibration"]
    assert found["not_applicable"]["seconds_per_case"] == "another program predicted the masks"


def test_one_mask_as_a_picture(data: Path, tmp_path: Path) -> None:
    """The first rater's own mask: Dice 1 with that rater, and what needs two samples is undefined."""
    (tmp_path / "masks").mkdir()
    info = json.loads((data / "dataset.json").read_text())
    for item in info["validation"]:
        mask = nibabel.load(data / item["label"]).get_fdata()[..., 1]
        Image.fromarray((mask * 255).astype(np.uint8)).save(tmp_path / "masks" / f"{item['case']}.png")
    copy = shutil.copytree(data, tmp_path / "data")
    (copy / "dataset.json").write_text(json.dumps({**info, "raters": ["a", "b", "c", "d"]}))
    result = score(tmp_path / "masks", copy, tmp_path / "out")
    assert result["raters"]["b"] == {"dice": 1.0, "num_cases": 3}
    assert result["summary"]["ged_u"] is None
    assert result["not_applicable"]["ged_u"] == "needs at least two samples, there is one"


def test_what_is_no_mask_is_refused(data: Path, evaluated: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder; expected one with the predicted masks"):
        score(tmp_path / "none", data, tmp_path / "out")
    masks = write_masks(evaluated / "samples", tmp_path / "masks")
    path = masks / "case-3.nii.gz"
    for array, message in (
        (np.zeros((64, 64, 2), np.uint8), r"masks of \(64, 64\); expected \(128, 128\), the size of the prepared"),
        (np.full((128, 128), 0.5, np.float32), "found 1 values from 0.5 to 0.5; expected 0 and 1. Threshold"),
        (np.full((128, 128), 2, np.uint8), "found 1 values from 2 to 2; expected 0 and 1"),
    ):
        nibabel.Nifti1Image(array, np.eye(4)).to_filename(path)
        with pytest.raises(InputError, match=message):
            score(masks, data, tmp_path / "out")
    path.write_bytes(b"no NIfTI")
    with pytest.raises(InputError, match=r"case-3\.nii\.gz: unreadable"):
        score(masks, data, tmp_path / "out")
    path.unlink()
    with pytest.raises(InputError, match="no masks of 1 of 3 cases, the first is 'case-3'"):
        score(masks, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_benchmark_takes_another_program_s_masks(data: Path, evaluated: Path, tmp_path: Path) -> None:
    suite = {
        "title": "t", "description": "d", "metrics": ["ged_v", "dice"], "reference": "Ours",
        "systems": [{"name": "Ours"}, {"name": "nnU-Net", "experiment": "nnunet", "deterministic": True}],
        "evaluations": [{"name": "4 samples", "num_samples": 4}],
    }  # fmt: skip
    (tmp_path / "own.json").write_text(json.dumps(suite))
    masks = write_masks(evaluated / "samples", tmp_path / "masks")
    run = evaluated.parent / "run"
    results = run_suite(
        tmp_path / "own.json", data, tmp_path / "out", LUNG, max_minutes=0, runs={"Ours": run, "nnU-Net": masks}
    )
    assert not results["failures"]
    rows = {(row["system"], row["metric"]): row for row in results["measurements"]}
    assert rows["nnU-Net", "ged_v"]["mean"] == pytest.approx(rows["Ours", "ged_v"]["mean"])
    assert rows["nnU-Net", "ged_v"]["seconds_per_sample"] is None
    assert (tmp_path / "out" / "report.html").is_file()


def test_data_for_nnunet(data: Path, tmp_path: Path) -> None:
    folder = to_nnunet(data, tmp_path / "Dataset007_discs")
    described = json.loads((folder / "dataset.json").read_text())
    assert described == {
        "channel_names": {"0": "grey"}, "labels": {"background": 0, "disc": 1}, "numTraining": 2,
        "file_ending": ".nii.gz",
    }  # fmt: skip
    assert sorted(path.name for path in (folder / "imagesTs").iterdir()) == [
        f"case-{number}_0000.nii.gz" for number in (2, 3, 4)
    ]
    for number in (0, 1):
        image, label = (
            nibabel.load(folder / name).get_fdata()
            for name in (f"imagesTr/case-{number}_0000.nii.gz", f"labelsTr/case-{number}.nii.gz")
        )
        assert np.array_equal(image[..., 0], np.array(Image.open(data / "images" / f"case-{number}.png")))
        raters = nibabel.load(data / "masks" / f"case-{number}.nii.gz").get_fdata()
        assert np.array_equal(label[..., 0], raters.mean(-1) >= 0.5)
    with pytest.raises(InputError, match="expected a name such as Dataset501_discs"):
        to_nnunet(data, tmp_path / "discs")
    with pytest.raises(InputError, match="holds something already; expected a new or empty folder"):
        to_nnunet(data, folder)
