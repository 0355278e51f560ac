"""Compare two evaluations of the same cases: ``python benchmarks/compare_cases.py FIRST SECOND --output FILE``.

FIRST and SECOND are output folders of ``medseglatdiff evaluate``. Means of both, and the mean difference first - second
with its bootstrap interval over groups (patients) and Wilcoxon p-value.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from records import save_record

from medseglatdiff_monai.evaluation.result import load_result
from medseglatdiff_monai.suites.statistics import Interval, compare_groups, group_interval

METRICS = ("ged_v", "ged_u", "hm_iou", "dice", "soft_dice", "ece_band", "diversity")


def rounded(interval: Interval) -> dict[str, float | int]:
    """The interval with five decimals."""
    return {key: round(value, 5) if isinstance(value, float) else value for key, value in asdict(interval).items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--names", nargs=2, required=True, help="what the two are called")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    folders = (arguments.first, arguments.second)
    results = [load_result(folder / "metrics.json") for folder in folders]
    frames = [pd.read_csv(folder / "cases.csv").set_index("case") for folder in folders]
    record = {
        "names": arguments.names,
        "metrics": {
            metric: {
                "first": rounded(group_interval(frames[0][metric], frames[0]["group"])),
                "second": rounded(group_interval(frames[1][metric], frames[1]["group"])),
                "difference": rounded(compare_groups(frames[0], frames[1], metric)),
            }
            for metric in METRICS
        },
        "num_samples": [result["summary"]["num_samples"] for result in results],
        "provenance": [result["provenance"] for result in results],
    }
    save_record(record, arguments.output)


if __name__ == "__main__":
    main()
