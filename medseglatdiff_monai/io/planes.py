"""Cutting axial slices and nodule crops out of a volume, and putting the masks of a crop back.

A volume is MONAI's (1, X, Y, Z) with an affine to RAS millimetres; a point is in LPS millimetres, as DICOM and its
viewers state it. Whatever the volume's own axes, a crop is row first and oriented as on a workstation: the row index
runs to the back, the column index to the patient's left, at native spacing and without interpolation. For an oblique
volume these are the array axes closest to those directions. index = A⁻¹ · diag(-1, -1, 1, 1) · point.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import nibabel
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

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


class ExtractNoduleCrop(Transform):
    """Cut a square crop around a point out of the axial slice nearest to it, at native spacing.

    The point's pixel becomes pixel (size // 2, size // 2) of the crop, never shifted. Beyond the border the crop is
    filled with the slice's minimum, which becomes 0 in the min-max normalisation.

    Args:
        size: side of the crop in pixels, at least 1.
    """

    def __init__(self, size: int = 128) -> None:
        if not isinstance(size, int) or size < 1:
            raise InputError(f"size is {size!r}; expected a positive number of pixels.")
        self.size = size

    def __call__(self, volume: MetaTensor, point: Point) -> MetaTensor:  # type: ignore[override]
        """Crop.

        Args:
            volume: (1, X, Y, Z), affine to RAS.
            point: (x, y, z), LPS millimetres.

        Returns:
            (1, size, size), row first; its affine maps (row, column, 0) to RAS, its meta holds what `paste_crop` needs.

        Raises:
            InputError: the volume is not a single-channel 3D image, or the point is outside it.
        """
        plane, index, meta, affine = _axial_plane(volume, point)
        row, column = (_nearest(value) - self.size // 2 for value in index[:2])
        crop = torch.full((1, self.size, self.size), plane.min().item(), dtype=plane.dtype, device=plane.device)
        rows, columns = (
            slice(max(0, s), min(n, s + self.size)) for s, n in zip((row, column), plane.shape, strict=True)
        )
        crop[0, rows.start - row : rows.stop - row, columns.start - column : columns.stop - column] = plane[
            rows, columns
        ]
        return _make_crop(crop, (row, column), meta, affine)


class ExtractSlice(Transform):
    """Take the whole axial slice nearest to a point, row first; otherwise as `ExtractNoduleCrop`."""

    def __call__(self, volume: MetaTensor, point: Point) -> MetaTensor:  # type: ignore[override]
        """Cut.

        Args:
            volume: (1, X, Y, Z), affine to RAS.
            point: (x, y, z), LPS millimetres; only its place along the slice axis matters, but it must be inside.

        Returns:
            (1, H, W), with affine and meta as for `ExtractNoduleCrop`.

        Raises:
            InputError: as for `ExtractNoduleCrop`.
        """
        plane, _, meta, affine = _axial_plane(volume, point)
        return _make_crop(plane[None].clone(), (0, 0), meta, affine)


class ExtractNoduleCropd(MapTransform):
    """Dictionary form of `ExtractNoduleCrop`.

    Args:
        keys: keys of the volumes.
        size: side of the crop in pixels.
        point_key: key of the point, (x, y, z) in LPS millimetres.
        allow_missing_keys: skip keys that are absent.
    """

    def __init__(
        self, keys: KeysCollection, size: int = 128, point_key: str = "point", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.point_key = point_key
        self.crop = ExtractNoduleCrop(size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Crop every key."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.crop(result[key], _get_point(result, self.point_key))
        return result


class ExtractSliced(MapTransform):
    """Dictionary form of `ExtractSlice`.

    Args:
        keys: keys of the volumes.
        point_key: key of the point, (x, y, z) in LPS millimetres.
        allow_missing_keys: skip keys that are absent.
    """

    def __init__(self, keys: KeysCollection, point_key: str = "point", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.point_key = point_key
        self.extract = ExtractSlice()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Cut every key."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.extract(result[key], _get_point(result, self.point_key))
        return result


def paste_crop(crop: Any, meta: Mapping[str, Any], out: torch.Tensor | None = None) -> torch.Tensor:
    """Put values of a crop (a mask, a confidence map) back into the volume it was cut from.

    Args:
        crop: (C, h, w) in the crop's frame, any values; pixels beyond the volume's border are dropped.
        meta: the crop's meta (``ExtractNoduleCrop(...)(...).meta``).
        out: (C, X, Y, Z) to write into, e.g. for several slices of one nodule; default zeros.

    Returns:
        (C, X, Y, Z) in the volume's own axes: `out`, or a new tensor of the crop's type.

    Raises:
        InputError: shapes that do not fit together, or a meta without the crop's position.
    """
    values = torch.as_tensor(crop).as_subclass(torch.Tensor)
    missing = [key for key in ("crop_start", "crop_shape", "crop_axes", "volume_shape") if key not in meta]
    if missing:
        raise InputError(f"meta has no {missing[0]!r}: give the meta of an ExtractNoduleCrop or ExtractSlice output.")
    start, size, axes, shape = (
        [int(value) for value in np.asarray(meta[key]).reshape(-1)]
        for key in ("crop_start", "crop_shape", "crop_axes", "volume_shape")
    )
    if values.ndim != 3 or list(values.shape[1:]) != size:
        raise InputError(f"crop of shape {tuple(values.shape)}; expected (C, {size[0]}, {size[1]}), as it was cut.")
    if out is None:
        out = torch.zeros((values.shape[0], *shape), dtype=values.dtype, device=values.device)
    elif out.ndim != 4 or list(out.shape[1:]) != shape or out.shape[0] != values.shape[0]:
        raise InputError(f"out has shape {tuple(out.shape)}; expected {(values.shape[0], *shape)}.")
    order, signs = axes[0::2], axes[1::2]
    selection: list[slice] = [slice(None)] * 4
    part = values[..., None]
    for place, (begin, length) in enumerate(zip(start, [*size, 1], strict=True)):
        side = shape[order[place]]
        low, high = max(0, begin), min(side, begin + length)
        part = part.narrow(1 + place, low - begin, high - low)
        # An axis that runs the other way is counted from its end.
        selection[1 + order[place]] = slice(low, high) if signs[place] > 0 else slice(side - high, side - low)
    part = torch.flip(part, [1 + place for place in range(3) if signs[place] < 0])
    out[tuple(selection)] = part.permute(0, *(1 + order.index(axis) for axis in range(3))).to(out.dtype)
    return out


def _orientation(affine: np.ndarray) -> np.ndarray:
    """For row, column and slice of a crop: the volume's axis (0-2) and whether it runs the same way (1) or not (-1)."""
    volume_axes = nibabel.orientations.io_orientation(affine)
    crop_axes = nibabel.orientations.axcodes2ornt(CROP_AXES)
    result = np.zeros((3, 2), dtype=int)
    for place, (world, direction) in enumerate(crop_axes):
        axis = int(np.flatnonzero(volume_axes[:, 0] == world)[0])
        result[place] = axis, int(volume_axes[axis, 1] * direction)
    return result


def _geometry(volume: Any) -> tuple[np.ndarray, tuple[int, ...]]:
    if not isinstance(volume, MetaTensor):
        raise InputError("the volume has no affine; load it with MONAI's LoadImage and EnsureChannelFirst.")
    if volume.ndim != 4 or volume.shape[0] != 1:
        raise InputError(f"volume of shape {tuple(volume.shape)}; expected (1, X, Y, Z), one channel.")
    affine = np.asarray(volume.affine.cpu() if isinstance(volume.affine, torch.Tensor) else volume.affine, dtype=float)
    if affine.shape != (4, 4) or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise InputError(
            f"the volume's affine {affine.tolist()} cannot be inverted; expected a (4, 4) index to RAS map."
        )
    return affine, tuple(volume.shape[1:])


def _axial_plane(volume: Any, point: Point) -> tuple[torch.Tensor, np.ndarray, dict[str, Any], np.ndarray]:
    """The (H, W) plane nearest to a point, the point's (row, column, slice), the place's meta, the oriented affine."""
    affine, shape = _geometry(volume)
    index = point_to_index(point, affine)
    _check_inside(index, shape, affine, point)
    axes = _orientation(affine)
    order, signs = axes[:, 0], axes[:, 1]
    oriented = np.eye(4)
    oriented[:3, :3] = affine[:3, order] * signs
    corner = np.array(
        [shape[axis] - 1 if signs[order.tolist().index(axis)] < 0 else 0 for axis in range(3)], dtype=float
    )
    oriented[:3, 3] = (affine @ [*corner, 1.0])[:3]
    position = np.array(
        [index[axis] if sign > 0 else shape[axis] - 1 - index[axis] for axis, sign in axes], dtype=float
    )
    # Half a voxel beyond the last centre is still the last voxel.
    position = np.clip(position, 0, [shape[axis] - 1 for axis in order])
    depth = _nearest(position[2])
    axis, sign = axes[2]
    raw = torch.Tensor.as_subclass(volume, torch.Tensor)[0].select(
        int(axis), depth if sign > 0 else shape[axis] - 1 - depth
    )
    if order[0] > order[1]:
        raw = raw.T
    plane = torch.flip(raw, [place for place in range(2) if signs[place] < 0])
    meta = {
        "crop_axes": axes.reshape(-1).tolist(),
        "volume_shape": list(shape),
        "volume_affine": affine,
        "crop_slice": depth,
    }
    if "filename_or_obj" in volume.meta:
        meta["filename_or_obj"] = volume.meta["filename_or_obj"]
    return plane, position, meta, oriented


def _make_crop(crop: torch.Tensor, start: tuple[int, int], meta: dict[str, Any], oriented: np.ndarray) -> MetaTensor:
    depth = meta.pop("crop_slice")
    affine = oriented.copy()
    affine[:3, 3] = (oriented @ [*start, depth, 1.0])[:3]
    meta = {**meta, "crop_start": [*start, depth], "crop_shape": list(crop.shape[1:])}
    return MetaTensor(crop.contiguous(), affine=torch.from_numpy(affine), meta=meta)


def _check_inside(index: np.ndarray, shape: Sequence[int], affine: np.ndarray, point: Point) -> None:
    # A voxel reaches half a voxel around its centre; the tolerance is for rounded millimetres in user input.
    if np.all(index >= -0.5 - 1e-3) and np.all(index <= np.array(shape) - 0.5 + 1e-3):
        return
    corners = np.array(
        [
            index_to_point([i, j, k], affine)
            for i in (-0.5, shape[0] - 0.5)
            for j in (-0.5, shape[1] - 0.5)
            for k in (-0.5, shape[2] - 0.5)
        ]
    )
    extent = ", ".join(
        f"{name} {low:.1f} to {high:.1f}"
        for name, low, high in zip("xyz", corners.min(axis=0), corners.max(axis=0), strict=True)
    )
    raise InputError(
        f"point ({', '.join(f'{value:.1f}' for value in point)}) mm is outside the volume (index "
        f"{', '.join(f'{value:.1f}' for value in index)}); it extends over {extent} mm (LPS). Give one inside."
    )


def _nearest(value: float) -> int:
    return int(np.floor(value + 0.5))


def _three(values: Point, name: str) -> list[float]:
    array = np.asarray(values, dtype=float).reshape(-1)
    if array.size != 3 or not np.isfinite(array).all():
        raise InputError(f"{name} {values!r}: expected three finite numbers.")
    return [float(value) for value in array]


def _get_point(data: Mapping[Hashable, Any], key: str) -> Sequence[float]:
    if key not in data:
        raise InputError(
            f"no {key!r} among the keys {sorted(map(str, data))}: it holds the point, (x, y, z) in LPS mm."
        )
    return data[key]
