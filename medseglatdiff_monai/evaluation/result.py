"""The score of a case, and the files of an evaluation: ``metrics.json`` and ``cases.csv``."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import InputError
from ..files import read_versioned, save_json, save_text
from ..metrics.calibration import calibration_error
from ..metrics.overlap import dice_score
from .columns import COLUMNS
from .scored import ScoredMasks

# Raised with every change in the meaning of a column: results of two versions must not be compared.
RESULT_VERSION = 2
VERSION_ADVICE = (
    "the figures of two versions are not comparable: choose another --output-dir, or move the file away, and run the "
    "command again"
)


class ScoredCase(NamedTuple):
    """The record of one case.

    Attributes:
        row: column → value.
        bins: pooled column → bins (3, number of bins).
        rater_dice: (R,) of the consensus, NaN where the rater marked nothing.
    """

    row: dict[str, Any]
    bins: dict[str, np.ndarray]
    rater_dice: np.ndarray


def score_case(case: str, group: str, grids: Mapping[str, ScoredMasks], score_at: str) -> ScoredCase:
    """Score an ensemble of one case (B = 1) on the grid ``score_at``; the columns of another grid where it is given."""
    scored = grids[score_at]
    row: dict[str, Any] = {"case": case, "group": group}
    for name, column in COLUMNS.items():
        grid = column.grid or score_at
        if column.score is not None and column.grid != score_at and grid in grids:
            row[name] = float(column.score(grids[grid]))
    bins = {name: scored.bins(c.pooled)[0].numpy() for name, c in COLUMNS.items() if c.pooled is not None}
    with_raters = dice_score(scored.consensus.expand_as(scored.raters), scored.raters, ignore_empty=True)
    return ScoredCase(row, bins, with_raters[0].numpy())


def pool_bins(cases: Sequence[ScoredCase], name: str) -> np.ndarray:
    """Bins (3, number of bins) of a column, of the pixels of all cases together."""
    return np.sum([case.bins[name] for case in cases], axis=0)


def score_raters(cases: Sequence[ScoredCase], names: Sequence[str]) -> dict[str, dict[str, float | int | None]]:
    """Mean Dice of the consensus with each named rater, over the cases in which the rater marked something."""
    scores = {}
    for rater, name in enumerate(names):
        values = [float(case.rater_dice[rater]) for case in cases if math.isfinite(case.rater_dice[rater])]
        scores[name] = {"dice": statistics.fmean(values) if values else None, "num_cases": len(values)}
    return scores


def reliability(bins: np.ndarray) -> dict[str, list[float]]:
    """A reliability diagram: pixels of each bin, their mean confidence and mean share of raters, NaN in empty bins."""
    count, confidence, target = bins
    means = [
        np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0) for total in (confidence, target)
    ]
    return {"count": count.tolist(), "confidence": means[0].tolist(), "target": means[1].tolist()}


def summarize(cases: Sequence[ScoredCase]) -> dict[str, float | None]:
    """Mean of each column over the cases for which it is defined; ``None`` if there is no such case.

    Pooled columns are the errors of the pixels of all cases together, see
    :class:`~medseglatdiff_monai.metrics.ExpectedCalibrationError`; the table's columns hold each case's own.
    """
    means: dict[str, float | None] = {}
    for name in cases[0].row:
        if name not in COLUMNS:
            continue
        values = [case.row[name] for case in cases if math.isfinite(case.row[name])]
        means[name] = statistics.fmean(values) if values else None
    for name in cases[0].bins:
        pooled = float(calibration_error(torch.from_numpy(pool_bins(cases, name))))
        means[name] = pooled if math.isfinite(pooled) else None
    return means


def count_cases(cases: Sequence[ScoredCase]) -> dict[str, int]:
    """How many there are, and in how many the raters' consensus is not empty."""
    return {
        "num_cases": len(cases),
        "num_nonempty_consensus": sum(math.isfinite(case.row["dice"]) for case in cases),
    }


def entries_of_all(cases: Sequence[ScoredCase], rater_names: Sequence[str]) -> dict[str, Any]:
    """What ``metrics.json`` says of all cases together, beside its summary."""
    return {
        "raters": score_raters(cases, rater_names),
        "calibration": {name: reliability(pool_bins(cases, name)) for name in cases[0].bins},
    }


def write_result(
    output_dir: Path,
    cases: Sequence[ScoredCase],
    summary: Mapping[str, Any],
    not_applicable: Mapping[str, str],
    **entries: Any,
) -> None:
    """Write ``cases.csv`` of at least one case, and ``metrics.json`` with the summary and further ``entries``.

    ``not_applicable`` says why each figure of the summary that is ``None`` is missing.
    """
    rows = io.StringIO(newline="")
    writer = csv.DictWriter(rows, fieldnames=list(cases[0].row))
    writer.writeheader()
    writer.writerows(case.row for case in cases)
    # Between the two writes no old summary must stand beside new rows.
    (output_dir / "metrics.json").unlink(missing_ok=True)
    save_text(rows.getvalue(), output_dir / "cases.csv")
    result = {"version": RESULT_VERSION, "summary": summary, "not_applicable": not_applicable, **entries}
    save_json(result, output_dir / "metrics.json")


def load_result(path: str | Path) -> dict[str, Any]:
    """Read a ``metrics.json`` of this version.

    Raises:
        InputError: no such file, no result, or one of another version, whose figures may mean something else.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; expected the metrics.json of an evaluation.")
    result = read_versioned(path, RESULT_VERSION, VERSION_ADVICE)
    if "summary" not in result:
        raise InputError(f"{path}: found no summary; expected the metrics.json of an evaluation.")
    return result
