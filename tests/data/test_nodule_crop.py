"""Crops and slices out of volumes with straight, reversed, permuted and oblique axes, and crops put back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.io.planes import (
    ExtractNoduleCropd,
    cut_axial,
    index_to_point,
    paste_crop,
    point_to_index,
)

# A DICOM axial volume: column to the left, row to the back, in RAS both negative; spacing 0.5 x 0.8 x 2 mm.
DICOM_AFFINE = np.array([[-0.5, 0, 0, 10.0], [0, -0.8, 0, 20.0], [0, 0, 2.0, -30.0], [0, 0, 0, 1]])


def make_volume(affine: np.ndarray = DICOM_AFFINE, shape: tuple[int, int, int] = (7, 6, 5)) -> MetaTensor:
    """Voxel (i, j, k) holds 100 i + 10 j + k."""
    i, j, k = np.indices(shape)
    return MetaTensor(
        torch.as_tensor(100.0 * i + 10 * j + k, dtype=torch.float32)[None], affine=torch.as_tensor(affine)
    )


def test_point_and_index_by_hand() -> None:
    # RAS of index (4, 2, 1) is (10 - 2, 20 - 1.6, -28); LPS changes the sign of the first two.
    np.testing.assert_allclose(index_to_point((4, 2, 1), DICOM_AFFINE), (-8.0, -18.4, -28.0))
    np.testing.assert_allclose(point_to_index((-8.0, -18.4, -28.0), DICOM_AFFINE), (4, 2, 1), atol=1e-12)


def test_crop_by_hand() -> None:
    crop = cut_axial(make_volume(), (-8.0, -18.4, -28.0), 3)
    # Rows are the second index (1 to 3), columns the first (3 to 5), slice 1.
    assert crop.tolist() == [[[311, 411, 511], [321, 421, 521], [331, 431, 531]]]
    # Pixel (0, 0) is voxel (3, 1, 1): RAS (8.5, 19.2, -28).
    np.testing.assert_allclose(crop.affine @ torch.tensor([0, 0, 0, 1.0], dtype=torch.float64), (8.5, 19.2, -28.0, 1.0))
    # One row down is one step along the second index: (0, -0.8, 0).
    np.testing.assert_allclose(crop.affine[:3, 0], (0, -0.8, 0))


def test_even_size_puts_the_point_right_of_the_middle() -> None:
    crop = cut_axial(make_volume(), (-8.0, -18.4, -28.0), 2)
    assert crop.tolist() == [[[311, 411], [321, 421]]]


def test_border_is_filled_with_the_slice_minimum() -> None:
    volume = make_volume() + 7
    crop = cut_axial(volume, index_to_point((0, 5, 2), DICOM_AFFINE), 3)
    # Column -1 and row 6 are outside; the minimum of slice 2 is 2 + 7.
    assert crop.tolist() == [[[9, 49, 149], [9, 59, 159], [9, 9, 9]]]


def test_nearest_slice_and_pixel() -> None:
    x, y, z = index_to_point((3, 3, 2), DICOM_AFFINE)
    for dx, dy, dz in itertools.product((-0.24, 0.24), (-0.39, 0.39), (-0.99, 0.99)):
        assert cut_axial(make_volume(), (x + dx, y + dy, z + dz), 1).item() == 332


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
def test_any_axis_order_gives_the_same_crop_and_pastes_back(order: tuple[int, ...], flips: tuple[int, ...]) -> None:
    """The same patient stored along other axes: same crop, same place when put back."""
    volume = make_volume()
    point = (-7.0, -18.4, -26.0)
    expected = cut_axial(volume, point, 4)
    array, affine = volume[0].numpy(), DICOM_AFFINE
    array = np.flip(array.transpose(order), flips)
    # Independent of the code under test: old index = P · new index, column by column.
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1
    for new, old in enumerate(order):
        to_old[old, new] = -1 if new in flips else 1
        to_old[old, 3] = array.shape[new] - 1 if new in flips else 0
    stored = MetaTensor(torch.as_tensor(array.copy())[None], affine=torch.as_tensor(affine @ to_old))
    crop = cut_axial(stored, point, 4)
    assert torch.equal(crop, expected)
    np.testing.assert_allclose(crop.affine, expected.affine, atol=1e-12)

    pasted = paste_crop(crop, crop.meta)
    assert pasted.shape == stored.shape
    # The point is index (6, 2, 2): columns 4 to 7, of which 7 is beyond the border, rows 0 to 3.
    assert torch.equal(pasted[pasted > 0], stored.as_subclass(torch.Tensor)[pasted > 0])
    assert int((pasted > 0).sum()) == 12


def test_oblique_volume_uses_the_closest_axes() -> None:
    angle = np.deg2rad(20)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = DICOM_AFFINE.copy()
    affine[:3, :3] = turn @ affine[:3, :3]
    volume = make_volume(affine)
    # By hand: RAS of (4, 2, 1) = (10 - 2, 20 - 1.6 cos - 2 sin, -30 - 1.6 sin + 2 cos).
    ras = np.array([8.0, 20 - 1.6 * np.cos(angle) - 2 * np.sin(angle), -30 - 1.6 * np.sin(angle) + 2 * np.cos(angle)])
    crop = cut_axial(volume, ras * [-1, -1, 1], 3)
    assert crop.tolist() == [[[311, 411, 511], [321, 421, 521], [331, 431, 531]]]
    np.testing.assert_allclose(crop.affine[:3, 0], affine[:3, 1])
    pasted = paste_crop(torch.ones(1, 3, 3), crop.meta)
    assert pasted.nonzero()[:, 1:].tolist() == [[i, j, 1] for i in (3, 4, 5) for j in (1, 2, 3)]


def test_paste_drops_what_is_beyond_the_border() -> None:
    crop = cut_axial(make_volume(), index_to_point((0, 0, 4), DICOM_AFFINE), 4)
    mask = torch.ones(2, 4, 4, dtype=torch.bool)
    pasted = paste_crop(mask, crop.meta)
    assert pasted.dtype == torch.bool
    assert pasted.shape == (2, 7, 6, 5)
    assert pasted[0].nonzero().tolist() == [[0, 0, 4], [0, 1, 4], [1, 0, 4], [1, 1, 4]]


def test_paste_into_an_existing_volume() -> None:
    out = torch.zeros(1, 7, 6, 5)
    for k in range(2):
        crop = cut_axial(make_volume(), index_to_point((3, 2, k), DICOM_AFFINE), 1)
        assert paste_crop(np.full((1, 1, 1), k + 1.0), crop.meta, out) is out
    assert out.nonzero()[:, 1:].tolist() == [[3, 2, 0], [3, 2, 1]]
    assert out.sum() == 3


def test_slice_is_whole() -> None:
    volume = make_volume()
    plane = cut_axial(volume, index_to_point((0, 0, 3), DICOM_AFFINE), None)
    assert torch.equal(plane.as_subclass(torch.Tensor), volume.as_subclass(torch.Tensor)[..., 3].transpose(1, 2))
    assert torch.equal(paste_crop(plane, plane.meta)[..., 3], volume.as_subclass(torch.Tensor)[..., 3])


def test_point_outside_states_the_extent() -> None:
    # x runs from -10.25 to -6.75 mm (LPS), z from -31 to -21.
    with pytest.raises(
        InputError, match=r"\(0\.0, -18\.4, -28\.0\) mm is outside.*x -10\.2 to -6\.8.*z -31\.0 to -21\.0"
    ):
        cut_axial(make_volume(), (0.0, -18.4, -28.0), 3)


@pytest.mark.parametrize(
    ("volume", "point", "message"),
    [
        (torch.zeros(1, 4, 4, 4), (0, 0, 0), "no affine"),
        (MetaTensor(torch.zeros(2, 4, 4, 4)), (0, 0, 0), "one channel"),
        (MetaTensor(torch.zeros(1, 4, 4)), (0, 0, 0), r"\(1, X, Y, Z\)"),
        (MetaTensor(torch.zeros(1, 4, 4, 4)), (0, 0), "three finite numbers"),
        (MetaTensor(torch.zeros(1, 4, 4, 4)), (0, 0, float("nan")), "three finite numbers"),
    ],
)
def test_bad_input(volume: torch.Tensor, point: tuple[float, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cut_axial(volume, point, None)


def test_bad_size_and_bad_paste() -> None:
    with pytest.raises(InputError, match="size is 0"):
        cut_axial(make_volume(), (-8.0, -18.4, -28.0), 0)
    crop = cut_axial(make_volume(), (-8.0, -18.4, -28.0), 3)
    with pytest.raises(InputError, match=r"expected \(C, 3, 3\)"):
        paste_crop(torch.zeros(1, 2, 2), crop.meta)
    with pytest.raises(InputError, match="crop_start"):
        paste_crop(torch.zeros(1, 3, 3), {})


def test_dictionary_forms_in_a_compose_and_a_loader() -> None:
    transform = Compose([ExtractNoduleCropd(["image"], size=3), ExtractNoduleCropd(["whole"], size=None)])
    data = [{"image": make_volume(), "whole": make_volume(), "point": (-8.0, -18.4, -28.0)}] * 2
    batch = next(iter(DataLoader(Dataset(data, transform), batch_size=2)))
    assert batch["image"].shape == (2, 1, 3, 3)
    assert batch["whole"].shape == (2, 1, 6, 7)
    with pytest.raises(InputError, match="'point'"):
        ExtractNoduleCropd("image")({"image": make_volume()})
