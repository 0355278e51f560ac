"""A metric: how far the samples' mean area is from the raters'."""

import torch

from medseglatdiff_monai.evaluation.columns import COLUMNS, Column
from medseglatdiff_monai.evaluation.scored import ScoredMasks


def mean_area(masks: torch.Tensor) -> torch.Tensor:
    """Masks (B, N, H, W[, D]) bool → mean number of pixels over the N masks, (B,)."""
    return masks.flatten(2).sum(2).double().mean(1)


def area_error(masks: ScoredMasks) -> torch.Tensor:
    """Difference of the mean areas of samples and raters in pixels, (B,)."""
    return (mean_area(masks.samples) - mean_area(masks.raters)).abs()


COLUMNS["area_error"] = Column(
    "area_error", "Area error", "difference of the mean areas", "in pixels", area_error, direction=-1, digits=1
)
