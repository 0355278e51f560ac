"""Write ``benchmarks/results/chase_mask_resolution.json``: what resizing masks costs, before any network is trained.

Usage: python benchmarks/mask_resolution.py PREPARED_FOLDER [--output FILE]. The training and validation masks are
resized to each side by the nearest neighbour or by area (foreground where at least half of a pixel is), brought back to
the native grid by linear interpolation, and compared with themselves: what a model that copied its training masks would
score. The Dice between the first two raters stands beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from records import RESULTS, save_record

from medseglatdiff_monai.data.datalist import load_datalist
from medseglatdiff_monai.data.fingerprint import dice_after_resizing
from medseglatdiff_monai.io.prepared import LoadCase
from medseglatdiff_monai.metrics import dice_score


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 256, 384, 512])
    parser.add_argument("--output", type=Path, default=RESULTS / "chase_mask_resolution.json")
    arguments = parser.parse_args()
    items = [item for part in ("training", "validation") for item in load_datalist(arguments.prepared, part)]
    scores: dict[tuple[int, str], list[float]] = {}
    raters = []
    for item in items:
        masks = LoadCase(is_label=True)(item["label"]).as_tensor() > 0
        raters.append(dice_score(masks[None, :1], masks[None, 1:2]).item())
        for side in arguments.sides:
            for how in ("nearest", "area"):
                scores.setdefault((side, how), []).extend(dice_after_resizing(masks, side, how))
    record = {
        "dataset": arguments.prepared.name,
        "num_cases": len(items),
        "dice_between_raters": sum(raters) / len(raters),
        "dice_after_resizing": {
            how: {str(side): sum(values) / len(values) for (side, kind), values in scores.items() if kind == how}
            for how in ("nearest", "area")
        },
    }
    save_record(record, arguments.output)


if __name__ == "__main__":
    main()
