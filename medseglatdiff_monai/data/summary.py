"""What ``prepare`` says at its end: the images, the raters and their agreement, the parts."""

from __future__ import annotations

from pathlib import Path

from ..console import count
from .datalist import load_dataset_info

# With fewer groups, chance decides which weights the validation finds best.
FEW_GROUPS = 5


def summarise_dataset(dataset_file: str | Path) -> list[str]:
    """Describe a prepared folder in a few lines.

    Args:
        dataset_file: ``dataset.json`` of the folder.

    Returns:
        Lines with the numbers of images, groups and raters, the parts, what was left out, how far the raters agree
        (see :func:`~medseglatdiff_monai.data.fingerprint.take_fingerprint`), and what to beware of.
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
    if counts["training"]["cases"]:
        lines.append(_describe_masks(Path(dataset_file).parent))
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


def _describe_masks(folder: Path) -> str:
    """How many masks are empty and how far the raters agree, as ``train`` measures it."""
    # Imported here: it takes seconds, and the folder is complete before.
    from .fingerprint import take_fingerprint

    found = take_fingerprint(folder)
    agreement = found["dice_between_raters"]
    agreed = "" if agreement is None else f"; raters agree with Dice {agreement:.2f}"
    measured = count(found["measured"], "training case")
    return f"{100 * found['empty_share']:.0f}% of the masks are empty{agreed} (measured on {measured})"
