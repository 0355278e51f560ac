"""The distance between two masks, d(a, b) = 1 - IoU(a, b), for all pairs of two stacks at once.

IoU(a, b) = |a and b| / (|a| + |b| - |a and b|), and two empty masks agree: IoU = 1, d = 0. On flattened masks the
intersections of all pairs are one matrix product.
"""

from __future__ import annotations

import numpy as np
import torch

from .masks import as_paired_stacks

# Float32 counts exactly up to 2**24 pixels; blocks below that stay exact and bound the memory of the float copy.
PIXELS_PER_BLOCK = 2**20


def pairwise_iou(a: torch.Tensor | np.ndarray, b: torch.Tensor | np.ndarray) -> torch.Tensor:
    """IoU of every mask of `a` with every mask of `b`, case by case.

    Args:
        a: (B, N, H, W[, D]) binary.
        b: (B, R, H, W[, D]) binary.

    Returns:
        (B, N, R) float64 in [0, 1] on the device of `a`; both masks empty gives 1.0, one empty gives 0.0.

    Raises:
        InputError: see `metrics.masks.as_paired_stacks`.
    """
    a, b = as_paired_stacks(a, b, names=("a", "b"))
    intersection = count_shared(a, b)
    union = a.flatten(2).sum(2)[:, :, None] + b.flatten(2).sum(2)[:, None, :] - intersection
    return torch.where(union > 0, intersection / union.clamp(min=1), 1.0)


def pairwise_iou_distance(a: torch.Tensor | np.ndarray, b: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Distance 1 - IoU of every mask of `a` to every mask of `b`, case by case.

    Args:
        a: (B, N, H, W[, D]) binary.
        b: (B, R, H, W[, D]) binary.

    Returns:
        (B, N, R) float64 in [0, 1] on the device of `a`; both masks empty gives 0.0, one empty gives 1.0.

    Raises:
        InputError: see `metrics.masks.as_paired_stacks`.
    """
    return 1.0 - pairwise_iou(a, b)


def count_shared(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Pixels that every mask of `a` (B, N, H, W[, D]) bool shares with every one of `b`: (B, N, R) float64, exact."""
    a, b = a.flatten(2), b.flatten(2)
    shared = torch.zeros((len(a), a.shape[1], b.shape[1]), dtype=torch.float64, device=a.device)
    # Autocast would make the product half precision, which counts exactly only up to 2048 (bfloat16: 256).
    with torch.autocast(device_type=a.device.type, enabled=False):
        for block_a, block_b in zip(a.split(PIXELS_PER_BLOCK, dim=2), b.split(PIXELS_PER_BLOCK, dim=2), strict=True):
            shared += block_a.float() @ block_b.float().mT
    return shared
