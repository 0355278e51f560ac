"""Generalized energy distance between the samples s of a model and the masks y of the raters of one case.

GED = 2 E d(s, y) - E d(s, s') - E d(y, y'), with d = 1 - IoU and IoU(empty, empty) = 1: the squared distance of Kohl et
al. 2018, "A Probabilistic U-Net for Segmentation of Ambiguous Images". The V-statistic, used in the literature, takes
each mean over all pairs, a mask with itself included, and falls with the number of samples even for a perfect model.
The U-statistic takes the last two over distinct pairs and has no such bias if the samples are independent.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from ..errors import InputError
from .cumulative import EnsembleMetric
from .distances import pairwise_iou_distance
from .masks import as_masks, as_paired_stacks


def generalized_energy_distance(
    samples: torch.Tensor | np.ndarray, raters: torch.Tensor | np.ndarray, unbiased: bool = False
) -> torch.Tensor:
    """Generalized energy distance of each case.

    Args:
        samples: (B, N, H, W[, D]) binary.
        raters: (B, R, H, W[, D]) binary; an absent rater is an empty mask and counts.
        unbiased: False: V-statistic, self-pairs included. True: U-statistic, self-pairs excluded.

    Returns:
        (B,) float64. V-statistic: in [0, 2], 0 where samples and raters hold the same masks in the same proportions
        (all masks empty included). U-statistic: in [-2, 2], below 0 by chance; NaN with a single sample or a single
        rater, because then no distinct pair exists to estimate that term from.

    Raises:
        InputError: see `metrics.masks.as_paired_stacks`.
    """
    samples, raters = as_paired_stacks(samples, raters)
    between = pairwise_iou_distance(samples, raters).mean(dim=(1, 2))
    return 2 * between - _mean_within(samples, unbiased) - _mean_within(raters, unbiased)


def energy_distance_floor(raters: torch.Tensor | np.ndarray, num_samples: int) -> torch.Tensor:
    """Mean V-statistic of a model that draws its samples from the raters themselves, with replacement.

    With D the mean of d(y, y') over all pairs, self-pairs included, 2 E d(s, y) = 2 D and E d(s, s') = D (1 - 1/N), so
    that the V-statistic is D/N on average (and the U-statistic -D/(R - 1)). A model that draws from the population of
    raters, not from the R who happened to rate the case, reaches R/(R - 1) D (1/N + 1/R) instead.

    Args:
        raters: (B, R, H, W[, D]) binary.
        num_samples: N.

    Returns:
        (B,) float64 in [0, 1 / num_samples]; 0 where the raters agree.

    Raises:
        InputError: see `metrics.masks.as_masks`; no sample.
    """
    if num_samples < 1:
        raise InputError(f"num_samples: found {num_samples}, expected at least 1.")
    return _mean_within(as_masks(raters, "raters"), unbiased=False) / num_samples


def sample_diversity(samples: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Mean distance between two different samples of a case, to be compared with that between two raters.

    Args:
        samples: (B, N, H, W[, D]) binary.

    Returns:
        (B,) float64 in [0, 1]: 0 where all samples are equal (all empty included), NaN with a single sample.

    Raises:
        InputError: see `metrics.masks.as_masks`.
    """
    return _mean_within(as_masks(samples, "samples"), unbiased=True)


def _mean_within(masks: torch.Tensor, unbiased: bool) -> torch.Tensor:
    """Mean distance (B,) among the N masks (B, N, ...) of a case."""
    n = masks.shape[1]
    # Self-pairs add 0 to the sum, so that only the number of pairs differs. A single mask gives NaN if unbiased.
    return pairwise_iou_distance(masks, masks).sum(dim=(1, 2)) / (n * (n - 1) if unbiased else n * n)


class GeneralizedEnergyDistance(EnsembleMetric):
    """Mean generalized energy distance over the cases; see `generalized_energy_distance` and `EnsembleMetric`.

    Args:
        unbiased: False: V-statistic. True: U-statistic, NaN with a single sample or a single rater.
    """

    def __init__(self, unbiased: bool = False) -> None:
        super().__init__()
        self.compute_cases = partial(generalized_energy_distance, unbiased=unbiased)


class SampleDiversity(EnsembleMetric):
    """Mean diversity of the samples over the cases; `y` is not used. See `sample_diversity` and `EnsembleMetric`."""

    compute_cases = staticmethod(lambda samples, raters: sample_diversity(as_paired_stacks(samples, raters)[0]))
