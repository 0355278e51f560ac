"""Distances between the outlines of two masks: Hausdorff 95 and surface Dice, both computed by MONAI.

HD95 is the larger of the two directed 95th percentiles of the distance from outline to outline; surface Dice (Nikolov
et al. 2018, arXiv 1809.04430) is the share of both outlines that lies within a tolerance of the other. Neither exists
for an empty mask, where MONAI returns NaN or infinity. Here two empty masks give HD95 0 and surface Dice 1. If one of
them is empty, HD95 is the length of the image's diagonal, the largest possible distance, and surface Dice is 0. A
missed object thereby counts, and means stay finite.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from ..errors import InputError
from .cumulative import ConsensusMetric
from .masks import as_paired_stacks


def hausdorff_95(
    y_pred: torch.Tensor | np.ndarray,
    y: torch.Tensor | np.ndarray,
    spacing: float | Sequence[float] = 1.0,
    ignore_empty: bool = False,
) -> torch.Tensor:
    """95th percentile Hausdorff distance of binary masks.

    Args:
        y_pred: (B, 1, H, W[, D]) binary.
        y: (B, 1, H, W[, D]) binary, the reference.
        spacing: side of a pixel, one number or one per axis: in millimetres for distances in millimetres, 1 for pixels.
        ignore_empty: True: NaN where `y` is empty, whatever `y_pred` is. False: 0 if both are empty.

    Returns:
        (B,) float64, at least 0, in units of `spacing`; the image's diagonal where only one mask is empty.

    Raises:
        InputError: see `metrics.masks.as_paired_stacks`; more than one mask per case; a spacing that is not positive.
    """
    y_pred, y, sides = _check(y_pred, y, spacing)
    diagonal = math.hypot(*(side * (number - 1) for side, number in zip(sides, y.shape[2:], strict=True)))

    def measure(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=sides)

    return _score(y_pred, y, measure, both_empty=0.0, one_empty=diagonal, ignore_empty=ignore_empty)


def surface_dice(
    y_pred: torch.Tensor | np.ndarray,
    y: torch.Tensor | np.ndarray,
    tolerance: float = 1.0,
    spacing: float | Sequence[float] = 1.0,
    ignore_empty: bool = False,
) -> torch.Tensor:
    """Surface Dice of binary masks.

    Args:
        y_pred: (B, 1, H, W[, D]) binary.
        y: (B, 1, H, W[, D]) binary, the reference.
        tolerance: distance up to which two outlines agree, in units of `spacing`, at least 0.
        spacing: side of a pixel, one number or one per axis.
        ignore_empty: True: NaN where `y` is empty, whatever `y_pred` is. False: 1 if both are empty.

    Returns:
        (B,) float64 in [0, 1]; 0 where only one mask is empty.

    Raises:
        InputError: see `hausdorff_95`; a negative tolerance.
    """
    _check_tolerance(tolerance)
    y_pred, y, sides = _check(y_pred, y, spacing)

    def measure(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return compute_surface_dice(a, b, class_thresholds=[tolerance], include_background=True, spacing=sides)

    return _score(y_pred, y, measure, both_empty=1.0, one_empty=0.0, ignore_empty=ignore_empty)


def _check(
    y_pred: torch.Tensor | np.ndarray, y: torch.Tensor | np.ndarray, spacing: float | Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    y_pred, y = as_paired_stacks(y_pred, y, names=("y_pred", "y"))
    for name, masks in (("y_pred", y_pred), ("y", y)):
        if masks.shape[1] != 1:
            raise InputError(
                f"{name}: found {masks.shape[1]} masks per case, expected one; fuse several with fuse_masks first."
            )
    return y_pred, y, _check_spacing(spacing, y.ndim - 2)


def _check_spacing(spacing: float | Sequence[float], axes: int | None = None) -> list[float]:
    sides = [float(side) for side in (spacing if isinstance(spacing, Sequence) else [spacing] * (axes or 1))]
    if (axes is not None and len(sides) != axes) or not all(side > 0 and math.isfinite(side) for side in sides):
        raise InputError(f"spacing: found {spacing}, expected a positive number, or one for each spatial axis.")
    return sides


def _check_tolerance(tolerance: float) -> None:
    if not (tolerance >= 0 and math.isfinite(tolerance)):
        raise InputError(f"tolerance: found {tolerance}, expected a distance of at least 0.")


def _score(y_pred, y, measure, both_empty: float, one_empty: float, ignore_empty: bool) -> torch.Tensor:
    """``measure`` (B, 1) for the cases in which both masks hold pixels, the rules for the others."""
    empty_pred, empty = ~y_pred.flatten(1).any(dim=1), ~y.flatten(1).any(dim=1)
    score = torch.full((len(y),), one_empty, dtype=torch.float64, device=y.device)
    score[empty & empty_pred] = both_empty
    if ignore_empty:
        score[empty] = torch.nan
    both = ~empty & ~empty_pred
    if bool(both.any()):
        with warnings.catch_warnings():
            # MONAI 1.6 calls one of its own functions with an argument that it has deprecated.
            warnings.filterwarnings("ignore", message=".*always_return_as_numpy.*")
            score[both] = measure(y_pred[both], y[both])[:, 0].to(torch.float64)
    return score


class ConsensusHausdorff95(ConsensusMetric):
    """Mean HD95 of the fused samples and the fused raters; see `hausdorff_95` and `ConsensusMetric`.

    Args:
        spacing: side of a pixel; the distance is in its unit.
        arguments: see `ConsensusMetric`.
    """

    def __init__(self, *, spacing: float | Sequence[float] = 1.0, **arguments) -> None:
        super().__init__(**arguments)
        _check_spacing(spacing)
        self.score = partial(hausdorff_95, spacing=spacing)


class ConsensusSurfaceDice(ConsensusMetric):
    """Mean surface Dice of the fused samples and the fused raters; see `surface_dice` and `ConsensusMetric`.

    Args:
        tolerance: distance up to which two outlines agree, in units of `spacing`.
        spacing: side of a pixel.
        arguments: see `ConsensusMetric`.
    """

    def __init__(self, tolerance: float = 1.0, spacing: float | Sequence[float] = 1.0, **arguments) -> None:
        super().__init__(**arguments)
        _check_tolerance(tolerance)
        _check_spacing(spacing)
        self.score = partial(surface_dice, tolerance=tolerance, spacing=spacing)
