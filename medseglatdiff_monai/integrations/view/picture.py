"""What the page shows of an ensemble: the image as PNG, and on it maps and the masks' outlines as SVG.

The image is sent once; when the threshold moves, only outlines are.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from PIL import Image
from scipy import ndimage
from skimage.measure import find_contours

from ...files import png_uri
from ...plots.comparison import RATER_COLOURS
from ...plots.panel import CONSENSUS_COLOUR, SAMPLE_COLOUR
from ...predict.ensemble import Ensemble
from .case import Shown

# Longest side of the picture that is sent, pixels; larger images are thinned out.
SIDE = 1600
# Grey windows (low, high) of CT, Hounsfield units; None: from minimum to maximum.
WINDOWS = {"Full range": None, "Lung": (-1350.0, 150.0), "Soft tissue": (-160.0, 240.0)}
LABEL_COLOUR = "#ffffff"
# Colour map, and the meaning of its values from 0 to 1.
MAPS = {"Confidence": ("magma", "share of samples"), "Entropy": ("viridis", "entropy, bit")}


def find_scale(shape: Sequence[int]) -> float:
    """Pixels of the picture that is sent per pixel of an image (H, W): 1, or less for large ones."""
    return min(1.0, SIDE / max(shape[:2]))


def encode(pixels: np.ndarray) -> str:
    """A PNG as a data URI of pixels (H, W[, 3 or 4]) uint8, `find_scale` times as large.

    NiceGUI would leave patients' images in the temporary folder if they were handed over as pictures.
    """
    scale = find_scale(pixels.shape)
    picture = Image.fromarray(pixels)
    if scale < 1:
        size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
        picture = picture.resize(size, Image.Resampling.BOX)
    stream = io.BytesIO()
    picture.save(stream, format="PNG", compress_level=1)
    return png_uri(stream.getvalue())


def to_grey(values: np.ndarray, window: tuple[float, float] | None = None) -> np.ndarray:
    """Pixels uint8 of an image (1, H, W), from the window's black to its white, or (3, H, W) from 0 to 255.

    Returns:
        (H, W) or (H, W, 3). Without a window grey values run from their minimum to their maximum.
    """
    if len(values) == 3:
        return np.clip(values, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    low, high = window or (float(values.min()), float(values.max()))
    return (np.clip((values[0] - low) / max(high - low, 1e-6), 0.0, 1.0) * 255).round().astype(np.uint8)


def render_map(name: str, values: np.ndarray) -> str:
    """SVG image of a map (H, W) in [0, 1], one of `MAPS`; where it is 0 the image below is seen."""
    colours = colormaps[MAPS[name][0]](np.clip(values, 0.0, 1.0), bytes=True)
    colours[..., 3] *= values > 0
    height, width = (side * find_scale(values.shape) for side in values.shape)
    return f'<image href="{encode(colours)}" width="{width:.0f}" height="{height:.0f}" preserveAspectRatio="none"/>'


def colour_bar(name: str) -> str:
    """HTML of the bar that says which colour of a map is which value; empty for any other name."""
    if name not in MAPS:
        return ""
    colours, meaning = MAPS[name]
    stops = ",".join(f"#{row[:3].tobytes().hex()}" for row in colormaps[colours](np.linspace(0.0, 1.0, 9), bytes=True))
    bar = f'<i style="background: linear-gradient(to right, {stops})"></i>'
    return f'<div class="colour-bar">0 {bar} 1 <span>{meaning}</span></div>'


def to_path(mask: np.ndarray, scale: float) -> str:
    """SVG path data of the outline of a mask (H, W) bool, "" where it is empty; it closes at the image's border."""
    # Of large images most is background.
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return ""
    rows, columns = found[0]
    parts = []
    for line in find_contours(np.pad(mask[rows, columns], 1).astype(float), 0.5):
        # Of a straight piece its ends are enough.
        steps = np.diff(line, axis=0)
        line = line[np.concatenate([[True], (steps[1:] != steps[:-1]).any(1), [True]])]
        # Undo the padding; a pixel's centre is half a pixel from its corner.
        points = ((line - 0.5 + [rows.start, columns.start]) * scale).round(2).tolist()
        parts.append("M" + "L".join(f"{column:g} {row:g}" for row, column in points) + "Z")
    return "".join(parts)


def to_svg(path: str, colour: str, name: str, fill: bool = False, width: float = 2.0, dash: str = "none") -> str:
    """SVG element of an outline, dark below so that it is seen on bright tissue; `name` becomes its ``data-layer``."""
    if not path:
        return ""
    inside = f'class="filled" fill="{colour}" fill-rule="evenodd"' if fill else 'fill="none"'
    return (
        f'<path d="{path}" fill="none" stroke="#000" stroke-opacity="0.6" stroke-width="{width + 2}"/>'
        f'<path data-layer="{name}" d="{path}" {inside} stroke="{colour}" stroke-width="{width}" '
        f'stroke-dasharray="{dash}"/>'
    )


def mark_point(row: float, column: float, shape: Sequence[int]) -> str:
    """SVG circle around a pixel of an image (H, W)."""
    scale = find_scale(shape)
    x, y, radius = (column + 0.5) * scale, (row + 0.5) * scale, max(shape) * scale / 40
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="none" stroke="{SAMPLE_COLOUR}" stroke-width="2"/>'


def frame_seen(ensemble: Ensemble) -> str:
    """SVG of a frame around what the network saw, where that is not all."""
    shape = ensemble.confidence.shape[-2:]
    if ensemble.seen == (0, 0, *shape):
        return ""
    top, left, bottom, right = (side * find_scale(shape) for side in ensemble.seen)
    corners = f"M{left:g} {top:g}H{right:g}V{bottom:g}H{left:g}Z"
    return f'<path d="{corners}" fill="none" stroke="#fff" stroke-opacity="0.6" stroke-dasharray="2 4"/>'


def render_layers(shown: Shown, threshold: float, sample: int, number: int, names: Sequence[str]) -> str:
    """SVG of the outlines in slice `number`.

    Args:
        shown: the ensemble.
        threshold: of the consensus.
        sample: its number from 0.
        number: of the slice.
        names: some of "Consensus", "Sample", "All samples", "Raters".
    """
    ensemble = shown.ensemble
    scale = find_scale(ensemble.confidence[number].shape)

    def path(mask: np.ndarray) -> str:
        return to_path(mask[number], scale)

    layers = []
    if "All samples" in names:
        layers += [to_svg(path(mask), SAMPLE_COLOUR, "all", width=0.8) for mask in ensemble.samples]
    if "Consensus" in names:
        layers.append(to_svg(path(ensemble.consensus(threshold)), CONSENSUS_COLOUR, "consensus", fill=True))
    if "Raters" in names and shown.raters is not None:
        layers += [
            to_svg(path(mask), RATER_COLOURS[i % len(RATER_COLOURS)], f"rater-{i + 1}", width=2.0, dash="7 4")
            for i, mask in enumerate(shown.raters)
        ]
    if "Sample" in names:
        layers.append(to_svg(path(ensemble.samples[sample]), SAMPLE_COLOUR, "sample"))
    return "".join(layers)
