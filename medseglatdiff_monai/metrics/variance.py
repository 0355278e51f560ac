"""Whether the samples disagree where the raters do: normalised cross-correlation of the two variance maps.

With p the share of the masks that contain a pixel, v = p (1 - p) is the variance there; the score is the Pearson
correlation of the samples' map with the raters' over the pixels of a case. Baumgartner et al. 2019 (PHiSeg) correlate
maps of the cross-entropy instead, which needs probabilities: between binary masks it is infinite or, with the small
constant of their code, mostly a function of that constant. The two figures cannot be compared.
"""

from __future__ import annotations

import numpy as np
import torch

from .cumulative import EnsembleMetric
from .masks import as_paired_stacks, mean_mask


def variance_correlation(samples: torch.Tensor | np.ndarray, raters: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Normalised cross-correlation of the variance maps of each case.

    Args:
        samples: (B, N, H, W[, D]) binary.
        raters: (B, R, H, W[, D]) binary; an absent rater is an empty mask and counts.

    Returns:
        (B,) float64 in [-1, 1]. NaN with a single sample, and where the raters' map is constant because they agree
        everywhere or there is only one. 0 where only the map of several samples is constant: equal samples say nothing
        about where raters disagree.

    Raises:
        InputError: see `metrics.masks.as_paired_stacks`.
    """
    samples, raters = as_paired_stacks(samples, raters)
    a, b = _centred_variance(samples), _centred_variance(raters)
    power_a, power_b = a.square().sum(dim=1), b.square().sum(dim=1)
    spread = (power_a * power_b).sqrt()
    correlation = torch.where(power_a > 0, (a * b).sum(dim=1) / torch.where(spread > 0, spread, 1.0), 0.0)
    undefined = (power_b == 0) | (samples.shape[1] == 1)
    return torch.where(undefined, torch.nan, correlation.clamp(-1, 1))


def _centred_variance(masks: torch.Tensor) -> torch.Tensor:
    """Variance map of (B, N, H, W[, D]) minus its mean, (B, P); exactly 0 where the map is constant."""
    share = mean_mask(masks).flatten(1)
    variance = share * (1 - share)
    constant = variance.amax(dim=1, keepdim=True) == variance.amin(dim=1, keepdim=True)
    return torch.where(constant, 0.0, variance - variance.mean(dim=1, keepdim=True))


class VarianceCorrelation(EnsembleMetric):
    """Mean correlation of the variance maps over the cases; see `variance_correlation` and `EnsembleMetric`."""

    compute_cases = staticmethod(variance_correlation)
