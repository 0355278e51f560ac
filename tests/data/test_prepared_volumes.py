"""Volumes: phantom volumes, a folder of NIfTI volumes, their loading, and the flips of a batch of them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medseglatdiff_monai.data.prepare import prepare
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.io.prepared import LoadCased
from medseglatdiff_monai.networks.symmetries import apply_symmetry, count_symmetries, draw_symmetry
from medseglatdiff_monai.training.augmentation import BatchAugmentation

SHAPE = (7, 5, 3)  # x, y, z as a viewer counts
SPACING = (0.5, 0.7, 2.0)


def write_volumes(src: Path, cases: int = 3, raters: int = 2) -> Path:
    rng = np.random.default_rng(0)
    for folder in ("images", *(f"masks-{rater}" for rater in range(raters))):
        (src / folder).mkdir(parents=True)
        for case in range(cases):
            values = rng.integers(-1000, 400, SHAPE) if folder == "images" else rng.integers(0, 2, SHAPE)
            image = nibabel.Nifti1Image(values.astype(np.int16), np.diag([*SPACING, 1.0]))
            nibabel.save(image, src / folder / f"p{case}.nii.gz")
    return src


def read(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def test_folder_of_volumes_is_kept_whole_and_loads_row_first(tmp_path: Path) -> None:
    src = write_volumes(tmp_path / "mine")
    file = prepare("folder", src, output_dir=tmp_path / "out", volumes=True, ratios="1:1:1", workers=1)
    info = json.loads(file.read_text())
    assert (info["num_channels"], info["num_raters"], info["spatial_dims"]) == (1, 2, 3)
    items = info["training"] + info["validation"] + info["test"]
    assert len(items) == 3
    for item in items:
        assert item["spacing_mm"] == pytest.approx([0.7, 0.5, 2.0])
        paths = {key: str(tmp_path / "out" / item[key]) for key in ("image", "label")}
        data = LoadCased(spatial_dims=3)(paths)
        native = read(src / "images" / f"{item['case']}.nii.gz").swapaxes(0, 1)
        assert torch.equal(data["image"].as_tensor(), torch.from_numpy(native.astype(np.float32))[None])
        raters = [read(src / f"masks-{rater}" / f"{item['case']}.nii.gz").swapaxes(0, 1) for rater in range(2)]
        assert torch.equal(data["label"].as_tensor(), torch.from_numpy(np.stack(raters).astype(np.uint8)))
        # Row, column, slice → the place in the patient that the original header gives to x, y, z.
        affine = nibabel.load(paths["image"]).affine
        np.testing.assert_allclose(affine @ [1, 2, 1, 1], np.diag([*SPACING, 1.0]) @ [2, 1, 1, 1])


def test_a_single_rater_of_volumes_is_one_channel(tmp_path: Path) -> None:
    src = write_volumes(tmp_path / "mine", raters=1)
    prepare("folder", src, output_dir=tmp_path / "out", volumes=True, ratios="1:1:1", workers=1)
    data = LoadCased(spatial_dims=3)(
        {"image": str(tmp_path / "out/images/p0.nii.gz"), "label": str(tmp_path / "out/masks/p0.nii.gz")}
    )
    assert data["image"].shape == data["label"].shape == (1, 5, 7, 3)


def flatten_image(src: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((7, 5), np.int16), np.eye(4)), src / "images" / "p1.nii.gz")


def shorten_mask(src: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((7, 5, 2), np.int16), np.eye(4)), src / "masks-1" / "p1.nii.gz")


def paint(src: Path) -> None:
    from PIL import Image

    (src / "images" / "p1.nii.gz").unlink()
    Image.new("L", (7, 5)).save(src / "images" / "p1.png")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flatten_image, r"p1\.nii\.gz: a NIfTI of shape \(7, 5\); expected a volume"),
        (shorten_mask, r"masks-1.p1\.nii\.gz is 7×5×2 \(width×height×slices\), its image .* is 7×5×3"),
        (paint, r"p1\.png: a single image; expected NIfTI volumes"),
    ],
)
def test_what_is_no_volume_is_refused_by_name(tmp_path: Path, damage, message: str) -> None:
    src = write_volumes(tmp_path / "mine")
    damage(src)
    with pytest.raises(InputError, match=message):
        prepare("folder", src, output_dir=tmp_path / "out", volumes=True, workers=1)


def test_volumes_without_the_option_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="or give --volumes"):
        prepare("folder", write_volumes(tmp_path / "mine"), output_dir=tmp_path / "out", workers=1)


def test_phantom_volume_holds_the_slices_of_the_phantom(tmp_path: Path) -> None:
    options = {"num_cases": 3, "crop": 32, "workers": 1, "ratios": "1:1:1"}
    file = prepare("phantom", output_dir=tmp_path / "volumes", depth=6, **options)
    info = json.loads(file.read_text())
    assert info["spatial_dims"] == 3
    for item in info["training"] + info["validation"] + info["test"]:
        image, masks = read(tmp_path / "volumes" / item["image"]), read(tmp_path / "volumes" / item["label"])
        assert image.shape == (32, 32, 6)
        assert masks.shape == (32, 32, 6, 4)
        assert masks.any()
        assert image.min() < -500
        assert len(item["spacing_mm"]) == 3
    flat = json.loads(prepare("phantom", output_dir=tmp_path / "slices", **options).read_text())
    assert "spatial_dims" not in flat
    with pytest.raises(InputError, match=r"--depth is 100000; the scan of LIDC"):
        prepare("phantom", output_dir=tmp_path / "deep", depth=100_000, **options)


def test_flips_of_a_volume() -> None:
    volume = torch.arange(2 * 3 * 4).view(1, 1, 2, 3, 4).expand(8, -1, -1, -1, -1)
    turned = apply_symmetry(volume, torch.arange(8))
    for number in range(8):
        axes = [axis for bit, axis in enumerate((1, 2, 3)) if number >> bit & 1]
        np.testing.assert_array_equal(turned[number].numpy(), np.flip(volume[0].numpy(), axes))
    assert count_symmetries(2, 3, 4) == 8
    torch.manual_seed(0)
    counts = draw_symmetry(8000, 2, 3, 4).bincount(minlength=8)
    assert (counts - 1000).abs().max() < 5 * (1000 * 7 / 8) ** 0.5


def test_volumes_are_augmented_alike_with_their_labels() -> None:
    torch.manual_seed(0)
    label = (torch.rand(6, 2, 4, 6, 5) < 0.5).float()
    image = label[:, :1]
    turned, masks = BatchAugmentation(flips=True)(image, label)
    assert torch.equal(turned, masks[:, :1])
    assert not torch.equal(masks, label)
    bright, _ = BatchAugmentation(flips=False, gamma=0.3, brightness=0.1, contrast=0.1)(image * 0.5 + 0.2, label)
    assert bright.shape == image.shape
    assert 0 <= float(bright.min()) < float(bright.max()) <= 1
