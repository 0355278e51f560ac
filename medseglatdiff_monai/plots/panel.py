"""The picture of a prediction: image, consensus, confidence, entropy, and the single samples below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = 5
MAX_SAMPLES = 10
# Inches; where the upper row's images begin and how wide those of both rows are, in shares of the width.
WIDTH_INCHES, HEAD, LINE, CAPTION = 11.0, 0.62, 0.21, 0.32
LEFTS, LARGE, SMALL = (0.02, 0.264, 0.508, 0.752), 0.228, 0.178
MAX_SIDE = 768
CONSENSUS_COLOUR, SAMPLE_COLOUR, TEXT_COLOUR = "#00d5ff", "#ffb000", "#222222"


def shorten_name(name: str, longest: int = 36) -> str:
    """A case's name with its middle left out if it is too long to stand below an image: cases differ at their ends."""
    if len(name) <= longest:
        return name
    half = (longest - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def make_figure(width: float, height: float, left: float, title: str, subtitle: str) -> Any:
    """An empty white figure of ``width`` by ``height`` inches; its two lines of text begin ``left`` inches inside."""
    # Without pyplot: no window, no global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    figure.text(left / width, 1.0 - 0.25 / height, title, fontsize=13, weight="bold", color=TEXT_COLOUR, va="center")
    figure.text(left / width, 1.0 - 0.5 / height, subtitle, fontsize=9.5, color="#666666", va="center")
    return figure


def outline(axes: Any, mask: np.ndarray, colour: str, width: float = 1.4, border: bool = True) -> None:
    """Plot the outline of a mask (H, W) on axes that show its image; nothing where it is empty or full."""
    if mask.any() and not mask.all():
        # A dark line below keeps the contour visible on bright tissue; padding closes it at the border.
        padded = np.pad(mask.astype(float), 1)
        rows_at, columns_at = (np.arange(-1, side + 1) for side in mask.shape)
        for thickness, tone in ((width + 1.2, "#000000a0"), (width, colour))[0 if border else 1 :]:
            axes.contour(columns_at, rows_at, padded, levels=[0.5], colors=[tone], linewidths=thickness)
        axes.set_xlim(-0.5, mask.shape[1] - 0.5)
        axes.set_ylim(mask.shape[0] - 0.5, -0.5)


def plot_panel(
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
    consensus_title: str = "Consensus",
) -> None:
    """Plot a panel as PNG.

    Args:
        image: (H, W) grey, stretched from its minimum to its maximum, or (H, W, 3) uint8.
        samples: (N, H, W) bool; the first ten are shown.
        confidence: (H, W) in [0, 1].
        consensus: (H, W) bool.
        entropy: (H, W) in [0, 1] bit.
        path: the PNG.
        title: first line.
        subtitle: the lines below it, smaller; each has the whole width.
        sample_titles: N texts; by default the samples' numbers.
        confidence_title: by default "Mean of the N samples = confidence".
        consensus_title: should say which pixels belong to it; ", empty" is added where it is.
    """
    number = len(samples)
    # Pictures of many megapixels are thinned out: the panel shows less than that anyway.
    step = max(1, -(-max(image.shape[:2]) // MAX_SIDE))
    image, consensus, confidence, entropy = (part[::step, ::step] for part in (image, consensus, confidence, entropy))
    shown = samples[:MAX_SAMPLES, ::step, ::step]
    names = list(sample_titles or [f"Sample {i + 1}" for i in range(number)])[:MAX_SAMPLES]
    lines = subtitle.splitlines()
    if number > len(shown):
        lines[-1:] = ["  ·  ".join([*lines[-1:], f"the first {len(shown)} of {number} samples below"])]
    sheet = _Sheet(image, -(-len(shown) // COLUMNS), len(lines))
    sheet.write(0.02, 0.2, title, fontsize=13, weight="bold", color=TEXT_COLOUR)
    for place, line in enumerate(lines):
        sheet.write(0.02, 0.43 + place * LINE, line, fontsize=9.5, color="#666666" if place else TEXT_COLOUR)

    sheet.add_image(LEFTS[0], "Image")
    caption = consensus_title if consensus.any() else f"{consensus_title}, empty"
    outline(sheet.add_image(LEFTS[1], caption), consensus, CONSENSUS_COLOUR)
    caption = confidence_title or f"Mean of the {number} samples = confidence"
    sheet.add_map(LEFTS[2], confidence, caption, "magma", consensus)
    sheet.add_map(LEFTS[3], entropy, "Entropy (bit)", "viridis", consensus)
    for i, (name, mask) in enumerate(zip(names, shown, strict=True)):
        sheet.add_sample(i, mask, name)
    sheet.figure.savefig(path, dpi=130, metadata={"Software": None})


class _Sheet:
    """The figure of a panel; places from the left are shares of its width, from the top inches."""

    def __init__(self, image: np.ndarray, rows: int, lines: int) -> None:
        # Without pyplot: no window, no global state.
        from matplotlib.figure import Figure

        self.image = image
        ratio = image.shape[0] / image.shape[1]
        self.large, self.small = WIDTH_INCHES * LARGE * ratio, WIDTH_INCHES * SMALL * ratio
        self.head = HEAD + lines * LINE
        self.height = self.head + self.large + 0.12 + rows * (self.small + CAPTION) + 0.2 + 0.2
        self.figure = Figure(figsize=(WIDTH_INCHES, self.height), facecolor="white")

    def write(self, left: float, from_top: float, text: str, **style: Any) -> None:
        self.figure.text(left, 1.0 - from_top / self.height, text, va="center", **style)

    def add_axes(self, left: float, from_top: float, width: float, tall: float, name: str) -> Any:
        """Axes without ticks under a title."""
        axes = self.figure.add_axes((left, 1.0 - (from_top + tall) / self.height, width, tall / self.height))
        axes.set_axis_off()
        # With y, matplotlib does not look for a place above invisible ticks, which saves a third of the time.
        axes.set_title(name, fontsize=9.5, color=TEXT_COLOUR, pad=4, loc="left", y=1.0)
        return axes

    def add_image(self, left: float, name: str) -> Any:
        """The image in the upper row."""
        axes = self.add_axes(left, self.head, LARGE, self.large, name)
        axes.imshow(self.image, cmap="gray", interpolation="nearest")
        return axes

    def add_map(self, left: float, values: np.ndarray, name: str, colours: str, consensus: np.ndarray) -> None:
        """Values in the upper row with their colour bar and the consensus's outline."""
        axes = self.add_axes(left, self.head, LARGE, self.large, name)
        shown = axes.imshow(values, cmap=colours, vmin=0.0, vmax=1.0, interpolation="nearest")
        outline(axes, consensus, CONSENSUS_COLOUR, width=0.9)
        bottom = 1.0 - (self.head + self.large + 0.15) / self.height
        place = self.figure.add_axes((left, bottom, LARGE, 0.09 / self.height))
        bar = self.figure.colorbar(shown, cax=place, orientation="horizontal", ticks=[0.0, 0.5, 1.0])
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, length=0, pad=2, colors="#666666")
        bar.ax.set_xticklabels(["0", "0.5", "1"])
        for label, side in zip(bar.ax.get_xticklabels(), ("left", "center", "right"), strict=True):
            label.set(horizontalalignment=side)

    def add_sample(self, number: int, mask: np.ndarray, name: str) -> None:
        """A sample on the image in the lower rows."""
        row, column = divmod(number, COLUMNS)
        from_top = self.head + self.large + 0.42 + CAPTION * 0.4 + row * (self.small + CAPTION)
        axes = self.add_axes(0.02 + column * (SMALL + 0.0175), from_top, SMALL, self.small, name)
        axes.imshow(self.image, cmap="gray", interpolation="nearest")
        axes.imshow(
            np.where(mask, 0.25, np.nan), cmap="autumn_r", alpha=0.25, vmin=0.0, vmax=1.0, interpolation="nearest"
        )
        outline(axes, mask, SAMPLE_COLOUR, width=1.1)
