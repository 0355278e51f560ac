"""Masks of a folder: palettes, transparency, places in space, and files that are no masks."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medseglatdiff_monai.data.sources.images import read_mask, read_masks
from medseglatdiff_monai.errors import InputError

SQUARE = np.zeros((9, 12), np.uint8)
SQUARE[2:6, 3:8] = 1
BLACK, WHITE, RED, GREEN = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0)


def write_palette(path: Path, indices: np.ndarray, *colours: tuple[int, int, int]) -> Path:
    image = Image.fromarray(indices)
    image.putpalette([value for colour in colours for value in colour])
    assert image.mode == "P"
    image.save(path)
    return path


@pytest.mark.parametrize(
    ("indices", "colours"),
    [
        (SQUARE, (BLACK, WHITE)),
        (SQUARE, (BLACK, RED)),
        (1 - SQUARE, (WHITE, BLACK)),
        (7 * SQUARE, (BLACK, *(GREEN,) * 6, RED)),
        (2 - SQUARE, (WHITE, (200, 200, 200), BLACK)),
        (SQUARE, (BLACK, (1, 1, 1))),
    ],
)
def test_palette_masks_are_read_by_their_colours(tmp_path: Path, indices: np.ndarray, colours: tuple):
    np.testing.assert_array_equal(read_mask(write_palette(tmp_path / "m.png", indices, *colours)), SQUARE)


@pytest.mark.parametrize("colours", [(BLACK, RED, GREEN), (RED, GREEN, GREEN)])
def test_palettes_of_several_classes(tmp_path: Path, colours: tuple):
    labels = SQUARE.copy()
    labels[0] = 2 if colours[0] == BLACK else 1
    with pytest.raises(InputError, match=r"m\.png: a palette of \d colours.*expected black and one other"):
        read_mask(write_palette(tmp_path / "m.png", labels, *colours))


def paint(colour: tuple[int, int, int], background: tuple[int, int, int], opacity: np.ndarray) -> Image.Image:
    pixels = np.where(SQUARE[..., None] == 1, colour, background).astype(np.uint8)
    return Image.fromarray(np.dstack([pixels, opacity.astype(np.uint8)]))


@pytest.mark.parametrize(
    ("colour", "background", "opacity"),
    [
        (WHITE, BLACK, np.full_like(SQUARE, 255)),
        (BLACK, BLACK, 255 * SQUARE),
        (WHITE, WHITE, 255 * SQUARE),
        (RED, WHITE, 255 * SQUARE),
    ],
)
def test_transparency(tmp_path: Path, colour: tuple, background: tuple, opacity: np.ndarray):
    paint(colour, background, opacity).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), SQUARE)


def test_transparency_that_says_something_else(tmp_path: Path):
    paint(WHITE, BLACK, 255 * SQUARE.T.repeat(2, 1)[:9, :12]).save(tmp_path / "m.png")
    with pytest.raises(InputError, match=r"m\.png: its colours and its transparency are different masks"):
        read_mask(tmp_path / "m.png")


def test_files_that_are_no_masks(tmp_path: Path):
    rng = np.random.default_rng(0)
    grey = rng.normal(128, 40, (32, 32)).clip(0, 255).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "picture.png")
    ct = np.where(rng.random((32, 32)) < 0.5, 0, rng.normal(1000, 200, (32, 32))).clip(0, 3000).astype(np.int16)
    ct[0, 0] = 3000
    nibabel.save(nibabel.Nifti1Image(ct, np.eye(4)), tmp_path / "ct.nii.gz")
    for name in ("picture.png", "ct.nii.gz"):
        with pytest.raises(InputError, match=rf"{name}: \d+% of its values are between dark and bright"):
            read_mask(tmp_path / name)
    # Grey edges and the noise of JPEG are a mask's.
    big = Image.fromarray(255 * SQUARE.repeat(8, 0).repeat(8, 1))
    big.resize((60, 44), Image.Resampling.BICUBIC).save(tmp_path / "soft.png")
    big.save(tmp_path / "noisy.jpg", quality=20)
    assert 0.1 < read_mask(tmp_path / "soft.png").mean() < 0.3
    np.testing.assert_array_equal(read_mask(tmp_path / "noisy.jpg"), SQUARE.repeat(8, 0).repeat(8, 1))


def test_nifti_masks_lie_where_their_image_does(tmp_path: Path):
    affine = np.array([[0.0, -0.7, 0, 10], [0.6, 0, 0, -20], [0, 0, 2.0, 5], [0, 0, 0, 1]])
    # Of a file's (column, row, slice); an image's is from (row, column, slice).
    image, own = SQUARE.astype(np.int16), affine[:, [1, 0, 2, 3]]
    flipped, moved = affine @ np.diag([-1.0, 1, 1, 1]), affine.copy()
    flipped[:3, 3] = (affine @ [11.0, 0, 0, 1])[:3]
    moved[2, 3] += 2
    for name, one in (("same", affine + 1e-4), ("flipped", flipped), ("moved", moved)):
        nibabel.save(nibabel.Nifti1Image(SQUARE.T, one), tmp_path / f"{name}.nii.gz")
    read_masks([tmp_path / "same.nii.gz"], tmp_path / "image.nii.gz", image, affine=own)
    for name, distance in (("flipped", 11 * 0.6), ("moved", 2.0)):
        with pytest.raises(InputError, match=rf"{name}\.nii\.gz: its affine puts voxels up to {distance:.2f} mm from"):
            read_masks([tmp_path / f"{name}.nii.gz"], tmp_path / "image.nii.gz", image, affine=own)
    # A picture has no place.
    Image.fromarray(255 * SQUARE).save(tmp_path / "mask.png")
    assert read_masks([tmp_path / "mask.png"], tmp_path / "image.nii.gz", image, affine=own).shape == (1, 9, 12)
