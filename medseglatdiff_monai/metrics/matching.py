"""Hungarian-matched IoU between the samples of a model and the masks of the raters of one case.

Samples and raters are replicated to their least common multiple L and matched one to one:
HM-IoU = max over permutations p of (1/L) sum_l IoU(s_l, y_p(l)), with IoU(empty, empty) = 1. Every sample and every
rater thereby has the same weight; matching the best R of N samples instead would be an oracle score.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from .cumulative import EnsembleMetric
from .distances import pairwise_iou
from .masks import as_paired_stacks


def hungarian_matched_iou(samples: torch.Tensor | np.ndarray, raters: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Hungarian-matched IoU of each case.

    Args:
        samples: (B, N, H, W[, D]) binary.
        raters: (B, R, H, W[, D]) binary; an absent rater is an empty mask and counts.

    Returns:
        (B,) float64 in [0, 1] on the device of `samples`; 1 where both hold the same masks in the same proportions, all
        masks empty included.

    Raises:
        InputError: see `metrics.masks.as_paired_stacks`.
    """
    samples, raters = as_paired_stacks(samples, raters)
    n, r = samples.shape[1], raters.shape[1]
    multiple = math.lcm(n, r)
    # Replicating masks repeats rows and columns of their IoU matrix, so that each IoU is counted only once.
    iou = pairwise_iou(samples, raters).cpu().numpy().repeat(multiple // n, axis=1).repeat(multiple // r, axis=2)
    matched = [case[linear_sum_assignment(case, maximize=True)].mean() for case in iou]
    return torch.tensor(matched, dtype=torch.float64, device=samples.device)


class HungarianMatchedIoU(EnsembleMetric):
    """Mean Hungarian-matched IoU over the cases; see `hungarian_matched_iou` and `EnsembleMetric`."""

    compute_cases = staticmethod(hungarian_matched_iou)
