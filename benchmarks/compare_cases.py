"""Compare evaluations of the same cases with the first of them.

Usage: python benchmarks/compare_cases.py NAME=FOLDER[,FOLDER...] NAME=FOLDER[,FOLDER...] ... --output FILE

A folder is an output of ``medseglatdiff evaluate``; several of one name, of other selections of cases, are taken
together, and a case that is in two of them counts once. A folder may have the ``training.json`` of its run beside
``metrics.json``: its number of steps is noted. For each name: means, and the mean difference from the first name with
its bootstrap interval over groups (patients) and Wilcoxon p-value.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from records import save_record

from medseglatdiff_monai.evaluation.result import load_result
from medseglatdiff_monai.suites.statistics import Interval, compare_groups, group_interval

METRICS = ("ged_v", "ged_u", "hm_iou", "dice", "soft_dice", "ece_band", "brier_band", "diversity")


def rounded(interval: Interval) -> dict[str, float | int]:
    """The interval with five decimals."""
    return {key: round(value, 5) if isinstance(value, float) else value for key, value in asdict(interval).items()}


def describe(name: str, folders: list[Path], base: pd.DataFrame | None) -> tuple[dict[str, Any], pd.DataFrame]:
    """The record of one name, and its cases."""
    results = [load_result(folder / "metrics.json") for folder in folders]
    (num_samples,) = {result["summary"]["num_samples"] for result in results}
    cases = pd.concat([pd.read_csv(folder / "cases.csv") for folder in folders])
    cases = cases.drop_duplicates("case").set_index("case")
    row: dict[str, Any] = {"name": name, "metrics": {}}
    for metric in METRICS:
        row["metrics"][metric] = rounded(group_interval(cases[metric], cases["group"]))
        if base is not None:
            row["metrics"][metric]["difference"] = rounded(compare_groups(cases, base, metric))
    run = folders[0] / "training.json"
    if run.is_file():
        row["training"] = json.loads(run.read_text())["stages"]
    row["num_samples"] = num_samples
    row["provenance"] = [result["provenance"] for result in results]
    return row, cases


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", nargs="+", help="NAME=FOLDER[,FOLDER...]")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    rows, base = [], None
    for evaluation in arguments.evaluations:
        name, equals, folders = evaluation.rpartition("=")
        if not equals:
            parser.error(f"{evaluation}: expected NAME=FOLDER.")
        row, cases = describe(name, [Path(folder) for folder in folders.split(",")], base)
        rows.append(row)
        base = cases if base is None else base
    save_record({"rows": rows}, arguments.output)


if __name__ == "__main__":
    main()
