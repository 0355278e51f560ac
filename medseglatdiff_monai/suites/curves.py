"""The curves of a suite's report, as SVG inside the page."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeGuard

from matplotlib.figure import Figure

from ..evaluation.columns import COLUMNS

COLOURS = ("#0b6e99", "#d1495b", "#3a7d44", "#7a4fa3", "#c77d0a", "#4c4c4c", "#19a5a5", "#a3426e", "#8a8d2b", "#2e4a9e")
AXES = {
    "num_samples": "number of samples",
    "num_inference_steps": "denoiser calls per sample",
    "guidance_scale": "guidance scale",
}


def known(value: float | None) -> TypeGuard[float]:
    """Whether a figure is defined."""
    return value is not None and math.isfinite(value)


def plot_curves(results: Mapping[str, Any], swept: Collection[str]) -> list[dict[str, str]]:
    """Title and SVG of each curve of ``results.json``: a metric along an axis, and reliability.

    Evaluations whose keys are in ``swept`` are the points of one curve; others have several points of their own.
    """
    curves = []
    for axis in dict.fromkeys(row["axis"] for row in results["measurements"] if row["axis"]):
        rows = [row for row in results["measurements"] if row["axis"] == axis and known(row["mean"])]
        for metric in dict.fromkeys(row["metric"] for row in rows):
            own = [row for row in rows if row["metric"] == metric]
            if len({row["point"] for row in own}) > 1:
                label = AXES.get(str(axis), str(axis))
                curves.append(
                    {"title": f"{COLUMNS[metric].label} and {label}", "svg": _curve(own, label, metric, swept)}
                )
    for region, name in (("ece", "all pixels"), ("ece_band", "pixels where raters or samples differ")):
        entries = [entry for entry in results["calibration"] if any(entry.get(region, {}).get("count", []))]
        if entries:
            curves.append({"title": f"Reliability, {name}", "svg": _reliability(entries, region)})
    return curves


def plot_scores(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> list[dict[str, str]]:
    """Title and SVG of each metric: mean and interval of every system, one below the other.

    Args:
        rows: measurements of one evaluation, at one point.
        metrics: which of theirs, in order.
    """
    figures = []
    for metric in metrics:
        own = [row for row in rows if row["metric"] == metric and known(row["mean"])]
        if not own:
            continue
        figure, axes = _axes(5.6, 0.9 + 0.3 * len(own))
        for place, row in enumerate(reversed(own)):
            colour = COLOURS[(len(own) - 1 - place) % len(COLOURS)]
            if known(row["low"]) and known(row["high"]):
                axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.6)
            axes.plot(row["mean"], place, marker="o", markersize=5, color=colour)
        axes.set_yticks(range(len(own)), [row["system"] for row in reversed(own)])
        axes.set_ylim(-0.6, len(own) - 0.4)
        better = {1: ", higher is better", -1: ", lower is better", 0: ""}[COLUMNS[metric].direction]
        axes.set_xlabel(f"{COLUMNS[metric].label}{better}")
        figures.append({"title": f"{COLUMNS[metric].label}: mean and 95% interval", "svg": _svg(figure)})
    return figures


def _axes(width: float = 5.6, height: float = 3.7) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
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


def _curve(rows: Sequence[Mapping[str, Any]], label: str, metric: str, swept: Collection[str]) -> str:
    figure, axes = _axes()
    lines: dict[tuple, list] = {}
    for row in rows:
        lines.setdefault((row["system"], "" if row["key"] in swept else row["key"]), []).append(row)
    systems = list(dict.fromkeys(system for system, _ in lines))
    for (system, _), points in lines.items():
        points = sorted(points, key=lambda row: row["point"])
        colour = COLOURS[systems.index(system) % len(COLOURS)]
        x, mean, low, high = ([row[name] for row in points] for name in ("point", "mean", "low", "high"))
        named = system in {text.get_label() for text in axes.lines}
        axes.plot(x, mean, marker="o", markersize=3, linewidth=1.4, color=colour, label=None if named else system)
        if all(map(known, [*low, *high])):
            axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    values = sorted({row["point"] for row in rows})
    if values[0] > 0 and values[-1] / values[0] > 40:
        axes.set_xscale("log")
        axes.set_xticks(values, [f"{value:g}" for value in values], minor=False)
        axes.minorticks_off()
    axes.set_xlabel(label)
    axes.set_ylabel(COLUMNS[metric].label)
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _reliability(entries: Sequence[Mapping[str, Any]], region: str) -> str:
    figure, axes = _axes(4.4, 4.2)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--")
    names = list(dict.fromkeys(f"{entry['system']}, {entry['key']}" for entry in entries))
    for entry in entries:
        name = f"{entry['system']}, {entry['key']}"
        pairs = zip(entry[region]["confidence"], entry[region]["target"], strict=True)
        points = [pair for pair in pairs if all(map(known, pair))]
        # One rater and a system without spread have no pixel in the band.
        if not points:
            continue
        x, y = zip(*points, strict=True)
        named = name in {line.get_label() for line in axes.lines}
        colour = COLOURS[names.index(name) % len(COLOURS)]
        axes.plot(x, y, marker="o", markersize=3, linewidth=1.3, color=colour, label=None if named else name)
    axes.set(xlabel="confidence", ylabel="share of raters", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.legend(frameon=False, fontsize=7)
    return _svg(figure)
