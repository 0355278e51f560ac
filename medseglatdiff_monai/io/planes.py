"""Cutting axial slices and nodule crops out of a volume, and putting the masks of a crop back.

A volume is MONAI's (1, X, Y, Z) with an affine to RAS millimetres; a point is in LPS millimetres, as DICOM and its
viewers state it. Whatever the volume's own axes, a crop is row first and oriented as on a workstation: the row index
runs to the back, the column index to the patient's left, at native spacing and without interpolation. For an oblique
volume these are the array axes closest to those directions. index = A⁻¹ · diag(-1, -1, 1, 1) · point.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from nibabel import orientations

from ..errors import InputError

# Three numbers.
Point = Sequence[float] | np.ndarray

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# (row, column, slice) of a crop run to the posterior, the left, the superior side.
CROP_AXES = ("P", "L", "S")


def point_to_index(point: Point, affine: Any) -> np.ndarray:
    """Voxel index (i, j, k), with fractions, of an LPS point in millimetres.

    Args:
        point: (x, y, z), LPS.
        affine: (4, 4), index to RAS.
    """
    return np.linalg.solve(np.asarray(affine, dtype=float), LPS_TO_RAS @ [*_three(point, "point"), 1.0])[:3]


def index_to_point(index: Point, affine: Any) -> np.ndarray:
    """LPS point in millimetres of a voxel index (i, j, k); the inverse of `point_to_index`."""
    return (LPS_TO_RAS @ np.asarray(affine, dtype=float) @ [*_three(index, "index"), 1.0])[:3]


def find_slice_axis(affine: np.ndarray) -> tuple[int, int]:
    """The axis of the array along which axial slices follow each other; whether to the head (1) or the feet (-1)."""
    axes = orientations.io_orientation(affine)
    axis = int(np.flatnonzero(axes[:, 0] == 2)[0])
    return axis, int(axes[axis, 1])


def is_inside(index: np.ndarray, shape: Sequence[int]) -> bool:
    """Whether a voxel index, with fractions, is in a volume: a voxel reaches half a voxel around its centre."""
    # The tolerance is for rounded millimetres in user input.
    return bool(np.all(index >= -0.501) and np.all(index <= np.array(shape) - 0.499))


def describe_extent(shape: Sequence[int], affine: np.ndarray) -> str:
    """Where a volume's outer faces lie, LPS millimetres: ``"x -10.2 to -6.8, y …, z …"``."""
    corners = [index_to_point(np.array(corner) * shape - 0.5, affine) for corner in np.ndindex(2, 2, 2)]
    ends = zip("xyz", np.min(corners, axis=0), np.max(corners, axis=0), strict=True)
    return ", ".join(f"{axis} {low:.1f} to {high:.1f}" for axis, low, high in ends)


def cut_axial(volume: MetaTensor, point: Point, size: int | None) -> MetaTensor:
    """Cut a square crop around a point out of the axial slice nearest to it, at native spacing, or take all of that.

    The point's pixel becomes pixel (size // 2, size // 2) of the crop, never shifted. Beyond the border the crop is
    filled with the slice's minimum, which becomes 0 in the min-max normalisation.

    Args:
        volume: (1, X, Y, Z), affine to RAS.
        point: (x, y, z), LPS millimetres; inside the volume, even if only its place along the slice axis matters.
        size: side of the crop in pixels, at least 1; ``None`` takes the whole slice.

    Returns:
        (1, size, size), or (1, H, W) of the whole slice, row first; its affine maps (row, column, 0) to RAS, its meta
        holds what `paste_crop` needs.

    Raises:
        InputError: the volume is not a single-channel 3D image, the point is outside it, or ``size`` is less than 1.
    """
    if size is not None and (not isinstance(size, int) or size < 1):
        raise InputError(f"size is {size!r}; expected a positive number of pixels.")
    if not isinstance(volume, MetaTensor):
        raise InputError("the volume has no affine; load it with MONAI's LoadImage and EnsureChannelFirst.")
    if volume.ndim != 4 or volume.shape[0] != 1:
        raise InputError(f"volume of shape {tuple(volume.shape)}; expected (1, X, Y, Z), one channel.")
    affine, shape = np.asarray(torch.as_tensor(volume.affine).cpu(), dtype=float), tuple(volume.shape[1:])
    if affine.shape != (4, 4) or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise InputError(
            f"the volume's affine {affine.tolist()} cannot be inverted; expected a (4, 4) index to RAS map."
        )
    index = point_to_index(point, affine)
    if not is_inside(index, shape):
        raise InputError(
            f"point ({', '.join(f'{value:.1f}' for value in point)}) mm is outside the volume (index "
            f"{', '.join(f'{value:.1f}' for value in index)}); it extends over {describe_extent(shape, affine)} mm "
            "(LPS). Give one inside."
        )
    axes = orientations.ornt_transform(orientations.io_orientation(affine), orientations.axcodes2ornt(CROP_AXES))
    oriented = orientations.apply_orientation(volume.as_subclass(torch.Tensor)[0].cpu().numpy(), axes)
    # (row, column, slice) → voxel index.
    to_index = orientations.inv_ornt_aff(axes, shape)
    # Half a voxel beyond the last centre is still the last voxel.
    position = np.clip(np.linalg.solve(to_index, [*index, 1.0])[:3], 0, np.array(oriented.shape) - 1)
    row, column, depth = (int(np.floor(value + 0.5)) for value in position)
    plane = torch.from_numpy(oriented[None, ..., depth].copy()).to(volume.device)
    if size is None:
        row, column = 0, 0
    else:
        row, column = row - size // 2, column - size // 2
        height, width = plane.shape[1:]
        # Negative widths cut off.
        widths = (-column, column + size - width, -row, row + size - height)
        plane = torch.nn.functional.pad(plane, widths, value=plane.min().item())
    crop_affine = affine @ to_index
    crop_affine[:3, 3] = (crop_affine @ [row, column, depth, 1.0])[:3]
    meta = {
        "crop_axes": axes.astype(int).reshape(-1).tolist(),
        "volume_shape": list(shape),
        "crop_start": [row, column, depth],
        "crop_shape": list(plane.shape[1:]),
    }
    if "filename_or_obj" in volume.meta:
        meta["filename_or_obj"] = volume.meta["filename_or_obj"]
    return MetaTensor(plane, affine=torch.from_numpy(crop_affine), meta=meta)


class ExtractNoduleCropd(MapTransform):
    """`cut_axial` as a dictionary transform, at the item's "point", (x, y, z) in LPS millimetres.

    Args:
        keys: keys of the volumes.
        size: side of the crop in pixels; ``None`` takes the whole slice.
        allow_missing_keys: skip keys that are absent.
    """

    def __init__(self, keys: KeysCollection, size: int | None = 128, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = size

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Crop every key."""
        result = dict(data)
        if "point" not in result:
            raise InputError(
                f"no 'point' among the keys {sorted(map(str, data))}: it holds the point, (x, y, z) in LPS mm."
            )
        for key in self.key_iterator(result):
            result[key] = cut_axial(result[key], result["point"], self.size)
        return result


def paste_crop(crop: Any, meta: Mapping[str, Any], out: torch.Tensor | None = None) -> torch.Tensor:
    """Put values of a crop (a mask, a confidence map) back into the volume it was cut from.

    Args:
        crop: (C, h, w) in the crop's frame, any values; pixels beyond the volume's border are dropped.
        meta: the crop's meta (``cut_axial(...).meta``).
        out: (C, X, Y, Z) to write into, e.g. for several slices of one nodule; default zeros.

    Returns:
        (C, X, Y, Z) on the CPU, in the volume's own axes: `out`, or a new tensor of the crop's type.

    Raises:
        InputError: shapes that do not fit together, or a meta without the crop's position.
    """
    values = torch.as_tensor(crop).as_subclass(torch.Tensor).cpu()
    missing = [key for key in ("crop_start", "crop_shape", "crop_axes", "volume_shape") if key not in meta]
    if missing:
        raise InputError(f"meta has no {missing[0]!r}: give the meta of a crop that cut_axial made.")
    start, size, axes, shape = (
        [int(value) for value in np.asarray(meta[key]).reshape(-1)]
        for key in ("crop_start", "crop_shape", "crop_axes", "volume_shape")
    )
    if values.ndim != 3 or list(values.shape[1:]) != size:
        raise InputError(f"crop of shape {tuple(values.shape)}; expected (C, {size[0]}, {size[1]}), as it was cut.")
    if out is None:
        out = torch.zeros((values.shape[0], *shape), dtype=values.dtype)
    elif out.ndim != 4 or list(out.shape[1:]) != shape or out.shape[0] != values.shape[0]:
        raise InputError(f"out has shape {tuple(out.shape)}; expected {(values.shape[0], *shape)}.")
    # A view of it, (row, column, slice, channel).
    oriented = orientations.apply_orientation(np.moveaxis(out.numpy(), 0, -1), np.reshape(axes, (3, 2)))
    rows, columns = (
        slice(max(0, low), min(side, low + length))
        for low, length, side in zip(start, size, oriented.shape, strict=False)
    )
    part = values[:, rows.start - start[0] : rows.stop - start[0], columns.start - start[1] : columns.stop - start[1]]
    oriented[rows, columns, start[2]] = part.permute(1, 2, 0).numpy()
    return out


def _three(values: Point, name: str) -> list[float]:
    array = np.asarray(values, dtype=float).reshape(-1)
    if array.size != 3 or not np.isfinite(array).all():
        raise InputError(f"{name} {values!r}: expected three finite numbers.")
    return [float(value) for value in array]
