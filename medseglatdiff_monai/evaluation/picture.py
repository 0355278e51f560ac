"""The picture of an evaluation: raters beside samples for the best, the median and the worst case."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..plots.comparison import ComparedCase, plot_comparison, to_picture
from .columns import COLUMNS
from .result import ScoredCase

# By what cases are put in order: it judges all samples against all raters.
ORDER_BY = "ged_v"


def choose_cases(cases: Sequence[ScoredCase]) -> dict[str, dict[str, Any]]:
    """Rows of the best, median and worst case among those with a consensus of raters or samples, if there are any.

    Returns:
        A row of the table under ``"best"``, ``"median"`` and ``"worst"``; of fewer than three cases only the first.
    """
    rows = [case.row for case in cases if math.isfinite(case.row[ORDER_BY])]
    rows = [row for row in rows if math.isfinite(row["dice"])] or rows
    rows = sorted(rows, key=lambda row: COLUMNS[ORDER_BY].direction * row[ORDER_BY], reverse=True)
    if len(rows) < 3:
        return dict(zip(("best",), rows, strict=False))
    return {"best": rows[0], "median": rows[len(rows) // 2], "worst": rows[-1]}


def plot_cases(
    cases: Sequence[ScoredCase],
    sample: Callable[[str], tuple[np.ndarray, np.ndarray, np.ndarray]],
    path: Path,
    rater_names: Sequence[str] = (),
) -> None:
    """Write the PNG; nothing where no case has a score.

    Args:
        cases: all that were scored.
        sample: gives of a case its image (C, H, W[, D]) in [0, 1], raters (R, H, W[, D]) bool and samples
            (N, H, W[, D]) bool. Of a volume the slice with the most foreground is shown.
        path: the PNG.
        rater_names: of the data set, in the raters' order.
    """
    compared = []
    for name, row in choose_cases(cases).items():
        image, raters, samples = sample(row["case"])
        if image.ndim == 4:
            marked = raters.sum((0, 1, 2)) + samples.sum((0, 1, 2))
            image, raters, samples = (part[..., int(marked.argmax())] for part in (image, raters, samples))
        dice = f", Dice {row['dice']:.2f}" if math.isfinite(row["dice"]) else ""
        remark = f"{name}: {COLUMNS[ORDER_BY].label} {row[ORDER_BY]:.2f}{dice}"
        compared.append(ComparedCase(row["case"], to_picture(image), raters, samples, remark))
    if compared:
        title = "Raters and samples: best, median and worst case" if len(compared) > 1 else "Raters and samples"
        order = f"{len(cases)} cases in the order of {COLUMNS[ORDER_BY].label}, as the network sees them"
        plot_comparison(compared, path, title, order, rater_names)
