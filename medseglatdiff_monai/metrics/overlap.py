"""Overlap of two masks, and of the consensus of an ensemble with the consensus of the raters.

Dice = 2 |a and b| / (|a| + |b|), IoU = |a and b| / |a or b|. Where both masks are empty both are 1; with `ignore_empty`
(MONAI's name and rule, as in `monai.metrics.DiceMetric`) a case whose reference is empty is NaN and left out of means.
"""

from __future__ import annotations

import numpy as np
import torch

from ..errors import InputError
from .cumulative import ConsensusMetric
from .masks import as_paired_stacks


def dice_score(
    y_pred: torch.Tensor | np.ndarray, y: torch.Tensor | np.ndarray, ignore_empty: bool = False
) -> torch.Tensor:
    """Dice of binary masks, channel by channel.

    Args:
        y_pred: (B, C, H, W[, D]) binary.
        y: (B, C, H, W[, D]) binary, the reference.
        ignore_empty: True: NaN where `y` is empty, whatever `y_pred` is. False: 1.0 if both are empty, 0.0 if only `y`.

    Returns:
        (B, C) float64 in [0, 1] or NaN.

    Raises:
        InputError: see `metrics.masks.as_paired_stacks`; numbers of channels that differ.
    """
    intersection, area_pred, area = _areas(y_pred, y)
    return _ratio(2 * intersection, area_pred + area, area, ignore_empty)


def iou_score(
    y_pred: torch.Tensor | np.ndarray, y: torch.Tensor | np.ndarray, ignore_empty: bool = False
) -> torch.Tensor:
    """IoU of binary masks, channel by channel.

    Args:
        y_pred: (B, C, H, W[, D]) binary.
        y: (B, C, H, W[, D]) binary, the reference.
        ignore_empty: True: NaN where `y` is empty, whatever `y_pred` is. False: 1.0 if both are empty, 0.0 if only `y`.

    Returns:
        (B, C) float64 in [0, 1] or NaN.

    Raises:
        InputError: see `metrics.masks.as_paired_stacks`; numbers of channels that differ.
    """
    intersection, area_pred, area = _areas(y_pred, y)
    return _ratio(intersection, area_pred + area - intersection, area, ignore_empty)


def _areas(
    y_pred: torch.Tensor | np.ndarray, y: torch.Tensor | np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels (B, C) of the intersection, the prediction and the reference."""
    y_pred, y = as_paired_stacks(y_pred, y, names=("y_pred", "y"))
    if y_pred.shape != y.shape:
        raise InputError(
            f"y: found shape {tuple(y.shape)} beside y_pred {tuple(y_pred.shape)}, expected equal shapes; "
            "fuse several samples or raters with fuse_masks first."
        )
    spatial = tuple(range(2, y.ndim))
    return (y_pred & y).sum(dim=spatial), y_pred.sum(dim=spatial), y.sum(dim=spatial)


def _ratio(numerator: torch.Tensor, denominator: torch.Tensor, area: torch.Tensor, ignore_empty: bool) -> torch.Tensor:
    score = torch.where(denominator > 0, numerator.to(torch.float64) / denominator.clamp(min=1), 1.0)
    return torch.where(area > 0, score, torch.nan) if ignore_empty else score


class ConsensusDice(ConsensusMetric):
    """Mean Dice of the fused samples with the fused raters; see `dice_score` and `ConsensusMetric`."""

    score = staticmethod(dice_score)


class ConsensusIoU(ConsensusMetric):
    """Mean IoU of the fused samples with the fused raters; see `iou_score` and `ConsensusMetric`."""

    score = staticmethod(iou_score)
