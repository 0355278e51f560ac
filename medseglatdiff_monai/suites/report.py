"""The report of a suite: one HTML file with its tables, curves and panels inside, nothing loaded from elsewhere.

Curves are SVG in the page, panels PNG in base64; the numbers are those of ``results.json``.
"""

from __future__ import annotations

import base64
import io
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from ..files import save_text
from ..io.prepared import LoadCase
from ..plots.comparison import ComparedCase, draw_comparison
from ..plots.panel import draw_panel
from .statistics import is_settled
from .suite import METRICS, Suite

__all__ = ["render_report", "write_report"]

COLOURS = ("#0b6e99", "#d1495b", "#3a7d44", "#7a4fa3", "#c77d0a", "#4c4c4c", "#19a5a5", "#a3426e", "#8a8d2b", "#2e4a9e")
AXES = {
    "num_samples": "number of samples",
    "num_inference_steps": "denoiser calls a sample",
    "guidance_scale": "guidance scale",
}
# More columns of figures than these are a curve's, not a table's.
MAX_POINTS_IN_TABLE = 4


def write_report(suite: Suite, results: Mapping[str, Any], path: str | Path, panels: Sequence[Mapping] = ()) -> None:
    """Write the report; see :func:`render_report`."""
    save_text(render_report(suite, results, panels), path)


def render_report(suite: Suite, results: Mapping[str, Any], panels: Sequence[Mapping] = ()) -> str:
    """HTML of a suite's results.

    Args:
        suite: what was asked for.
        results: contents of ``results.json``.
        panels: a system's name and its cases, each with ``case``, ``image`` and ``samples`` (paths).
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2").render(
        suite=suite, results=results, tables=_tables(suite, results), comparisons=_comparisons(results),
        curves=_curves(suite, results), panels=[panel for entry in panels for panel in _draw_panels(entry)],
        metrics=METRICS, single={row["num_seeds"] for row in results["measurements"]} == {1},
    )  # fmt: skip


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _magnitude(value: float | None) -> str:
    """``6.0 M``, ``1.2 G``."""
    if value is None:
        return "–"
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _in_table(suite: Suite, results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Measurements of evaluations that are no curve."""
    points: dict[str, set] = {}
    for row in results["measurements"]:
        points.setdefault(row["key"], set()).add(row["point"])
    swept = {evaluation.key for evaluation in suite.evaluations if evaluation.axis is not None}
    return [
        row for row in results["measurements"]
        if row["key"] not in swept and (len(points[row["key"]]) <= MAX_POINTS_IN_TABLE or _named(suite, row))
    ]  # fmt: skip


def _named(suite: Suite, row: Mapping[str, Any]) -> bool:
    """Whether a point of a long curve is one at which systems are compared."""
    return any(e.key == row["key"] and row["point"] in (e.compare_at or ()) for e in suite.evaluations)


def _tables(suite: Suite, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = _in_table(suite, results)
    columns: list[tuple] = list(dict.fromkeys((row["key"], row["point"], row["metric"]) for row in rows))
    # The same metric's columns stand side by side: GED at 16, 32, 50, 100, then HM-IoU.
    order = [metric for evaluation in suite.evaluations for metric in suite.shown(evaluation)]
    columns.sort(key=lambda column: order.index(column[2]))
    if not columns:
        return []
    cells = {(row["system"], row["key"], row["point"], row["metric"]): row for row in rows}
    best = {column: _best(cells, column) for column in columns}
    named = len({row["key"] for row in rows}) > 1
    evaluations = {row["key"]: row["evaluation"] for row in rows}
    heads = []
    for key, point, metric in columns:
        small = [evaluations[key]] if named else []
        small += [f"{point:g} samples"] if point is not None else []
        arrow = {1: " ↑", -1: " ↓", 0: ""}[METRICS[metric].direction]
        heads.append({"title": METRICS[metric].title + arrow, "small": ", ".join(small)})
    paper, paper_note = _paper(suite, results)
    body = []
    for system in dict.fromkeys(row["system"] for row in rows):
        own = [row for row in rows if row["system"] == system]
        entries = []
        for column in columns:
            cell = cells.get((system, *column))
            digits = METRICS[column[2]].digits
            if cell is None:
                entries.append({"text": "", "small": "", "best": False})
                continue
            low, high = _number(cell["low"], digits), _number(cell["high"], digits)
            entries.append(
                {
                    "text": _number(cell["mean"], digits),
                    "small": "" if low == "–" else f"{low} to {high}",
                    "best": best[column] == system,
                }
            )
        costs = own[0]
        body.append(
            {
                "system": system, "cells": entries,
                "costs": [
                    _magnitude(costs["parameters"]), _magnitude(costs["multiply_accumulates"]),
                    _number(costs["training_minutes"], 1), _number(costs["seconds_per_sample"], 3),
                ],
                "cases": _range([row["num_cases"] for row in own]),
                "groups": _range([row["num_groups"] for row in own]),
                "seeds": _range([row["num_seeds"] for row in own]),
                "paper": ", ".join(f"{METRICS[name].title} {value:g}" for name, value in paper.get(system, {}).items()),
            }
        )  # fmt: skip
    return [{"heads": heads, "rows": body, "paper": bool(paper), "paper_note": paper_note}]


def _best(cells: Mapping[tuple, Mapping[str, Any]], column: tuple) -> str | None:
    direction = METRICS[column[2]].direction
    found = [(row["mean"], key[0]) for key, row in cells.items() if key[1:] == column and _known(row["mean"])]
    if direction == 0 or len(found) < 2:
        return None
    return (max if direction > 0 else min)(found)[1]


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


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
        metric = METRICS[row["metric"]]
        better = row["mean"] * metric.direction > 0
        verdict = "not settled"
        if is_settled(row):
            verdict = "differs" if metric.direction == 0 else "better" if better else "worse"
        digits = metric.digits + 1
        point = "" if row["point"] is None else f", {row['point']:g}"
        rows.append(
            {
                "pair": f"{row['system']} − {row['reference']}", "metric": f"{metric.title}{point}", "key": row["key"],
                "difference": f"{row['mean']:+.{digits}f}",
                "interval": "–" if not _known(row["low"]) else f"{row['low']:+.{digits}f} to {row['high']:+.{digits}f}",
                "p": _p(row["p"]), "p_holm": _p(row["p_holm"]), "verdict": verdict,
                "size": f"{row['num_cases']} / {row['num_groups']}",
            }
        )  # fmt: skip
    return rows


def _p(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _curves(suite: Suite, results: Mapping[str, Any]) -> list[dict[str, str]]:
    curves = []
    for axis in dict.fromkeys(row["axis"] for row in results["measurements"] if row["axis"]):
        rows = [row for row in results["measurements"] if row["axis"] == axis and _known(row["mean"])]
        for metric in dict.fromkeys(row["metric"] for row in rows):
            own = [row for row in rows if row["metric"] == metric]
            if len({row["point"] for row in own}) > 1:
                label = AXES.get(str(axis), str(axis))
                curves.append({"title": f"{METRICS[metric].title} and {label}", "svg": _curve(own, label, metric)})
    for region, name in (("ece", "all pixels"), ("ece_band", "pixels where readers or samples differ")):
        entries = [entry for entry in results["calibration"] if any(entry.get(region, {}).get("count", []))]
        if entries:
            curves.append({"title": f"Reliability, {name}", "svg": _reliability(entries, region)})
    return curves


def _axes(width: float = 5.6, height: float = 3.7) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    # Without the XML head and its doctype, which name a file elsewhere.
    return text[text.index("<svg") :]


def _curve(rows: Sequence[Mapping[str, Any]], label: str, metric: str) -> str:
    figure, axes = _axes()
    # Points of one evaluation belong together: two that were scored on other cases are no curve.
    swept = all(row["key"].endswith(f"{row['point']:g}") for row in rows)
    lines: dict[tuple, list] = {}
    for row in rows:
        lines.setdefault((row["system"], "" if swept else row["key"]), []).append(row)
    systems = list(dict.fromkeys(system for system, _ in lines))
    for (system, _), points in lines.items():
        points = sorted(points, key=lambda row: row["point"])
        colour = COLOURS[systems.index(system) % len(COLOURS)]
        x, mean, low, high = ([row[name] for row in points] for name in ("point", "mean", "low", "high"))
        known = system in {text.get_label() for text in axes.lines}
        axes.plot(x, mean, marker="o", markersize=3, linewidth=1.4, color=colour, label=None if known else system)
        if all(map(_known, [*low, *high])):
            axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    values = sorted({row["point"] for row in rows})
    if values[0] > 0 and values[-1] / values[0] > 40:
        axes.set_xscale("log")
        axes.set_xticks(values, [f"{value:g}" for value in values], minor=False)
        axes.minorticks_off()
    axes.set_xlabel(label)
    axes.set_ylabel(METRICS[metric].title)
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _reliability(entries: Sequence[Mapping[str, Any]], region: str) -> str:
    figure, axes = _axes(4.4, 4.2)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--")
    names = list(dict.fromkeys(f"{entry['system']}, {entry['key']}" for entry in entries))
    for entry in entries:
        name = f"{entry['system']}, {entry['key']}"
        pairs = zip(entry[region]["confidence"], entry[region]["target"], strict=True)
        points = [pair for pair in pairs if all(map(_known, pair))]
        # One reader and a system without spread have no pixel in the band.
        if not points:
            continue
        x, y = zip(*points, strict=True)
        known = name in {line.get_label() for line in axes.lines}
        colour = COLOURS[names.index(name) % len(COLOURS)]
        axes.plot(x, y, marker="o", markersize=3, linewidth=1.3, color=colour, label=None if known else name)
    axes.set(xlabel="confidence", ylabel="share of readers", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.legend(frameon=False, fontsize=7)
    return _svg(figure)


def _draw_panels(entry: Mapping[str, Any]) -> list[dict[str, str]]:
    """Readers beside samples for all cases of a system, and its first case at length."""
    cases = []
    for case in entry["cases"]:
        with np.load(case["samples"]) as saved:
            arrays = {name: saved[name] for name in ("samples", "raters", "confidence", "consensus")}
        cases.append((case["case"], _fit(_grey_or_rgb(case["image"]), arrays["samples"].shape[1:]), arrays))
    compared = [ComparedCase(name, image, a["raters"], a["samples"]) for name, image, a in cases]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "panel.png"
        draw_comparison(compared, path, entry["system"], "Readers and samples of the same cases")
        drawn = [{"title": f"{entry['system']}: readers and samples", "png": _base64(path)}]
        name, image, arrays = cases[0]
        p = arrays["confidence"].astype(float).clip(1e-9, 1 - 1e-9)
        entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
        draw_panel(
            image, arrays["samples"], arrays["confidence"], arrays["consensus"], entropy.clip(0, 1), path, name,
            entry["system"],
        )  # fmt: skip
        drawn.append({"title": f"{entry['system']}: {name}", "png": _base64(path)})
    return drawn


def _grey_or_rgb(path: Path) -> np.ndarray:
    """(H, W) float32 or (H, W, 3) uint8."""
    image = np.asarray(LoadCase()(path))
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0).clip(0, 255).astype(np.uint8)


def _fit(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The centre of an image that was scored on a smaller grid of the same spacing."""
    top, left = ((have - want) // 2 for have, want in zip(image.shape, shape, strict=False))
    return image[top : top + shape[0], left : left + shape[1]] if top >= 0 and left >= 0 else image


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
