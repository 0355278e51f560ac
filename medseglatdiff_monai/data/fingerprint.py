"""The fingerprint of a prepared folder: what its images and masks are like, measured on the training part.

Sizes, grey values, how much of an image is foreground, how far raters agree, and what resizing costs the masks: what
one needs to know before choosing the sizes of a network, as in nnU-Net's experiment planning (Isensee et al., Nature
Methods 18, 203, 2021).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Resize

from ..io.prepared import LoadCase
from ..metrics import dice_score, pairwise_iou
from .datalist import load_datalist, load_dataset_info

MAX_CASES = 64


def take_fingerprint(
    dataset_dir: str | Path, resize: tuple[int, str] | None = None, max_cases: int = MAX_CASES
) -> dict[str, Any]:
    """Measure up to ``max_cases`` training cases, selected by seed 0.

    Args:
        dataset_dir: prepared folder.
        resize: side and mode (``"nearest"`` or ``"area"``) of the masks that the network will see; ``None`` where it
            sees a crop.
        max_cases: how many cases are read.

    Returns:
        ``cases`` of each part and ``measured`` of the training part; ``channels`` and ``raters``; ``size``, the
        smallest, median and largest sides (H, W[, D]) in pixels; ``spacing_mm``, its median; ``intensity``, the
        smallest and largest grey value; ``foreground_share``, the smallest, median and largest share of an image in the
        masks that are not empty (``None`` if all are); ``empty_share`` of the masks; ``dice_between_raters``, the mean
        over pairs (``None`` for a single rater); ``dice_after_resizing``, the mean of :func:`dice_after_resizing` over
        the same masks.

    Raises:
        InputError: no prepared folder, an empty training part, or a file that cannot be read.
    """
    info = load_dataset_info(dataset_dir)
    dims = info.get("spatial_dims", 2)
    load_image, load_masks = LoadCase(spatial_dims=dims), LoadCase(is_label=True, spatial_dims=dims)
    items = load_datalist(dataset_dir, "training", max_cases)
    sizes: list[tuple[int, ...]] = []
    lows: list[float] = []
    highs: list[float] = []
    shares: list[float] = []
    agreement: list[float] = []
    kept: list[float] = []
    spacings = [tuple(item["spacing_mm"]) for item in items if item.get("spacing_mm")]
    for item in items:
        image = torch.as_tensor(load_image(item["image"]))
        masks = torch.as_tensor(load_masks(item["label"])) > 0
        sizes.append(tuple(image.shape[1:]))
        lows.append(float(image.min()))
        highs.append(float(image.max()))
        shares += masks.flatten(1).float().mean(1).tolist()
        if len(masks) > 1:
            first, second = torch.triu_indices(len(masks), len(masks), 1)
            iou = pairwise_iou(masks[None], masks[None])[0][first, second]
            agreement += (2 * iou / (1 + iou)).tolist()
        marked = masks[masks.flatten(1).any(1)]
        if resize is not None and len(marked):
            kept += dice_after_resizing(marked, *resize)
    marked_shares = [share for share in shares if share > 0]
    return {
        "cases": {part: len(info.get(part, ())) for part in ("training", "validation", "test")},
        "measured": len(items),
        "channels": info.get("num_channels"),
        "raters": info.get("num_raters"),
        "size": _spread(sizes),
        "spacing_mm": _spread(spacings)["median"] if spacings else None,
        "intensity": {"min": min(lows), "max": max(highs)},
        "foreground_share": _spread(marked_shares) if marked_shares else None,
        "empty_share": 1.0 - len(marked_shares) / len(shares),
        "dice_between_raters": statistics.fmean(agreement) if agreement else None,
        "dice_after_resizing": statistics.fmean(kept) if kept else None,
    }


def dice_after_resizing(masks: torch.Tensor, side: int, mode: str) -> list[float]:
    """The Dice of masks that were resized to a square and back with themselves: what a perfect network could reach.

    Args:
        masks: (R, H, W) bool, none of them empty.
        side: of the square in pixels.
        mode: ``"nearest"``, or ``"area"``: a pixel is foreground where at least half of its area is.

    Returns:
        One number in [0, 1] per mask.
    """
    small = Resize((side, side), mode=mode)(masks.float()).ge(0.5).float()
    back = Resize(tuple(masks.shape[1:]), mode="bilinear")(small).ge(0.5)
    return dice_score(torch.as_tensor(back)[None], masks[None])[0].tolist()


def _spread(values: Sequence[Any]) -> dict[str, Any]:
    """Smallest, median and largest value; sides axis by axis."""
    if isinstance(values[0], tuple):
        axes = [_spread(axis) for axis in zip(*values, strict=True)]
        return {key: [axis[key] for axis in axes] for key in ("min", "median", "max")}
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}
