"""The eight symmetries of the square as numbers k = v + 2 h + 4 t: up-down if v, then left-right if h, then transposed.

Of a rectangle only k = 0 … 3 keep the shape: the flips. A number a case is what a whole batch is turned by at once,
and what a precomputed latent is found under.
"""

from __future__ import annotations

import torch

__all__ = ["apply_symmetry", "count_symmetries", "draw_symmetry"]


def count_symmetries(height: int, width: int) -> int:
    """8 for a square, 4 for a rectangle."""
    return 8 if height == width else 4


def draw_symmetry(batch: int, height: int, width: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """One symmetry a case of the given size, each as likely as any other: (B,) int64 in [0, 8) or [0, 4)."""
    # Three draws whatever the shape, so that later draws do not depend on it.
    vertical, horizontal, transposed = (torch.rand(3, batch, device=device) < 0.5).long().unbind()
    return vertical + 2 * horizontal + (4 * transposed if count_symmetries(height, width) == 8 else 0)


def apply_symmetry(x: torch.Tensor, symmetry: torch.Tensor) -> torch.Tensor:
    """Turn each case of a batch by its own symmetry.

    Args:
        x: (B, C, H, W).
        symmetry: (B,) int64 in [0, 8), in [0, 4) if H and W differ.

    Returns:
        The same shape, type and values in other places.
    """
    vertical, horizontal, transposed = ((symmetry.view(-1, 1, 1, 1) >> bit) & 1 == 1 for bit in range(3))
    x = torch.where(vertical, x.flip(-2), x)
    x = torch.where(horizontal, x.flip(-1), x)
    return torch.where(transposed, x.transpose(-1, -2), x) if x.shape[-1] == x.shape[-2] else x
