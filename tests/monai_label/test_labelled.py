"""Training on labels as MONAI Label keeps them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import (
    LUNG,
    POLYP,
    build_network,
    copy_bundle,
    run_sizes,
    small_sizes,
    write_prepared,
    write_small_bundle,
)

from medseglatdiff_monai.bundle.folders import bundles_dir
from medseglatdiff_monai.bundle.segmenter import load_segmenter
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.integrations.monai_label.labelled import prepare_labelled, train_labelled
from medseglatdiff_monai.integrations.monai_label.publication import publish_weights
from medseglatdiff_monai.io.prepared import LoadCased
from medseglatdiff_monai.networks.weights import save_weights
from medseglatdiff_monai.training.run import TRAINING_STAGES

AFFINE = np.array([[-0.7, 0, 0, 60], [0, -0.8, 0, 70], [0, 0, 2.0, -100], [0, 0, 0, 1.0]])
SIZES = {**run_sizes(2), "draws": 1, "val_num_samples": 2, "val_interval": 1, "tracking_uri": False}


def write_scans(folder: Path, number: int = 2) -> list[dict[str, str]]:
    """Volumes of two nodules each: x 40 to 50, y 60 to 64, slices 1 and 2; x 90 to 95, y 30 to 35, slice 3."""
    items = []
    for scan in range(number):
        array = np.random.default_rng(scan).normal(-800, 40, (150, 140, 5)).astype(np.int16)
        label = np.zeros(array.shape, np.uint8)
        label[40:51, 60:65, 1:3] = 1
        label[90:96, 30:36, 3] = 1
        array[label > 0] = 40
        item = {"image": str(folder / f"scan {scan}.nii.gz"), "label": str(folder / f"label-{scan}.nii.gz")}
        nibabel.Nifti1Image(array, AFFINE).to_filename(item["image"])
        nibabel.Nifti1Image(label, AFFINE).to_filename(item["label"])
        items.append(item)
    return items


def test_every_slice_of_every_nodule_becomes_a_crop(tmp_path: Path) -> None:
    prepared = prepare_labelled(write_scans(tmp_path), tmp_path / "data", crop_size=128)
    info = json.loads((prepared / "dataset.json").read_text())
    assert info["split"]["method"] == "a share of 0.2 of the images for validation, drawn with seed 0"
    # The slices of a volume stay together.
    assert [len(info[part]) for part in ("training", "validation", "test")] == [3, 3, 0]
    assert {item["group"] for item in info["training"]} != {item["group"] for item in info["validation"]}
    areas = []
    for item in info["training"]:
        case = LoadCased()({"image": str(prepared / item["image"]), "label": str(prepared / item["label"])})
        assert case["image"].shape == case["label"].shape == (1, 128, 128)
        nodule = case["label"][0] > 0
        # Rows run along y, columns along x: the nodules measure 5 rows by 11 columns, and 6 by 6.
        rows, columns = nodule.any(1).sum().item(), nodule.any(0).sum().item()
        areas.append((rows, columns))
        assert case["image"][0][nodule].min() == 40
        assert case["image"][0][~nodule].max() < 0
        middle = torch.stack(torch.where(nodule)).float().mean(1)
        assert torch.allclose(middle, torch.tensor([64.0, 64.0]), atol=1.0)
        assert item["spacing_mm"] == pytest.approx([0.8, 0.7])
    assert sorted(areas) == [(5, 11), (5, 11), (6, 6)]


def test_pictures_are_taken_whole(tmp_path: Path) -> None:
    items = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        mask = np.zeros((40, 60), np.uint8)
        mask[5:20, 30:50] = 1
        item = {"image": str(tmp_path / f"a{number}.png"), "label": str(tmp_path / f"b{number}.png")}
        Image.fromarray(pixels).save(item["image"])
        Image.fromarray(mask).save(item["label"])
        items.append(item)
    prepared = prepare_labelled(items, tmp_path / "data", crop_size=None)
    info = json.loads((prepared / "dataset.json").read_text())
    assert [len(info[part]) for part in ("training", "validation")] == [2, 1]
    case = LoadCased("label")({"label": str(prepared / info["training"][0]["label"])})
    assert case["label"].shape == (1, 40, 60)
    assert case["label"][0, 5:20, 30:50].all()
    assert case["label"].sum() == 300


def test_too_few_or_unsuitable_labels_are_errors(tmp_path: Path) -> None:
    items = write_scans(tmp_path)
    with pytest.raises(InputError, match="expected at least two"):
        prepare_labelled(items[:1], tmp_path / "one", 128)
    with pytest.raises(InputError, match="0 labelled image"):
        prepare_labelled([], tmp_path / "none", 128)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").touch()
    with pytest.raises(InputError, match="used: holds files; expected a new or empty folder"):
        prepare_labelled(items, tmp_path / "used", 128)
    with pytest.raises(InputError, match="val_split"):
        prepare_labelled(items, tmp_path / "split", 128, val_split=0)
    nibabel.Nifti1Image(np.ones((10, 10, 5), np.uint8), AFFINE).to_filename(items[0]["label"])
    with pytest.raises(InputError, match="Draw the label on the image"):
        prepare_labelled(items, tmp_path / "shape", 128)
    label = np.zeros((150, 140, 5), np.uint8)
    nibabel.Nifti1Image(label, AFFINE).to_filename(items[0]["label"])
    # One of them has nothing to train on.
    with pytest.raises(InputError, match=r"1 labelled image.*expected at least two"):
        prepare_labelled(items, tmp_path / "half", 128)
    nibabel.Nifti1Image(np.full((150, 140, 5), 0.5, np.float32), AFFINE).to_filename(tmp_path / "float.nii.gz")
    label[40:51, 60:65, 1:3] = 1
    nibabel.Nifti1Image(label, AFFINE).to_filename(items[0]["label"])
    with pytest.raises(InputError, match=r"float\.nii\.gz: .*expected whole numbers"):
        prepare_labelled([items[1], {**items[0], "image": str(tmp_path / "float.nii.gz")}], tmp_path / "float", 128)
    for item in items:
        nibabel.Nifti1Image(np.zeros((150, 140, 5), np.uint8), AFFINE).to_filename(item["label"])
    with pytest.raises(InputError, match="are empty"):
        prepare_labelled(items, tmp_path / "empty", 128)


def test_training_goes_on_from_the_bundle_s_weights(tmp_path: Path) -> None:
    sizes = {**small_sizes(LUNG), **SIZES}
    network = {name: value for name, value in small_sizes(LUNG).items() if name != "device"}
    root = copy_bundle(LUNG, tmp_path / "bundles", **small_sizes(LUNG))
    # A rate of zero: what comes out must be what went in.
    still = train_labelled(root, write_scans(tmp_path), tmp_path / "still", **{**sizes, "learning_rate": 0.0})
    before = load_segmenter(root, device="cpu", **network).network.state_dict()
    after = load_segmenter(still).network.state_dict()
    moved = [name for name, value in before.items() if not torch.allclose(value, after[name], atol=1e-3)]
    assert not moved
    run = train_labelled(root, write_scans(tmp_path), tmp_path / "work", **sizes)
    after = load_segmenter(run).network.state_dict()
    moved = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert "denoiser" in moved
    assert "mask_codec" not in moved


def test_bundle_without_weights_is_trained_from_the_start(tmp_path: Path) -> None:
    items = []
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        mask = np.zeros((64, 64), np.uint8)
        mask[10:40, 20:50] = 255
        item = {"image": str(tmp_path / f"a{number}.png"), "label": str(tmp_path / f"b{number}.png")}
        Image.fromarray(pixels).save(item["image"])
        Image.fromarray(mask).save(item["label"])
        items.append(item)
    bundle = shutil.copytree(bundles_dir() / POLYP, tmp_path / POLYP, ignore=shutil.ignore_patterns("models"))
    run = train_labelled(bundle, items, tmp_path / "work", **{**small_sizes(POLYP), **SIZES})
    assert {path.name for path in (run / "models").glob("*.pt")} == set(TRAINING_STAGES.values())


def test_new_weights_replace_others_unless_they_do_worse(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    held = write_prepared(tmp_path / "held", LUNG, training=1, validation=2)
    good, empty = (write_small_bundle(tmp_path / "bundles" / name / LUNG) for name in ("good", "empty"))
    network, _ = build_network(good)
    # A decoder of zeros: log w of 2 leaves nothing in the foreground.
    for parameter in network.mask_codec.decoder.parameters():
        torch.nn.init.zeros_(parameter)
    network.mask_codec.positive_weight.fill_(2.0)
    save_weights(network, empty / "models" / "model.pt")
    weights = {root: (root / "models" / "model.pt").read_bytes() for root in (good, empty)}

    found = publish_weights(empty, good, held, "cpu")
    assert not found["published"]
    assert found["validation"]["dice"] == 0.0 < found["validation"]["dice_before"]
    assert (good / "models" / "model.pt").read_bytes() == weights[good]
    assert "keeps its weights: Dice 0." in caplog.text

    other = publish_weights(good, empty, held, "cpu")
    assert other["published"]
    # Both are scored alike, whichever is the new one.
    before = found["validation"]["dice_before"]
    assert other["validation"] == {"dice": pytest.approx(before), "dice_before": 0.0}
    assert (empty / "models" / "model.pt").read_bytes() == weights[good]
    assert (empty / "models" / "model_previous.pt").read_bytes() == weights[empty]

    for path in (empty / "models").iterdir():
        path.unlink()
    assert publish_weights(good, empty, held, "cpu")["validation"]["dice_before"] is None
    assert (empty / "models" / "model.pt").read_bytes() == weights[good]
