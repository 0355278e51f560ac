"""Checking stacks of masks, and fusing several masks into one.

Every metric of this package takes stacks of binary masks, (B, N, H, W[, D]), and passes them through `as_masks` first,
so that a forgotten batch axis, a 0/255 mask or a probability map is an error and not a score. A stack is fused by
consensus = [mean over slots >= level], the same rule for raters and samples.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from monai.utils import convert_to_tensor

from ..errors import InputError


def as_masks(masks: torch.Tensor | np.ndarray, name: str) -> torch.Tensor:
    """Check a stack of binary masks and return it as a plain boolean tensor.

    Args:
        masks: (B, N, H, W[, D]), boolean or holding only 0 and 1, of any dtype; tensor, MetaTensor or array.
        name: what the error messages call it.

    Returns:
        (B, N, H, W[, D]) bool on the device of `masks`, without metadata.

    Raises:
        InputError: not an array, not 4 or 5 axes, no mask or no pixel in it, NaN, or a value other than 0 and 1.
    """
    if not isinstance(masks, torch.Tensor | np.ndarray):
        raise InputError(
            f"{name}: found {type(masks).__name__}, expected a tensor or array; stack the masks to (B, N, H, W[, D])."
        )
    tensor: torch.Tensor = convert_to_tensor(masks, track_meta=False)
    shape = tuple(tensor.shape)
    if tensor.ndim not in (4, 5):
        raise InputError(
            f"{name}: found shape {shape}, expected (B, N, H, W) or (B, N, H, W, D); "
            "add the missing axis, for one case with masks[None]."
        )
    if 0 in shape[1:]:
        raise InputError(f"{name}: found shape {shape}, expected at least one mask of one pixel; check the input.")
    if tensor.dtype == torch.bool:
        return tensor
    positive = tensor == 1
    binary = positive | (tensor == 0)
    if not bool(binary.all()):
        case, mask, *_ = (~binary).nonzero()[0].tolist()
        found = tensor[~binary][0].item()
        remedy = "look for the cause in the network's output or the file" if math.isnan(found) else "binarise it first"
        raise InputError(
            f"{name}: found the value {found}, expected only 0 and 1; {remedy} "
            f"(mask {mask} of case {case} in the batch)."
        )
    return positive


def as_paired_stacks(
    samples: torch.Tensor | np.ndarray,
    raters: torch.Tensor | np.ndarray,
    names: tuple[str, str] = ("samples", "raters"),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check two stacks of masks of the same cases.

    Args:
        samples: (B, N, H, W[, D]) binary.
        raters: (B, R, H, W[, D]) binary; moved to the device of `samples`.
        names: what the error messages call the two.

    Returns:
        Both as plain boolean tensors on one device.

    Raises:
        InputError: as `as_masks`, or the two differ in batch or spatial size.
    """
    a, b = as_masks(samples, names[0]), as_masks(raters, names[1])
    if a.shape[:1] + a.shape[2:] != b.shape[:1] + b.shape[2:]:
        raise InputError(
            f"{names[1]}: found shape {tuple(b.shape)} beside {names[0]} {tuple(a.shape)}, expected equal sizes on "
            "every axis but the second; bring both to one grid and one batch."
        )
    return a, b.to(a.device)


def as_paired_maps(
    confidence: torch.Tensor | np.ndarray, target: torch.Tensor | np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check a confidence map and its reference map.

    Args:
        confidence: (B, 1, H, W[, D]) in [0, 1].
        target: likewise, usually the mean of the raters' masks; moved to the device of `confidence`.

    Returns:
        Both as plain float64 tensors on one device.

    Raises:
        InputError: not an array, shapes that differ or are not (B, 1, H, W[, D]), or a value outside [0, 1] or NaN.
    """
    maps = []
    for name, values in (("confidence", confidence), ("target", target)):
        if not isinstance(values, torch.Tensor | np.ndarray):
            raise InputError(f"{name}: found {type(values).__name__}, expected a tensor or array (B, 1, H, W[, D]).")
        tensor: torch.Tensor = convert_to_tensor(values, track_meta=False)
        if tensor.ndim not in (4, 5) or tensor.shape[1] != 1:
            raise InputError(
                f"{name}: found shape {tuple(tensor.shape)}, expected (B, 1, H, W) or (B, 1, H, W, D); "
                "average the masks with mean_mask first."
            )
        inside = (tensor >= 0) & (tensor <= 1)
        if not bool(inside.all()):
            raise InputError(
                f"{name}: found the value {tensor[~inside][0].item()}, expected values in [0, 1]; "
                "apply the sigmoid to logits first."
            )
        maps.append(tensor.to(torch.float64))
    if maps[0].shape != maps[1].shape:
        raise InputError(
            f"target: found shape {tuple(maps[1].shape)} beside confidence {tuple(maps[0].shape)}, expected equal "
            "shapes; bring both to one grid and one batch."
        )
    return maps[0], maps[1].to(maps[0].device)


def mean_mask(masks: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Share of the masks that contain a pixel: the confidence map of samples, the mean rater map of raters.

    Args:
        masks: (B, N, H, W[, D]) binary; an absent rater is an empty mask and counts.

    Returns:
        (B, 1, H, W[, D]) float64 in [0, 1], exactly 0 or 1 where all masks agree.

    Raises:
        InputError: see `as_masks`.
    """
    stack = as_masks(masks, "masks")
    return stack.sum(dim=1, keepdim=True).to(torch.float64) / stack.shape[1]


def check_fusion(level: float, tie: str, name: str = "level") -> None:
    """Refuse a fusion rule under which every pixel, or none, would be foreground; `name` is that of the level.

    Raises:
        InputError: `tie` is neither, or `level` is outside (0, 1] ("foreground") or [0, 1) ("background").
    """
    if tie not in ("foreground", "background"):
        raise InputError(f"tie: found {tie!r}, expected 'foreground' or 'background'; choose one of the two.")
    if not (0 < level <= 1 if tie == "foreground" else 0 <= level < 1):
        interval = "(0, 1]" if tie == "foreground" else "[0, 1)"
        raise InputError(f"{name}: found {level}, expected a share in {interval} with tie={tie!r}, e.g. 0.5.")


def fuse_masks(masks: torch.Tensor | np.ndarray, level: float = 0.5, tie: str = "foreground") -> torch.Tensor:
    """Fuse a stack of masks into their consensus: at least (or more than) a share `level` of the slots.

    An absent rater is an empty mask and votes for background. With four slots the default requires two of them.

    Args:
        masks: (B, R, H, W[, D]) binary.
        level: share of the slots, in (0, 1] with tie="foreground" and in [0, 1) with tie="background".
        tie: whether a share equal to `level` is foreground (mean >= level) or background (mean > level).

    Returns:
        (B, 1, H, W[, D]) bool.

    Raises:
        InputError: bad masks (see `as_masks`), level or tie.
    """
    check_fusion(level, tie)
    stack = as_masks(masks, "masks")
    # Not count >= level * R: in double precision 0.55 * 20 exceeds 11, while 11 / 20 rounds to 0.55 in any precision.
    share = stack.sum(dim=1, keepdim=True).to(torch.float32) / stack.shape[1]
    return share >= level if tie == "foreground" else share > level
