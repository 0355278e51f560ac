"""Post-processing of a sampled mask by mathematical morphology: opening, closing, filling of holes.

LSegDiff refines its masks by "a straightforward post-processing step using morphological operations"; its abstract does
not say which. Opening removes specks and closing bridges gaps, both with a cross of one pixel's reach; then holes are
filled. An object less than three pixels wide is lost.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import binary_closing, binary_fill_holes, binary_opening, generate_binary_structure


def refine_masks(masks: torch.Tensor) -> torch.Tensor:
    """Open, close and fill each mask by itself; beyond the image it is assumed to continue as at the edge.

    Args:
        masks: (B, N, H, W[, D]) bool.

    Returns:
        The same shape, bool, on the same device; empty masks stay empty.
    """
    # The element has no extent along batch and sample, so one call treats all masks separately.
    cross = generate_binary_structure(masks.ndim - 2, 1)[None, None]
    # Four steps of one pixel's reach look this far beyond the edge; zeros there would erode masks that touch it.
    margin = 4
    pad = [(0, 0), (0, 0), *[(margin, margin)] * (masks.ndim - 2)]
    array = np.pad(masks.cpu().numpy(), pad, mode="edge")
    closed = binary_closing(binary_opening(array, cross), cross)
    inside = (..., *[slice(margin, -margin)] * (masks.ndim - 2))
    return torch.from_numpy(binary_fill_holes(closed[inside], cross)).to(masks.device)
