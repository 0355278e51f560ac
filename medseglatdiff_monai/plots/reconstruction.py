"""The picture that sets images beside what a codec makes of them: one row per image, and what is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .panel import TEXT_COLOUR, make_figure, shorten_name

TILE_INCHES, HEAD_INCHES = 2.1, 1.0
# Errors of a good codec would be black otherwise.
GAIN = 4.0
COLUMNS = ("Image", "Reconstruction", f"Difference × {GAIN:.0f}")


@dataclass(frozen=True)
class RebuiltImage:
    """A row of the picture.

    Attributes:
        name: written below the image.
        original: (H, W) or (H, W, 3) in [0, 1].
        rebuilt: likewise; what is outside of [0, 1] is clipped.
    """

    name: str
    original: np.ndarray
    rebuilt: np.ndarray


def plot_reconstructions(images: Sequence[RebuiltImage], path: str | Path, title: str = "", subtitle: str = "") -> None:
    """Render the picture as PNG.

    Args:
        images: the rows, at least one.
        path: the PNG.
        title: first line.
        subtitle: second line, smaller.
    """
    wide, tall = TILE_INCHES + 0.08, TILE_INCHES + 0.22
    width, height = 0.2 + len(COLUMNS) * wide, HEAD_INCHES + len(images) * tall
    figure = make_figure(width, height, 0.15, title, subtitle)
    for row, image in enumerate(images):
        rebuilt = image.rebuilt.clip(0.0, 1.0)
        shown = (image.original, rebuilt, (GAIN * np.abs(rebuilt - image.original)).clip(0.0, 1.0))
        for column, (name, values) in enumerate(zip(COLUMNS, shown, strict=True)):
            left, bottom = 0.15 + column * wide, height - HEAD_INCHES - row * tall - TILE_INCHES
            place = (left / width, bottom / height, TILE_INCHES / width, TILE_INCHES / height)
            axes = figure.add_axes(place, xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.imshow(values, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
            if row == 0:
                axes.set_title(name, fontsize=9.5, color=TEXT_COLOUR, pad=4, loc="left")
            if column == 0:
                axes.set_xlabel(shorten_name(image.name), fontsize=7, color=TEXT_COLOUR, labelpad=2, loc="left")
    figure.savefig(path, dpi=120, metadata={"Software": None})
