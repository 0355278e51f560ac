"""The picture that sets raters beside samples: one row per case, with both as outlines and as shares of each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .panel import SAMPLE_COLOUR, TEXT_COLOUR, make_figure, outline, shorten_name

# None is near that of the consensus or of the samples.
RATER_COLOURS = ("#ff7ab6", "#b6f24d", "#b79cff", "#ff6a4d")
TILE_INCHES, HEAD_INCHES, FOOT_INCHES = 2.1, 1.0, 0.15
COLUMNS = ("Image", "Raters", "Samples", "Share of raters", "Share of samples = confidence")


@dataclass(frozen=True)
class ComparedCase:
    """A row of the picture.

    Attributes:
        name: written below the image.
        image: (H, W) grey values, shown from their minimum to their maximum, or colours (H, W, 3), uint8 or in [0, 1].
        raters: (R, H, W) bool, an absent rater empty.
        samples: (N, H, W) bool.
        remark: written beside the image, such as its score.
    """

    name: str
    image: np.ndarray
    raters: np.ndarray
    samples: np.ndarray
    remark: str = ""


def to_picture(image: np.ndarray) -> np.ndarray:
    """An image as networks see it, (C, H, W) in [0, 1], as a picture: (H, W, 3) of three channels, or else (H, W)."""
    return image.clip(0.0, 1.0).transpose(1, 2, 0) if len(image) == 3 else image[0]


def plot_comparison(
    cases: Sequence[ComparedCase],
    path: str | Path,
    title: str = "",
    subtitle: str = "",
    rater_names: Sequence[str] = (),
) -> None:
    """Render the picture as PNG; below the outlines it says how many of the masks are empty.

    Args:
        cases: the rows, at least one.
        path: the PNG.
        title: first line.
        subtitle: second line, smaller.
        rater_names: written in the colours of their outlines.
    """
    tall = TILE_INCHES + 0.22
    width = 0.3 + len(COLUMNS) * (TILE_INCHES + 0.08) + 0.45
    height = HEAD_INCHES + len(cases) * tall + FOOT_INCHES
    figure = make_figure(width, height, 0.3, title, subtitle)
    if rater_names:
        from matplotlib.lines import Line2D

        lines = [Line2D([], [], color=RATER_COLOURS[i % len(RATER_COLOURS)], lw=2) for i in range(len(rater_names))]
        figure.legend(
            lines, [shorten_name(name) for name in rater_names], loc="upper right", ncols=len(lines), frameon=False,
            fontsize=8.5, labelcolor=TEXT_COLOUR, bbox_to_anchor=(1.0 - 0.3 / width, 1.0 - 0.05 / height),
        )  # fmt: skip

    for row, case in enumerate(cases):
        for column, name in enumerate(COLUMNS):
            left = 0.3 + column * (TILE_INCHES + 0.08)
            bottom = height - HEAD_INCHES - row * tall - TILE_INCHES
            axes = figure.add_axes(
                (left / width, bottom / height, TILE_INCHES / width, TILE_INCHES / height), xticks=[], yticks=[]
            )
            axes.spines[:].set_visible(False)
            if row == 0:
                axes.set_title(name, fontsize=9.5, color=TEXT_COLOUR, pad=4, loc="left")
            masks = case.raters if "raters" in name.lower() else case.samples
            if name.startswith("Share"):
                shown = axes.imshow(masks.mean(0), cmap="magma", vmin=0.0, vmax=1.0, interpolation="nearest")
                continue
            axes.imshow(case.image, cmap="gray", interpolation="nearest")
            if name == "Image":
                axes.set_ylabel(case.remark, fontsize=8, color=TEXT_COLOUR, labelpad=3)
                axes.set_xlabel(shorten_name(case.name), fontsize=7, color=TEXT_COLOUR, labelpad=2, loc="left")
                continue
            for number, mask in enumerate(masks):
                of_rater = masks is case.raters
                colour = RATER_COLOURS[number % len(RATER_COLOURS)] if of_rater else SAMPLE_COLOUR
                # Sixteen dark borders would cover the image.
                outline(axes, mask, colour, width=1.3 if of_rater else 0.7, border=of_rater)
            empty = int((~masks.any((1, 2))).sum())
            axes.set_xlabel(f"{empty} of {len(masks)} empty", fontsize=8, color="#666666", labelpad=2)

    # One bar serves both columns of shares.
    bottom = height - HEAD_INCHES - TILE_INCHES
    place = ((width - 0.42) / width, bottom / height, 0.09 / width, TILE_INCHES / height)
    bar = figure.colorbar(shown, cax=figure.add_axes(place), ticks=[0.0, 0.5, 1.0])
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=0, pad=2, colors="#666666")
    figure.savefig(path, dpi=120, metadata={"Software": None})
