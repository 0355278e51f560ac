"""The report of a suite: one HTML file with its tables, curves and panels inside, nothing loaded from elsewhere.

The numbers are those of ``results.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.columns import COLUMNS
from ..files import fill_template
from .curves import known, plot_curves, plot_scores
from .statistics import is_significant
from .suite import Suite

# With more columns of figures than this, a curve shows them, not a table.
MAX_POINTS_IN_TABLE = 4
# As many columns of figures as stand side by side at 1,280 pixels; further ones are in a table below.
COLUMNS_SIDE_BY_SIDE = 6


def render_report(suite: Suite, results: Mapping[str, Any], panels: Sequence[Mapping[str, str]] = ()) -> str:
    """HTML of the contents of ``results.json``; panels as :func:`~medseglatdiff_monai.suites.panels.render_panels`."""
    return fill_template(
        Path(__file__).with_name("report.html.j2"), suite=suite, results=results, tables=_tables(suite, results),
        costs=_costs(suite, results), comparisons=_comparisons(results), scores=_plot_scores(suite, results),
        curves=plot_curves(results, _swept(suite)), panels=panels,
        single={row["num_seeds"] for row in results["measurements"]} == {1},
    )  # fmt: skip


def _number(value: float | None, digits: int) -> str:
    return f"{value:.{digits}f}" if known(value) else "–"


def _magnitude(value: float | None) -> str:
    """``6.0 M``, ``1.2 G``."""
    if value is None:
        return "–"
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _swept(suite: Suite) -> set[str]:
    """Keys of the evaluations that are points of a sweep."""
    return {evaluation.key for evaluation in suite.evaluations if evaluation.axis is not None}


def _in_table(suite: Suite, results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Measurements of evaluations that are no curve."""
    points: dict[str, set] = {}
    for row in results["measurements"]:
        points.setdefault(row["key"], set()).add(row["point"])
    swept = _swept(suite)
    return [
        row for row in results["measurements"]
        if row["key"] not in swept and (len(points[row["key"]]) <= MAX_POINTS_IN_TABLE or _named(suite, row))
    ]  # fmt: skip


def _named(suite: Suite, row: Mapping[str, Any]) -> bool:
    """Whether a point of a long curve is one at which systems are compared."""
    return any(e.key == row["key"] and row["point"] in (e.compare_at or ()) for e in suite.evaluations)


def _tables(suite: Suite, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tables of figures, each with as many columns as fit side by side, and of costs."""
    rows = _in_table(suite, results)
    columns: list[tuple] = list(dict.fromkeys((row["key"], row["point"], row["metric"]) for row in rows))
    # The same metric's columns are side by side: GED at 16, 32, 50, 100, then HM-IoU.
    order = [metric for evaluation in suite.evaluations for metric in suite.shown(evaluation)]
    columns.sort(key=lambda column: order.index(column[2]))
    if not columns:
        return []
    cells = {(row["system"], row["key"], row["point"], row["metric"]): row for row in rows}
    best = {column: _best(cells, column) for column in columns}
    systems = list(dict.fromkeys(row["system"] for row in rows))
    tables = []
    for start in range(0, len(columns), COLUMNS_SIDE_BY_SIDE):
        part = columns[start : start + COLUMNS_SIDE_BY_SIDE]
        body = [
            {
                "system": system,
                "cells": [_cell(cells.get((system, *column)), column[2], best[column] == system) for column in part],
            }
            for system in systems
        ]
        tables.append({"heads": _heads(part, rows), "rows": body})
    return tables


def _costs(suite: Suite, results: Mapping[str, Any]) -> dict[str, Any]:
    """The table of what each system costs, and what it was scored on."""
    paper, paper_note = _paper(suite, results)
    body = []
    for system in dict.fromkeys(row["system"] for row in results["measurements"]):
        own = [row for row in results["measurements"] if row["system"] == system]
        costs = own[0]
        body.append(
            {
                "system": system,
                "costs": [
                    _magnitude(costs["parameters"]), _magnitude(costs["multiply_accumulates"]),
                    _number(costs["training_minutes"], 1), _number(costs["seconds_per_sample"], 3),
                ],
                "cases": _range([row["num_cases"] for row in own]),
                "groups": _range([row["num_groups"] for row in own]),
                "seeds": _range([row["num_seeds"] for row in own]),
                "paper": ", ".join(f"{COLUMNS[name].label} {value:g}" for name, value in paper.get(system, {}).items()),
            }
        )  # fmt: skip
    return {"rows": body, "paper": bool(paper), "paper_note": paper_note}


def _plot_scores(suite: Suite, results: Mapping[str, Any]) -> list[dict[str, str]]:
    """Means and intervals of the first evaluation that was scored, at its largest point."""
    rows = results["measurements"]
    if not rows:
        return []
    first = [row for row in rows if row["key"] == rows[0]["key"]]
    points = [row["point"] for row in first if row["point"] is not None]
    shown = [row for row in first if not points or row["point"] == max(points)]
    return plot_scores(shown, list(dict.fromkeys(row["metric"] for row in shown)))


def _heads(columns: Sequence[tuple], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Heading of each (evaluation, point, metric); the evaluation is named where there are several."""
    evaluations = {row["key"]: row["evaluation"] for row in rows}
    heads = []
    for key, point, metric in columns:
        small = [evaluations[key]] if len(evaluations) > 1 else []
        small += [f"{point:g} samples"] if point is not None else []
        arrow = {1: " ↑", -1: " ↓", 0: ""}[COLUMNS[metric].direction]
        heads.append({"title": COLUMNS[metric].label + arrow, "small": ", ".join(small)})
    return heads


def _cell(row: Mapping[str, Any] | None, metric: str, best: bool) -> dict[str, Any]:
    """Mean and interval of a measurement, empty where it was not scored."""
    if row is None:
        return {"text": "", "small": "", "best": False}
    digits = COLUMNS[metric].digits
    interval = f"{_number(row['low'], digits)} to {_number(row['high'], digits)}" if known(row["low"]) else ""
    return {"text": _number(row["mean"], digits), "small": interval, "best": best}


def _best(cells: Mapping[tuple, Mapping[str, Any]], column: tuple) -> str | None:
    direction = COLUMNS[column[2]].direction
    found = [(row["mean"], key[0]) for key, row in cells.items() if key[1:] == column and known(row["mean"])]
    if direction == 0 or len(found) < 2:
        return None
    return (max if direction > 0 else min)(found)[1]


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}–{high}"


def _paper(suite: Suite, results: Mapping[str, Any]) -> tuple[Mapping[str, Mapping[str, float]], str]:
    """The paper's figures where the data follow its protocol, and a remark."""
    figures = suite.paper.get(results["bundle"], {})
    conditions = suite.paper_protocol.get(results["bundle"], {})
    arguments = results["dataset"]["arguments"]
    unmet = [f"{key} = {value}" for key, value in conditions.items() if arguments.get(key) != value]
    if figures and unmet:
        return {}, (
            "The paper's figures are left out: it scored data prepared with " + ", ".join(unmet) + ", another protocol "
            "than this one, and the two do not belong in one table."
        )
    return figures, "Figures of the paper: as printed there, on its own split." if figures else ""


def _comparisons(results: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for row in results["comparisons"]:
        metric = COLUMNS[row["metric"]]
        better = row["mean"] * metric.direction > 0
        verdict = "not significant"
        if is_significant(row):
            verdict = "differs" if metric.direction == 0 else "better" if better else "worse"
        digits = metric.digits + 1
        point = "" if row["point"] is None else f", {row['point']:g}"
        rows.append(
            {
                "pair": f"{row['system']} − {row['reference']}", "metric": f"{metric.label}{point}", "key": row["key"],
                "difference": f"{row['mean']:+.{digits}f}",
                "interval": "–" if not known(row["low"]) else f"{row['low']:+.{digits}f} to {row['high']:+.{digits}f}",
                "p": _p(row["p"]), "p_holm": _p(row["p_holm"]), "verdict": verdict,
                "size": f"{row['num_cases']} / {row['num_groups']}",
            }
        )  # fmt: skip
    return rows


def _p(value: float | None) -> str:
    if not known(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
