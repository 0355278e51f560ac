"""How far the confidence map c, the share of samples, is from the mean rater map m, the share of raters.

Soft Dice = 2 sum c m / (sum c^2 + sum m^2), which unlike the form without squares is 1 for c = m and only there;
Brier = mean (c - m)^2; ECE = sum over bins of n_bin / n |mean c - mean m|, with equal bins of c (Guo et al. 2017, Eq.
3, the raters' share in the place of the accuracy). Brier and ECE are taken over the whole image, where background
decides, and over the band of disagreement, the pixels in which raters or samples differ among themselves.
"""

from __future__ import annotations

import numpy as np
import torch

from ..errors import InputError
from .cumulative import EnsembleMetric
from .masks import as_paired_maps, as_paired_stacks, mean_mask

REGIONS = ("image", "band")


def soft_dice(confidence: torch.Tensor | np.ndarray, target: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Soft Dice of each case, with squares in the denominator.

    Args:
        confidence: (B, 1, H, W[, D]) in [0, 1].
        target: (B, 1, H, W[, D]) in [0, 1], the mean rater map.

    Returns:
        (B,) float64 in [0, 1]; both maps zero everywhere gives 1, one of them 0. For binary maps it is their Dice.

    Raises:
        InputError: see `metrics.masks.as_paired_maps`.
    """
    c, m = (values.flatten(1) for values in as_paired_maps(confidence, target))
    total = (c.square() + m.square()).sum(dim=1)
    return torch.where(total > 0, 2 * (c * m).sum(dim=1) / torch.where(total > 0, total, 1.0), 1.0)


def brier_score(
    confidence: torch.Tensor | np.ndarray, target: torch.Tensor | np.ndarray, region: str = "image"
) -> torch.Tensor:
    """Mean squared difference of the two maps in each case.

    Args:
        confidence: (B, 1, H, W[, D]) in [0, 1].
        target: (B, 1, H, W[, D]) in [0, 1], the mean rater map.
        region: "image": all pixels. "band": those where 0 < confidence < 1 or 0 < target < 1.

    Returns:
        (B,) float64 in [0, 1]; NaN where the band is empty.

    Raises:
        InputError: see `metrics.masks.as_paired_maps`; another region.
    """
    confidence, target = as_paired_maps(confidence, target)
    inside = _select(confidence, target, region)
    squares = torch.where(inside, (confidence - target).flatten(1).square(), 0.0).sum(dim=1)
    # 0 / 0 is NaN where the band is empty.
    return squares / inside.sum(dim=1)


def calibration_bins(
    confidence: torch.Tensor | np.ndarray,
    target: torch.Tensor | np.ndarray,
    region: str = "image",
    num_bins: int = 15,
) -> torch.Tensor:
    """Bins for a calibration error or a reliability diagram; those of several cases may be added.

    Args:
        confidence: (B, 1, H, W[, D]) in [0, 1].
        target: (B, 1, H, W[, D]) in [0, 1], the mean rater map.
        region: see `brier_score`.
        num_bins: bins [k / num_bins, (k + 1) / num_bins) of the confidence; the last holds 1 too.

    Returns:
        (B, 3, num_bins) float64: for each bin the number of pixels, the sum of their confidence and of their target.

    Raises:
        InputError: see `metrics.masks.as_paired_maps`; another region; no bin.
    """
    _check_bins(num_bins)
    confidence, target = as_paired_maps(confidence, target)
    inside = _select(confidence, target, region).to(torch.float64)
    c, m = confidence.flatten(1), target.flatten(1)
    # A share such as 7/15 falls into the bin that starts there, whatever the rounding of its product.
    index = (c * num_bins + 1e-6).floor().long().clamp(max=num_bins - 1)
    bins = torch.zeros((len(c), 3, num_bins), dtype=torch.float64, device=c.device)
    for row, values in enumerate((inside, c * inside, m * inside)):
        bins[:, row].scatter_add_(1, index, values)
    return bins


def calibration_error(bins: torch.Tensor) -> torch.Tensor:
    """Expected calibration error of bins.

    Args:
        bins: (..., 3, num_bins), see `calibration_bins`.

    Returns:
        (...) float64 in [0, 1]; NaN where the bins hold no pixel.
    """
    count, confidence, target = bins.unbind(dim=-2)
    return (confidence - target).abs().sum(dim=-1) / count.sum(dim=-1)


def _select(confidence: torch.Tensor, target: torch.Tensor, region: str) -> torch.Tensor:
    """Pixels (B, P) bool of the region."""
    _check_region(region)
    if region == "image":
        return torch.ones_like(confidence, dtype=torch.bool).flatten(1)
    return (((confidence > 0) & (confidence < 1)) | ((target > 0) & (target < 1))).flatten(1)


def _check_region(region: str) -> None:
    if region not in REGIONS:
        raise InputError(f"region: found {region!r}, expected 'image' or 'band'; choose one of the two.")


def _check_bins(num_bins: int) -> None:
    if num_bins < 1:
        raise InputError(f"num_bins: found {num_bins}, expected at least 1.")


def _average(samples: torch.Tensor, raters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    samples, raters = as_paired_stacks(samples, raters)
    return mean_mask(samples), mean_mask(raters)


class SoftDice(EnsembleMetric):
    """Mean soft Dice over the cases; see `soft_dice` and `EnsembleMetric`."""

    compute_cases = staticmethod(lambda samples, raters: soft_dice(*_average(samples, raters)))


class BrierScore(EnsembleMetric):
    """Mean Brier score over the cases; see `brier_score` and `EnsembleMetric`.

    Args:
        region: "image" or "band"; cases without a band are left out of the mean.
    """

    def __init__(self, region: str = "image") -> None:
        super().__init__()
        _check_region(region)
        self.region = region

    def compute_cases(self, samples: torch.Tensor, raters: torch.Tensor) -> torch.Tensor:
        """Score each case: (B, N, H, W[, D]) and (B, R, H, W[, D]) give (B,)."""
        return brier_score(*_average(samples, raters), region=self.region)


class ExpectedCalibrationError(EnsembleMetric):
    """Expected calibration error of the pixels of all cases together; see `calibration_bins` and `EnsembleMetric`.

    The mean over cases would differ: in one case a bin holds few pixels, whose means differ by chance, and errors of
    opposite sign in different cases would add up instead of cancelling. So the buffer holds the bins of each case, a
    row of 3 * num_bins numbers, and the call returns these rows; `compute_cases` gives the error of each case, and
    `aggregate` that of all pixels, NaN where no case has a band.

    Args:
        region: "image" or "band".
        num_bins: number of equal bins of the confidence.
    """

    def __init__(self, region: str = "image", num_bins: int = 15) -> None:
        super().__init__()
        _check_region(region)
        _check_bins(num_bins)
        self.region, self.num_bins = region, num_bins
        self.row_length = 3 * num_bins

    def compute_cases(self, samples: torch.Tensor, raters: torch.Tensor) -> torch.Tensor:
        """Error of each case by itself: (B, N, H, W[, D]) and (B, R, H, W[, D]) give (B,), NaN without a band."""
        return calibration_error(self._bin(samples, raters))

    def _score_rows(self, samples: torch.Tensor, raters: torch.Tensor) -> torch.Tensor:
        return self._bin(samples, raters).flatten(1)

    def _bin(self, samples: torch.Tensor, raters: torch.Tensor) -> torch.Tensor:
        return calibration_bins(*_average(samples, raters), region=self.region, num_bins=self.num_bins)

    def _reduce(self, cases: torch.Tensor) -> torch.Tensor:
        """Error of the pooled pixels; NaN where no case has a band."""
        return calibration_error(cases.sum(dim=0).unflatten(0, (3, self.num_bins)))
