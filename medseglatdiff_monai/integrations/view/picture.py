"""Pictures for the page: an image as PNG of a useful size, and masks as SVG outlines on it.

The image is sent once; when the threshold moves, only the outline is.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from skimage.measure import find_contours

__all__ = ["WINDOWS", "find_scale", "render", "to_path", "to_svg", "to_uri"]

# Longest side of the picture that is sent, pixels.
SIDE = 640
# Grey windows (low, high) of CT, Hounsfield units; None: from minimum to maximum.
WINDOWS = {"Full range": None, "Lung": (-1350.0, 150.0), "Soft tissue": (-160.0, 240.0)}


def find_scale(shape: Sequence[int]) -> float:
    """Screen pixels per pixel: a whole number for small images, so that pixels are visible; below 1 for large ones."""
    longest = max(shape[:2])
    return float(max(1, SIDE // longest)) if longest <= 2 * SIDE else 2 * SIDE / longest


def render(values: np.ndarray, window: tuple[float, float] | None = None, colours: str | None = None) -> Image.Image:
    """Make the picture of a plane.

    Args:
        values: (H, W) grey, or (H, W, 3) from 0 to 255.
        window: grey values shown as black and white; ``None`` takes minimum and maximum.
        colours: name of a matplotlib colour map for values in [0, 1].

    Returns:
        RGB or grey, `find_scale` times as large.
    """
    if colours is not None:
        from matplotlib import colormaps

        pixels = (colormaps[colours](np.clip(values, 0.0, 1.0))[..., :3] * 255).round().astype(np.uint8)
    elif values.ndim == 3:
        pixels = np.clip(values, 0, 255).astype(np.uint8)
    else:
        low, high = window or (float(values.min()), float(values.max()))
        pixels = (np.clip((values - low) / max(high - low, 1e-6), 0.0, 1.0) * 255).round().astype(np.uint8)
    scale = find_scale(pixels.shape)
    size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX)


def to_path(mask: np.ndarray, scale: float) -> str:
    """SVG path data of the outline of a mask (H, W) bool, "" where it is empty; it closes at the image's border."""
    if not mask.any():
        return ""
    parts = []
    for line in find_contours(np.pad(mask, 1).astype(float), 0.5):
        # Undo the padding; a pixel's centre is half a pixel from its corner.
        points = (line - 0.5) * scale
        parts.append("M" + "L".join(f"{column:.1f} {row:.1f}" for row, column in points) + "Z")
    return "".join(parts)


def to_uri(picture: Image.Image) -> str:
    """PNG as a data URI: handed over as a picture, NiceGUI would leave patients' images in the temporary folder."""
    stream = io.BytesIO()
    picture.save(stream, format="PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def to_svg(path: str, colour: str, name: str, fill: bool = False, width: float = 2.0, dash: str = "none") -> str:
    """SVG element of an outline, dark below so that it is seen on bright tissue; `name` becomes its ``data-layer``."""
    if not path:
        return ""
    inside = f'fill="{colour}" fill-opacity="0.22" fill-rule="evenodd"' if fill else 'fill="none"'
    return (
        f'<path d="{path}" fill="none" stroke="#000" stroke-opacity="0.6" stroke-width="{width + 2}"/>'
        f'<path data-layer="{name}" d="{path}" {inside} stroke="{colour}" stroke-width="{width}" '
        f'stroke-dasharray="{dash}"/>'
    )
