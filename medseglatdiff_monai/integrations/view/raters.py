"""Raters' masks that the viewing page compares an ensemble with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from monai.data import MetaTensor

from ...errors import InputError
from ...io.planes import index_to_point
from ...io.prepared import LoadCase
from ...io.reading import NiftiInput, RasterInput, VolumeInput, open_input


def load_masks(paths: Sequence[Path], size: tuple[int, int], source: RasterInput | VolumeInput) -> np.ndarray | None:
    """Masks (R, H, W) bool of a picture or a single slice, ``None`` without paths.

    Raises:
        InputError: a file is unreadable, or its masks are not of the image's size (height, width).
    """
    masks = []
    for path in paths:
        mask = _load_mask(path, source)
        if mask.shape[1:] != size:
            raise InputError(
                f"--raters {path}: masks of {mask.shape[1]}x{mask.shape[2]} pixels; expected those of "
                f"{source.path.name}, {size[0]}x{size[1]}."
            )
        # 0 and 1, or 0 and 255 as pictures have it.
        masks.append(mask > (127 if mask.max() > 1 else 0))
    return np.concatenate(masks) if masks else None


def _load_mask(path: Path, source: RasterInput | VolumeInput) -> np.ndarray:
    """Masks (R, H, W) of one file, row first."""
    if isinstance(source, NiftiInput) and path.name.lower().endswith((".nii", ".nii.gz")):
        # On the image's own grid it is flipped as the image is; otherwise it is a prepared one, rows first.
        found = open_input(path, 1)
        assert isinstance(found, NiftiInput)
        if _same_grid(found, source):
            return found.read_plane().as_tensor().numpy()
    return np.array(LoadCase(is_label=True)(path))


def open_mask_volume(path: Path, source: VolumeInput) -> NiftiInput:
    """A rater's mask on the grid of a volume.

    Raises:
        InputError: another kind of file, or another grid.
    """
    found = open_input(path, 1)
    if not isinstance(found, NiftiInput):
        raise InputError(f"--raters {path}: expected a NIfTI on the grid of {source.path.name}, as predict writes it.")
    if not _same_grid(found, source):
        raise InputError(
            f"--raters {path}: a grid of shape {found.shape} that is not that of {source.path.name}, "
            f"{source.shape}; resample the masks to the image first."
        )
    return found


def _same_grid(found: VolumeInput, source: VolumeInput) -> bool:
    return found.shape == source.shape and np.allclose(found.affine, source.affine, atol=1e-2)


def cut_masks(
    raters: np.ndarray | Sequence[NiftiInput] | None, planes: Sequence[MetaTensor], crop_size: int | None
) -> np.ndarray | None:
    """The raters' masks (R, S, h, w) bool on the S planes of a nodule, or on the picture itself."""
    if raters is None:
        return None
    if isinstance(raters, np.ndarray):
        return raters[:, None]
    stacks = []
    for rater in raters:
        masks = []
        for plane in planes:
            height, width = plane.shape[1:]
            # The same pixel is the middle of the rater's crop, on the same grid.
            middle = index_to_point((height // 2, width // 2, 0.0), np.asarray(plane.affine, dtype=float))
            masks.append(rater.cut(middle.tolist(), crop_size).as_tensor().numpy()[0] > 0.5)
        stacks.append(np.stack(masks))
    return np.stack(stacks)
