"""Best-sample Dice and the index that "Ambiguous Medical Image Segmentation using Diffusion Models" builds on it.

Rahman et al. (CIMD, CVPR 2023, arXiv 2304.04745) score a set of samples by three numbers in [0, 1]: combined
sensitivity S_c, the sensitivity of the union of the samples to the union of the raters; maximum Dice matching
D_max = mean over raters of max over samples of Dice; diversity agreement D_a = 1 - (|dV_min| + |dV_max|) / 2, where
V(a, b) is the variance over the pixels of the difference a - b, V_min and V_max its least and largest value over the
pairs of raters or of samples, and d the difference of the two. Their index is
CI = 3 S_c D_max D_a / (S_c + D_max + D_a).
"""

from __future__ import annotations

import numpy as np
import torch

from .cumulative import EnsembleMetric
from .distances import count_shared, pairwise_iou
from .masks import as_paired_stacks


def maximum_dice(samples: torch.Tensor | np.ndarray, raters: torch.Tensor | np.ndarray) -> torch.Tensor:
    """D_max: Dice of each rater with the nearest sample, averaged over the raters. More samples never lower it.

    Args:
        samples: (B, N, H, W[, D]) binary.
        raters: (B, R, H, W[, D]) binary; an absent rater is an empty mask and counts.

    Returns:
        (B,) float64 in [0, 1]; a rater and a sample that are both empty have Dice 1.

    Raises:
        InputError: see `metrics.masks.as_paired_stacks`.
    """
    iou = pairwise_iou(samples, raters)
    return (2 * iou / (1 + iou)).amax(dim=1).mean(dim=1)


def collective_insight(
    samples: torch.Tensor | np.ndarray, raters: torch.Tensor | np.ndarray
) -> dict[str, torch.Tensor]:
    """The index of each case and its parts.

    The index is called a harmonic mean; it is not one, and is computed here by its formula. Pairs are of different
    masks; implementations that count a mask with itself have V_min = 0 throughout. Where no rater marked anything the
    sensitivity is 1 if no sample did either, else 0, so that the index counts the false finding.

    Args:
        samples: (B, N, H, W[, D]) binary.
        raters: (B, R, H, W[, D]) binary; an absent rater is an empty mask and counts.

    Returns:
        ``sensitivity`` S_c, ``maximum_dice`` D_max, ``agreement`` D_a and ``score`` CI, each (B,) float64 in [0, 1].
        Agreement and score are NaN with a single rater or a single sample, which have no pairs.

    Raises:
        InputError: see `metrics.masks.as_paired_stacks`.
    """
    samples, raters = as_paired_stacks(samples, raters)
    marked, found = raters.any(dim=1).flatten(1), samples.any(dim=1).flatten(1)
    positives = marked.sum(dim=1)
    sensitivity = torch.where(
        positives > 0,
        (marked & found).sum(dim=1).to(torch.float64) / positives.clamp(min=1),
        (~found.any(dim=1)).to(torch.float64),
    )
    dice = maximum_dice(samples, raters)
    (least, largest), (least_of_raters, largest_of_raters) = _extreme_variances(samples), _extreme_variances(raters)
    agreement = 1 - ((least - least_of_raters).abs() + (largest - largest_of_raters).abs()) / 2
    total = sensitivity + dice + agreement
    score = 3 * sensitivity * dice * agreement / torch.where(total > 0, total, 1.0)
    return {"sensitivity": sensitivity, "maximum_dice": dice, "agreement": agreement, "score": score}


def _extreme_variances(masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and largest variance (B,) of the difference of two different masks of (B, N, H, W[, D]); NaN if N = 1."""
    number, pixels = masks.shape[1], masks[0, 0].numel()
    if number == 1:
        nothing = torch.full((len(masks),), torch.nan, dtype=torch.float64, device=masks.device)
        return nothing, nothing
    area = masks.flatten(2).sum(2, dtype=torch.float64)
    differing = area[:, :, None] + area[:, None, :] - 2 * count_shared(masks, masks)
    mean = (area[:, :, None] - area[:, None, :]) / pixels
    i, j = torch.triu_indices(number, number, offset=1, device=masks.device)
    variance = (differing / pixels - mean.square())[:, i, j]
    return variance.amin(dim=1), variance.amax(dim=1)


class MaximumDice(EnsembleMetric):
    """Mean D_max over the cases; see `maximum_dice` and `EnsembleMetric`."""

    compute_cases = staticmethod(maximum_dice)


class CollectiveInsight(EnsembleMetric):
    """Mean CI score over the cases; see `collective_insight` and `EnsembleMetric`."""

    compute_cases = staticmethod(lambda samples, raters: collective_insight(samples, raters)["score"])
