"""What ``prepare`` says at its end: the images, the raters and their agreement, the parts."""

from __future__ import annotations

from pathlib import Path

from ..console import count
from .datalist import load_datalist, load_dataset_info
from .splits import SPLITS

__all__ = ["summarise_dataset"]

# Agreement is measured on this many cases per part: enough for two digits, and read in seconds.
AGREEMENT_CASES = 100
# With fewer groups, chance decides which weights the validation finds best.
FEW_GROUPS = 5


def summarise_dataset(dataset_file: str | Path) -> list[str]:
    """Describe a prepared folder in a few lines.

    Args:
        dataset_file: ``dataset.json`` of the folder.

    Returns:
        Lines with the numbers of images, groups and raters, the parts, what was left out, how far the raters agree
        (the mean IoU of two raters' masks, where at least one of them is not empty), and what to beware of.
    """
    info = load_dataset_info(Path(dataset_file).parent)
    unit, counts = info["split"]["group_unit"], info["provenance"]["counts"]
    names = f" ({', '.join(info['raters'])})" if info.get("raters") else ""
    images = sum(part["cases"] for part in counts.values())
    groups = sum(part["groups"] for part in counts.values())
    lines = [
        f"{count(images, 'case')} of {count(groups, unit)}, {count(info['num_channels'], 'channel')}; "
        f"{count(info['num_raters'], 'rater')}{names}",
        ", ".join(f"{name} {part['cases']:,} ({count(part['groups'], unit)})" for name, part in counts.items()),
    ]
    if info["provenance"]["left_out"]:
        left_out = ", ".join(f"{number:,} {reason}" for reason, number in info["provenance"]["left_out"].items())
        lines.append(f"left out: {left_out}")
    lines.append(_describe_masks(dataset_file, info["num_raters"]))
    for name in ("training", "validation"):
        if not counts[name]["cases"]:
            lines.append(f"warning: the {name} part is empty, so nothing can be trained; give --split-file or --ratios")
    few = counts["validation"]["groups"]
    # Where these ratios give more, and the groups were split by ratios at all.
    if info["split"].get("method") == "ratios" and 0 < few < min(FEW_GROUPS, round(0.3 * groups)):
        lines.append(
            f"warning: {count(few, unit)} for validation {'is' if few == 1 else 'are'} too few to find the best "
            "weights; --ratios 7:3:0 --output-dir ANOTHER keeps more"
        )
    return lines


def _describe_masks(dataset_file: str | Path, num_raters: int) -> str:
    """Share of empty masks, and the raters' agreement, over some cases of each part."""
    # Imported here: they take seconds, and the folder is complete before.
    import torch

    from ..io.prepared import LoadCase
    from ..metrics import pairwise_iou

    folder = Path(dataset_file).parent
    info = load_dataset_info(folder)
    items = [item for name in SPLITS if info[name] for item in load_datalist(folder, name, AGREEMENT_CASES)]
    load = LoadCase(is_label=True, spatial_dims=info.get("spatial_dims", 2))
    empty, agreements = 0, []
    first, second = torch.triu_indices(num_raters, num_raters, offset=1)
    for item in items:
        masks = torch.as_tensor(load(item["label"]))[None].bool()
        present = masks.flatten(2).any(2)[0]
        empty += int((~present).sum())
        iou = pairwise_iou(masks, masks)[0, first, second]
        agreements.append(iou[present[first] | present[second]])
    text = f"{100 * empty / (len(items) * num_raters):.0f}% of the masks are empty"
    pairs = torch.cat(agreements)
    if pairs.numel():
        text += f"; two raters agree with a mean IoU of {pairs.mean():.2f}"
    return f"{text} (measured on {len(items):,} cases)"
