"""Opening a PNG or JPEG to predict on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from PIL import Image

from ..errors import InputError
from .formats import CHANNEL_NAMES, RASTER_SUFFIXES, find_stem
from .pictures import read_picture

# Pillow's modes that suit a network with this many channels.
RASTER_MODES = {1: ("L", "I;16", "I;16B", "I"), 3: ("RGB",)}


@dataclass(frozen=True)
class RasterInput:
    """A PNG or JPEG.

    Attributes:
        path: the file.
        stem: its name without suffix, with which the names of output files begin.
        size: (height, width).
    """

    path: Path
    stem: str
    size: tuple[int, int]

    def read_plane(self) -> MetaTensor:
        """The image, (C, H, W) float32 in the file's own grey values."""
        latest = _latest
        pixels = latest[1] if latest is not None and latest[0] is self else _decode(self.path)[1]
        array = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return MetaTensor(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)))


def open_raster(path: Path, in_channels: int) -> RasterInput:
    """Open a PNG or JPEG for a network of 1 or 3 channels.

    Raises:
        InputError: an unreadable or truncated file, or another kind of pixels.
    """
    global _latest
    mode, pixels = _decode(path)
    if in_channels not in RASTER_MODES:
        raise InputError(f"{path}: the bundle takes {in_channels} channels; expected one for pictures, of 1 or 3.")
    if mode not in RASTER_MODES[in_channels]:
        target = "L" if in_channels == 1 else "RGB"
        raise InputError(
            f"{path}: {_describe_mode(mode)}; the bundle expects {CHANNEL_NAMES[in_channels]}. Choose the bundle for "
            f"such images, or convert the file, e.g. Image.open(path).convert({target!r}).save(new_path) with Pillow."
        )
    source = RasterInput(path, find_stem(path, RASTER_SUFFIXES), (pixels.shape[0], pixels.shape[1]))
    _latest = source, pixels
    return source


# What was opened last, and its pixels: it is usually read next, and need not be decoded twice.
_latest: tuple[RasterInput, np.ndarray] | None = None


def _decode(path: Path) -> tuple[str, np.ndarray]:
    """Mode and pixels (H, W[, channel])."""
    image = read_picture(path)
    return image.mode, np.asarray(image)


def _describe_mode(mode: str) -> str:
    channels = len(Image.new(mode, (1, 1)).getbands())
    names = {"P": "a palette image", "1": "a black-and-white image (1 bit)"}
    return names.get(mode, f"{channels} channel{'s' if channels > 1 else ''} (mode {mode})")
