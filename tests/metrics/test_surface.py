"""Distances of outlines: hand-worked, against a loop over outline pixels, and the rules for empty masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.metrics import ConsensusHausdorff95, ConsensusSurfaceDice, hausdorff_95, surface_dice

SIDE = 16


def square(top: int, left: int, size: int = 4) -> torch.Tensor:
    mask = torch.zeros((1, 1, SIDE, SIDE), dtype=torch.bool)
    mask[..., top : top + size, left : left + size] = True
    return mask


EMPTY = square(0, 0, 0)


def test_hand_worked_values():
    # A pixel and another 3 rows and 4 columns away.
    a, b = square(2, 2, 1), square(5, 6, 1)
    assert hausdorff_95(a, b).item() == 5
    assert hausdorff_95(a, b, spacing=[2, 0.5]).item() == pytest.approx(np.hypot(6, 2), abs=1e-5)
    assert surface_dice(a, b, tolerance=4.9).item() == 0
    assert surface_dice(a, b, tolerance=5).item() == 1
    # A square of 4 moved by 2 columns: its outline of 12 pixels has 4 more than a pixel away from the other's.
    assert hausdorff_95(square(4, 4), square(4, 6)).item() == pytest.approx(2, abs=1e-6)


def outline_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """From each outline pixel of a to the nearest of b; outlines as MONAI takes them, by erosion with a cross."""
    edges = [np.argwhere(mask ^ binary_erosion(mask)) for mask in (a, b)]
    return np.array([min(np.hypot(*(p - q)) for q in edges[1]) for p in edges[0]])


@pytest.mark.parametrize("seed", range(8))
def test_equal_loops_over_outlines(seed):
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    # Discs away from the image's edge, which implementations treat differently.
    a, b = (
        np.hypot(rows - 8 + rng.uniform(-2, 2), columns - 8 + rng.uniform(-2, 2)) < rng.uniform(1, 5) for _ in range(2)
    )
    ab, ba = outline_distances(a, b), outline_distances(b, a)
    expected = max(np.percentile(ab, 95), np.percentile(ba, 95))
    assert hausdorff_95(a[None, None], b[None, None]).item() == pytest.approx(expected, abs=1e-5)
    close = ((ab <= 1.5).sum() + (ba <= 1.5).sum()) / (len(ab) + len(ba))
    assert surface_dice(a[None, None], b[None, None], tolerance=1.5).item() == pytest.approx(close, abs=1e-6)


def test_rules_for_empty_masks():
    diagonal = np.hypot(SIDE - 1, SIDE - 1)
    y_pred = torch.cat([EMPTY, EMPTY, square(4, 4), square(4, 4)])
    y = torch.cat([EMPTY, square(4, 4), EMPTY, square(4, 4)])
    assert hausdorff_95(y_pred, y).tolist() == pytest.approx([0, diagonal, diagonal, 0])
    assert surface_dice(y_pred, y).tolist() == [1, 0, 0, 1]
    nan = float("nan")
    expected = pytest.approx([nan, diagonal, nan, 0], nan_ok=True)
    assert hausdorff_95(y_pred, y, ignore_empty=True).tolist() == expected
    assert surface_dice(y_pred, y, ignore_empty=True).tolist() == pytest.approx([nan, 0, nan, 1], nan_ok=True)
    assert hausdorff_95(EMPTY, square(4, 4), spacing=2).item() == pytest.approx(2 * diagonal)
    # No distance between masks exceeds what an empty one is given.
    assert hausdorff_95(square(0, 0, 1), square(15, 15, 1)).item() == pytest.approx(diagonal, abs=1e-5)


def test_volumes():
    a, b = torch.zeros((2, 1, 6, 6, 6), dtype=torch.bool), torch.zeros((2, 1, 6, 6, 6), dtype=torch.bool)
    a[:, :, 1, 1, 1] = b[:, :, 3, 3, 2] = True
    assert hausdorff_95(a, b).tolist() == [3, 3]
    assert surface_dice(a, b, tolerance=3).tolist() == [1, 1]


def test_metrics_fuse_both_sides_and_average():
    samples = torch.cat([square(4, 4), square(4, 4), EMPTY], 1)
    raters = torch.cat([square(4, 6), square(4, 6), EMPTY, EMPTY], 1)
    nothing = torch.zeros_like(raters)
    for metric, found, empty in ((ConsensusHausdorff95, 2, np.hypot(15, 15)), (ConsensusSurfaceDice, None, 0)):
        value = metric()(samples, raters).item()
        if found is not None:
            assert value == pytest.approx(found, abs=1e-6)
        else:
            assert value == surface_dice(square(4, 4), square(4, 6)).item()
        for ignore, expected in ((True, value), (False, (value + empty) / 2)):
            averaged = metric(ignore_empty=ignore)
            averaged(samples, raters)
            averaged(samples, nothing)
            assert averaged.aggregate().item() == pytest.approx(expected, abs=1e-6)
    assert ConsensusSurfaceDice(tolerance=2)(samples, raters).item() == 1


def test_bad_arguments_are_named():
    with pytest.raises(InputError, match="y: found 2 masks per case, expected one"):
        hausdorff_95(square(4, 4), square(4, 4).repeat(1, 2, 1, 1))
    with pytest.raises(InputError, match="spacing: found 0"):
        hausdorff_95(square(4, 4), square(4, 4), spacing=0)
    with pytest.raises(InputError, match="spacing: found"):
        surface_dice(square(4, 4), square(4, 4), spacing=[1, 1, 1])
    with pytest.raises(InputError, match="spacing: found -1"):
        ConsensusHausdorff95(spacing=-1)
    with pytest.raises(InputError, match="tolerance: found -1"):
        ConsensusSurfaceDice(tolerance=-1)
    with pytest.raises(InputError, match="threshold: found 0"):
        ConsensusSurfaceDice(threshold=0)
