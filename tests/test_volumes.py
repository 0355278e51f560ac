"""Nodules over slices: where the search ends, what is measured, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.predict.ensemble import Ensemble, stack_planes
from medseglatdiff_monai.predict.measure import Measurement, format_spread, longest_diameter
from medseglatdiff_monai.predict.nodule import follow_nodule

# Rows of 0.5 mm, columns of 0.75 mm, slices of 2 mm, as planes have them: rows run to the back, columns to the left.
EDGES = np.array([[0.0, -0.75], [-0.5, 0.0], [0.0, 0.0]])


def _plane(offset: int) -> MetaTensor:
    affine = np.eye(4)
    affine[:3, :2] = EDGES
    affine[2, 3] = 2.0 * offset
    return MetaTensor(torch.full((1, 6, 8), float(offset)), affine=torch.from_numpy(affine))


def _scan(low: int, high: int):
    """Slices `low` to `high`, and what was asked for."""
    asked: list[int] = []

    def cut_plane(offset: int) -> MetaTensor | None:
        asked.append(offset)
        return _plane(offset) if low <= offset <= high else None

    return cut_plane, asked


def _segment(areas: dict[int, list[int]]):
    """Sample n has areas[offset][n] pixels, from the corner along the first row."""

    def segment(plane: MetaTensor) -> Ensemble:
        samples = np.zeros((3, 6, 8), bool)
        for number, area in enumerate(areas.get(int(plane[0, 0, 0]), [0, 0, 0])):
            samples[number].reshape(-1)[:area] = True
        confidence = samples.mean(0, dtype=np.float32)
        return Ensemble(
            samples, confidence, confidence >= 0.5, (0, 0, 6, 8), np.asarray(plane.affine, dtype=float), (plane,)
        )

    return segment


NODULE = {-2: [0, 0, 1], -1: [2, 2, 0], 0: [4, 5, 3], 1: [1, 0, 2], 2: [1, 0, 0], 3: [6, 6, 6]}


def test_goes_on_until_the_consensus_is_empty():
    """Sample 3 reaches into the first empty slice below, sample 1 above; what is beyond is another structure."""
    cut_plane, asked = _scan(-9, 9)
    nodule = follow_nodule(cut_plane, _segment(NODULE))
    assert asked == [0, -1, -2, 1, 2]
    assert nodule.ended == ("empty", "empty")
    assert nodule.clicked == 2
    assert nodule.samples.shape == (3, 5, 6, 8)
    np.testing.assert_array_equal(nodule.samples.sum((2, 3)), np.array([NODULE[k] for k in range(-2, 3)]).T)
    np.testing.assert_array_equal(nodule.consensus().sum((1, 2)), [0, 2, 4, 1, 0])
    assert [float(plane[0, 0, 0]) for plane in nodule.planes] == [-2, -1, 0, 1, 2]
    np.testing.assert_allclose(nodule.affine[:3, 2], [0, 0, 2])
    np.testing.assert_allclose(nodule.affine[:3, 3], [0, 0, -4])


@pytest.mark.parametrize(
    ("arguments", "extent", "drawn", "ended"),
    [
        ({"slices": 1}, (-9, 9), [0], ("slices", "slices")),
        ({"slices": 3}, (-9, 9), [-1, 0, 1], ("slices", "slices")),
        ({"slices": 5}, (-9, 9), [-2, -1, 0, 1, 2], ("empty", "empty")),
        ({"reach_mm": 2.0}, (-9, 9), [-1, 0, 1], ("reach", "reach")),
        ({"reach_mm": 0}, (-9, 9), [0], ("reach", "reach")),
        ({}, (-1, 0), [-1, 0], ("volume", "volume")),
        ({}, (0, 9), [0, 1, 2], ("volume", "empty")),
    ],
)
def test_limits(arguments: dict, extent: tuple[int, int], drawn: list[int], ended: tuple[str, str]):
    nodule = follow_nodule(_scan(*extent)[0], _segment(NODULE), **arguments)
    assert [float(plane[0, 0, 0]) for plane in nodule.planes] == drawn
    assert nodule.ended == ended


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"slices": 0}, "--slices is 0"),
        ({"slices": 4}, "--slices is 4; expected an odd number"),
        ({"slices": True}, "--slices is True"),
        ({"reach_mm": -0.1}, "--reach-mm is -0.1"),
        ({"reach_mm": float("nan")}, "--reach-mm is nan"),
        ({"reach_mm": "far"}, "--reach-mm is 'far'"),
    ],
)
def test_out_of_range(arguments: dict, message: str):
    with pytest.raises(InputError, match=message):
        follow_nodule(_scan(-1, 1)[0], _segment(NODULE), **arguments)


def test_measurements_by_hand():
    voxel = 0.5 * 0.75 * 2.0
    found = follow_nodule(_scan(-9, 9)[0], _segment(NODULE), voxel_mm3=voxel).describe()
    # Pixels: consensus 2 + 4 + 1; samples 2 + 4 + 1 + 1, 2 + 5, 1 + 3 + 2.
    assert found["volume_mm3"]["consensus"] == pytest.approx(7 * voxel)
    assert found["volume_mm3"]["samples"] == pytest.approx([8 * voxel, 7 * voxel, 6 * voxel])
    assert found["volume_mm3"]["median"] == pytest.approx(7 * voxel)
    # Of three samples percentiles say nothing.
    assert found["volume_mm3"]["interval"] is None
    # The samples are rows of pixels: as long as their widest slice.
    width = [np.hypot(4 * 0.75, 0.0), 5 * 0.75, 3 * 0.75]
    assert found["longest_diameter_mm"]["samples"] == pytest.approx(width)
    assert found["area_mm2"]["samples"] == pytest.approx([4 * 0.375, 5 * 0.375, 3 * 0.375])
    # Intersections over unions in 3D, of samples (1, 2), (1, 3), (2, 3).
    pairs = [(2 + 4) / (2 + 5 + 1 + 1), (3 + 1) / (1 + 2 + 4 + 2 + 1), 3 / (1 + 2 + 5 + 2)]
    assert found["agreement"]["mean_pairwise_iou"] == pytest.approx(np.mean(pairs), abs=1e-4)


def test_no_volume_without_slice_distance_and_no_agreement_of_empty_or_single():
    found = follow_nodule(_scan(0, 0)[0], _segment({})).describe()
    assert found["volume_mm3"] is None
    assert found["longest_diameter_mm"]["consensus"] == 0.0
    assert found["agreement"]["mean_pairwise_iou"] == 1.0


def test_longest_diameter():
    mask = np.zeros((20, 20), bool)
    assert longest_diameter(mask, EDGES) == 0.0
    mask[3, 4] = True
    assert longest_diameter(mask, EDGES) == pytest.approx(0.75)
    # Two pixels 12 rows and 5 columns apart: from the middle of an upper edge to that of a lower one, or of the sides.
    mask[15, 9] = True
    expected = max(np.hypot(13 * 0.5, 5 * 0.75), np.hypot(12 * 0.5, 6 * 0.75), np.hypot(12.5 * 0.5, 5.5 * 0.75))
    assert longest_diameter(mask, EDGES) == pytest.approx(expected)
    # A hole and what lies inside do not matter; a disk measures its diameter whatever the turn of the grid.
    rows, columns = np.indices((101, 101)) - 50
    disk = (np.hypot(rows, columns) < 40.25) & (np.hypot(rows, columns) > 10)
    assert longest_diameter(disk, np.eye(3)[:, :2]) == pytest.approx(81, abs=0.5)


def test_interval_is_linear_between_the_samples():
    few = Measurement(4.0, [5.0] * 15).describe()
    assert few == {"consensus": 4.0, "samples": [5.0] * 15, "median": 5.0, "interval": None}
    assert format_spread(few) == "5"
    many = Measurement(11298.0, np.arange(21.0)[::-1].tolist()).describe()
    assert many["interval"] == [1.0, 19.0]
    # It stands behind the median: the consensus is another mask.
    assert format_spread(many, "mm³") == "10 mm³ (1 to 19)"


def test_spread_by_hand():
    """Two samples of two pixels and of one of them, in a slice; a third pixel is in none."""
    samples = np.zeros((2, 2, 2), dtype=bool)
    samples[0, 0] = samples[1, 0, 0] = True
    confidence = samples.mean(0, dtype=np.float32)
    found = Ensemble(samples, confidence, confidence >= 0.5, (0, 0, 2, 2))
    np.testing.assert_allclose(found.entropy(), [[0.0, 1.0], [0.0, 0.0]])
    # Of the union's two pixels; in the whole image it would be half of that.
    assert found.mean_entropy() == 0.5
    assert found.agreement() == 0.5
    empty = np.zeros((3, 2, 2), dtype=bool)
    nothing = Ensemble(empty, empty[0].astype(np.float32), empty[0], (0, 0, 2, 2))
    assert (nothing.agreement(), nothing.mean_entropy()) == (1.0, 0.0)
    assert Ensemble(samples[:1], confidence, samples[0], (0, 0, 2, 2)).agreement() is None


def test_pictures_have_pixels_alone_and_any_slice_can_be_taken():
    picture = stack_planes([Ensemble(np.ones((2, 3, 4), bool), np.ones((3, 4), np.float32), np.ones((3, 4), bool),
                                     (0, 0, 3, 4))])  # fmt: skip
    assert picture.area_pixels() == Measurement(12, [12, 12])
    assert (picture.area_mm2(), picture.diameter_mm(), picture.volume_mm3()) == (None, None, None)
    nodule = follow_nodule(_scan(-9, 9)[0], _segment(NODULE))
    plane = nodule.plane(3)
    assert plane.samples.sum((1, 2)).tolist() == NODULE[1]
    assert plane.area_mm2() == nodule.area_mm2(number=3)
    assert plane.affine is not None
    assert plane.affine[2, 3] == 2.0
    # 2, 4 and 1 pixels at one half; at all three samples none and 3 of the clicked slice's.
    assert nodule.area_pixels(1.0).consensus == 3
    assert nodule.consensus(1.0).sum((1, 2)).tolist() == [0, 0, 3, 0, 0]


def test_ends_before_the_consensus_is_empty():
    (note,) = follow_nodule(_scan(-9, 0)[0], _segment(NODULE)).note_cut_ends({"volume": "the scan ends"})
    assert note.startswith("Towards the head the scan ends while the consensus was not empty")
    assert follow_nodule(_scan(-9, 9)[0], _segment(NODULE)).note_cut_ends({}) == []
