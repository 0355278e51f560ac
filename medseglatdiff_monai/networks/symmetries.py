"""The eight symmetries of the square as numbers k = v + 2 h + 4 t: up-down if v, then left-right if h, then transposed.

For a rectangle only the flips, k = 0 … 3, keep the shape. For a volume t flips the third axis instead: its slices are
seldom as thick as its pixels are wide, so axes are not exchanged. With one number per case, a whole batch is flipped
and rotated at once, and precomputed latents are looked up by the same number.
"""

from __future__ import annotations

import torch

# The identity and the other rotations, then the mirror images, so that the first few are as different as they can be.
SYMMETRIES = (0, 3, 5, 6, 1, 2, 4, 7)


def count_symmetries(*sides: int) -> int:
    """8 for a square or a volume, 4 for a rectangle; the sides are (H, W) or (H, W, D)."""
    return 8 if len(sides) == 3 or sides[0] == sides[1] else 4


def draw_symmetry(batch: int, *sides: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Draw one symmetry per case of the given sides, all equally likely: (B,) int64 in [0, 8) or [0, 4)."""
    # Three draws whatever the shape, so that later draws do not depend on it.
    vertical, horizontal, transposed = (torch.rand(3, batch, device=device) < 0.5).long().unbind()
    return vertical + 2 * horizontal + (4 * transposed if count_symmetries(*sides) == 8 else 0)


def apply_symmetry(x: torch.Tensor, symmetry: torch.Tensor) -> torch.Tensor:
    """Flip or rotate each case of a batch by its own symmetry.

    Args:
        x: (B, C, H, W[, D]).
        symmetry: (B,) int64 in [0, 8), in [0, 4) if H and W of an image differ.

    Returns:
        The same shape and type, with the values rearranged.
    """
    chosen = symmetry.view(-1, *([1] * (x.ndim - 1)))
    vertical, horizontal, transposed = ((chosen >> bit) & 1 == 1 for bit in range(3))
    x = torch.where(vertical, x.flip(2), x)
    x = torch.where(horizontal, x.flip(3), x)
    if x.ndim == 5:
        return torch.where(transposed, x.flip(4), x)
    return torch.where(transposed, x.transpose(-1, -2), x) if x.shape[-1] == x.shape[-2] else x


def undo_symmetry(x: torch.Tensor, symmetry: torch.Tensor) -> torch.Tensor:
    """Undo :func:`apply_symmetry`, with the same arguments."""
    if x.ndim == 4:
        # Transposing first exchanges the two flips.
        exchanged = (symmetry & 4) | (symmetry & 1) << 1 | (symmetry & 2) >> 1
        symmetry = torch.where(symmetry & 4 == 4, exchanged, symmetry)
    return apply_symmetry(x, symmetry)
