"""The picture of a training: loss and validation scores of its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import save_with
from .panel import SAMPLE_COLOUR, TEXT_COLOUR

WIDTH_INCHES, HEIGHT_INCHES = 4.2, 2.3


def plot_training(curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], path: str | Path) -> None:
    """Render one column per stage, one row per curve, as PNG.

    Args:
        curves: stage → name of a curve → (step, value), in the order of the steps.
        path: the PNG; it appears completely or not at all.
    """
    # Without pyplot: no window, no global state.
    from matplotlib.figure import Figure

    rows = max(map(len, curves.values()))
    figure = Figure(figsize=(WIDTH_INCHES * len(curves), HEIGHT_INCHES * rows), facecolor="white", layout="constrained")
    axes = figure.subplots(rows, len(curves), squeeze=False)
    for column, (stage, own) in enumerate(curves.items()):
        axes[0, column].set_title(stage, fontsize=11, color=TEXT_COLOUR, loc="left")
        for row in range(rows):
            plot = axes[row, column]
            if row >= len(own):
                plot.set_axis_off()
                continue
            name, points = list(own.items())[row]
            # A single point makes no line.
            plot.plot(*zip(*points, strict=True), color=SAMPLE_COLOUR, linewidth=1.4, marker="o", markersize=2.5)
            plot.set_ylabel(name, fontsize=9)
            plot.set_xlabel("step", fontsize=9)
            plot.tick_params(labelsize=8)
            plot.spines[["top", "right"]].set_visible(False)
            plot.grid(True, color="#e6e6e6", linewidth=0.7)
    save_with(lambda handle: figure.savefig(handle, format="png", dpi=110), path)
