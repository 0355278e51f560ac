"""Dice of the consensus with each rater, and of the raters with each other: ``dice_by_rater.py RESULTS --output FILE``.

RESULTS is the output folder of ``medseglatdiff evaluate --save-samples``. Where a data set's results in the literature
are those against one rater (CHASE_DB1: the first), this is the figure to hold against them; evaluation's own Dice is
that with the raters' consensus.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
from records import save_record

from medseglatdiff_monai.evaluation.result import load_result
from medseglatdiff_monai.metrics import dice_score

SUMMARY = ("num_cases", "num_samples", "ged_v", "ged_u", "hm_iou", "dice")


def score_folder(folder: Path) -> dict[str, object]:
    """Means over the cases: Dice with each rater by number, and of each pair of raters."""
    with_rater: dict[str, list[float]] = {}
    between: dict[str, list[float]] = {}
    for path in sorted((folder / "samples").glob("*.npz")):
        with np.load(path) as arrays:
            consensus = torch.from_numpy(arrays["consensus"])[None, None]
            raters = torch.from_numpy(arrays["raters"])
        for number, rater in enumerate(raters, start=1):
            with_rater.setdefault(str(number), []).append(float(dice_score(consensus, rater[None, None])))
        for (i, one), (j, other) in itertools.combinations(enumerate(raters, start=1), 2):
            between.setdefault(f"{i} and {j}", []).append(float(dice_score(one[None, None], other[None, None])))
    return {
        "dice_with_rater": {number: round(float(np.mean(values)), 5) for number, values in with_rater.items()},
        "dice_between_raters": {pair: round(float(np.mean(values)), 5) for pair, values in between.items()},
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    result = load_result(arguments.results / "metrics.json")
    record = {
        **score_folder(arguments.results),
        "summary": {key: result["summary"][key] for key in SUMMARY},
        "provenance": result["provenance"],
    }
    save_record(record, arguments.output)


if __name__ == "__main__":
    main()
