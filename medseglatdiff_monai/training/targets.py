"""Which of the raters' masks a segmenter is trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from ..metrics.masks import fuse_masks

# Masks (B, R, H, W[, D]) of the raters → those that targets are drawn from, (B, M, H, W[, D]): all of them, the first,
# or what at least half of the raters marked.
TARGETS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "random_rater": lambda label: label,
    "first_rater": lambda label: label[:, :1],
    "consensus": lambda label: fuse_masks(label > 0),
}
