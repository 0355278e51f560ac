"""The picture of a prediction: image, consensus, confidence, entropy, and the single samples below.

Drawn with matplotlib's Agg canvas alone: no window, no global state.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["draw_panel", "outline"]

COLUMNS = 5
MAX_SAMPLES = 10
WIDTH_INCHES = 11.0
MAX_SIDE = 768
CONSENSUS_COLOUR, SAMPLE_COLOUR, TEXT_COLOUR = "#00d5ff", "#ffb000", "#222222"


def outline(axes: Any, mask: np.ndarray, colour: str, width: float = 1.4, border: bool = True) -> None:
    """Draw the outline of a mask (H, W) on axes that show its image; nothing where it is empty or full."""
    if mask.any() and not mask.all():
        # A dark line below keeps the contour visible on bright tissue; padding closes it at the border.
        padded = np.pad(mask.astype(float), 1)
        rows_at, columns_at = (np.arange(-1, side + 1) for side in mask.shape)
        for thickness, tone in ((width + 1.2, "#000000a0"), (width, colour))[0 if border else 1 :]:
            axes.contour(columns_at, rows_at, padded, levels=[0.5], colors=[tone], linewidths=thickness)
        axes.set_xlim(-0.5, mask.shape[1] - 0.5)
        axes.set_ylim(mask.shape[0] - 0.5, -0.5)


def draw_panel(
    image: np.ndarray,
    samples: np.ndarray,
    confidence: np.ndarray,
    consensus: np.ndarray,
    entropy: np.ndarray,
    path: str | Path,
    title: str = "",
    subtitle: str = "",
    sample_titles: Sequence[str] | None = None,
    confidence_title: str | None = None,
) -> None:
    """Draw a panel as PNG.

    Args:
        image: (H, W) grey, stretched from its minimum to its maximum, or (H, W, 3) uint8.
        samples: (N, H, W) bool; the first ten are shown.
        confidence: (H, W) in [0, 1].
        consensus: (H, W) bool.
        entropy: (H, W) in [0, 1] bit.
        path: the PNG.
        title: first line.
        subtitle: second line, smaller.
        sample_titles: N texts; by default the samples' numbers.
        confidence_title: by default "Mean of the N samples = confidence".
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    number = len(samples)
    # Pictures of many megapixels are thinned out: the panel shows less than that anyway.
    step = max(1, -(-max(image.shape[:2]) // MAX_SIDE))
    image, consensus, confidence, entropy = (part[::step, ::step] for part in (image, consensus, confidence, entropy))
    shown = samples[:MAX_SAMPLES, ::step, ::step]
    names = list(sample_titles or [f"Sample {i + 1}" for i in range(number)])[:MAX_SAMPLES]
    rows = -(-len(shown) // COLUMNS)
    ratio = image.shape[0] / image.shape[1]

    top = WIDTH_INCHES * 0.228 * ratio
    small = WIDTH_INCHES * 0.178 * ratio
    head, caption, foot = 0.85, 0.32, 0.2
    height = head + top + 0.12 + rows * (small + caption) + foot + 0.2
    figure = Figure(figsize=(WIDTH_INCHES, height), facecolor="white")
    FigureCanvasAgg(figure)

    def add_axes(left: float, from_top: float, width: float, tall: float, name: str):
        axes = figure.add_axes((left, 1.0 - (from_top + tall) / height, width, tall / height))
        axes.set_axis_off()
        # With y, matplotlib does not look for a place above ticks that are not drawn: the same picture, a third sooner.
        axes.set_title(name, fontsize=9.5, color=TEXT_COLOUR, pad=4, loc="left", y=1.0)
        return axes

    def show_image(axes) -> None:
        if image.ndim == 3:
            axes.imshow(image, interpolation="nearest")
        else:
            low, high = float(image.min()), float(image.max())
            axes.imshow(image, cmap="gray", interpolation="nearest", vmin=low, vmax=max(high, low + 1e-6))

    figure.text(0.02, 1.0 - 0.2 / height, title, fontsize=13, weight="bold", color=TEXT_COLOUR, va="center")
    figure.text(0.02, 1.0 - 0.43 / height, subtitle, fontsize=9.5, color="#666666", va="center")

    lefts, width = [0.02, 0.264, 0.508, 0.752], 0.228
    axes = add_axes(lefts[0], head, width, top, "Image")
    show_image(axes)
    axes = add_axes(lefts[1], head, width, top, "Consensus" if consensus.any() else "Consensus: empty")
    show_image(axes)
    outline(axes, consensus, CONSENSUS_COLOUR)
    bar_height = 0.09
    for left, values, name, colours in (
        (lefts[2], confidence, confidence_title or f"Mean of the {number} samples = confidence", "magma"),
        (lefts[3], entropy, "Entropy (bit)", "viridis"),
    ):
        axes = add_axes(left, head, width, top, name)
        drawn = axes.imshow(values, cmap=colours, vmin=0.0, vmax=1.0, interpolation="nearest")
        outline(axes, consensus, CONSENSUS_COLOUR, width=0.9)
        place = (left, 1.0 - (head + top + 0.06 + bar_height) / height, width, bar_height / height)
        bar = figure.colorbar(drawn, cax=figure.add_axes(place), orientation="horizontal", ticks=[0.0, 0.5, 1.0])
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, length=0, pad=2, colors="#666666")
        bar.ax.set_xticklabels(["0", "0.5", "1"])
        for label, side in zip(bar.ax.get_xticklabels(), ("left", "center", "right"), strict=True):
            label.set(horizontalalignment=side)

    first = head + top + 0.42 + caption * 0.4
    width, gap = 0.178, 0.0175
    for i, mask in enumerate(shown):
        row, column = divmod(i, COLUMNS)
        axes = add_axes(0.02 + column * (width + gap), first + row * (small + caption), width, small, names[i])
        show_image(axes)
        axes.imshow(
            np.where(mask, 0.25, np.nan), cmap="autumn_r", alpha=0.25, vmin=0.0, vmax=1.0, interpolation="nearest"
        )
        outline(axes, mask, SAMPLE_COLOUR, width=1.1)
    if number > len(shown):
        figure.text(
            0.98, 1.0 - 0.43 / height, f"{len(shown)} of {number} samples are shown",
            fontsize=9, color="#666666", va="center", ha="right",
        )  # fmt: skip
    figure.savefig(path, dpi=130, metadata={"Software": None})
