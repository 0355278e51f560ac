"""Opening an image to predict on: PNG or JPEG, NIfTI slice or volume, DICOM CT series.

`open_input` reads headers and checks the whole file. Pixels are read later, one slice of a volume at a time, so memory
does not grow with the number of slices or inputs. A volume gives planes row first, as seen on a workstation
(`cut_axial`), and `VolumeInput.paste` puts values of a plane back into the volume's own axes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.data import MetaTensor

from ..errors import InputError
from .dicom_series import DicomSeries, check_ct, check_slices, find_series, read_volume
from .formats import CHANNEL_NAMES, NIFTI_SUFFIXES, check_path, find_stem
from .nifti import open_nifti
from .planes import cut_axial, find_slice_axis, index_to_point, paste_crop, point_to_index
from .raster import RasterInput, open_raster


@dataclass(frozen=True)
class VolumeInput(ABC):
    """A NIfTI image or a DICOM series, as a volume of one slice or more.

    Attributes:
        path: file or folder.
        stem: its name without suffix.
        shape: (X, Y, Z).
        affine: (4, 4), voxel index to RAS millimetres.
    """

    path: Path
    stem: str
    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    @abstractmethod
    def needs_place(self) -> bool:
        """Whether the user must say where in the input the object is."""

    @abstractmethod
    def read(self, start: int, stop: int) -> MetaTensor:
        """Slices `start` to `stop` (excluded), (1, X, Y, stop - start) float32 with their affine."""

    def find_slice(self, point: Sequence[float]) -> int:
        """Index of the axial slice nearest to an LPS point along its axis; of two equally near ones, the upper."""
        axis, sign = find_slice_axis(self.affine)
        nearest = sign * np.floor(sign * point_to_index(point, self.affine)[axis] + 0.5)
        return int(np.clip(nearest, 0, self.shape[axis] - 1))

    def read_plane(self) -> MetaTensor:
        """The whole middle slice, (1, h, w): the only one of an input that needs no place."""
        return self.cut(index_to_point([(side - 1) / 2 for side in self.shape], self.affine).tolist(), None)

    def cut(self, point: Sequence[float], size: int | None) -> MetaTensor:
        """Cut the plane of `cut_axial` (`size` pixels wide), or with ``None`` the whole slice, at an LPS point.

        Returns:
            (1, h, w) float32; its meta holds what `paste` needs.

        Raises:
            InputError: the pixels cannot be read.
        """
        plane = self.open_planes(point, size)(0)
        assert plane is not None  # the slice of a point that is inside
        return plane

    def open_planes(self, point: Sequence[float], size: int | None) -> Callable[[int], MetaTensor | None]:
        """Prepare to cut the slice of a point and its neighbours.

        Args:
            point: (x, y, z), LPS millimetres, inside the volume.
            size: side of the crops in pixels; ``None`` takes whole slices.

        Returns:
            A function of the number of slices towards the head (negative: towards the feet), 0 for the point's own. It
            gives the plane as `cut` does, with the same rows and columns in every slice, or ``None`` beyond the volume.
            For an axial volume it reads one slice per call; for any other it holds the whole volume.

        Raises:
            InputError: the pixels cannot be read (here or in the calls).
        """
        axis, sign = find_slice_axis(self.affine)
        clicked = self.find_slice(point)
        whole = None if axis == 2 else self.read(0, self.shape[2])

        def cut(number: int, pixel: np.ndarray | None = None) -> tuple[MetaTensor, np.ndarray]:
            """A slice at a pixel, by default at the point's; and the affine of what it was cut out of."""
            volume = self.read(number, number + 1) if whole is None else whole
            affine = volume.affine.numpy()
            index = point_to_index(point, affine) if pixel is None else pixel.copy()
            # Into the slice's plane: rounding could put a point between two slices outside both.
            index[axis] = 0.0 if whole is None else number
            plane = cut_axial(volume, index_to_point(index, affine), size)
            if whole is None:
                plane.meta["slab_start"] = number
            return plane, affine

        first, affine = cut(clicked)
        # Neighbours are cut at exactly the pixel of the first plane, whatever the rounding of millimetres.
        height, width = first.shape[1:]
        center = first.affine.numpy() @ [height // 2, width // 2, 0.0, 1.0]
        pixel = np.rint(np.linalg.solve(affine, center)[:3])

        def cut_plane(offset: int) -> MetaTensor | None:
            number = clicked + sign * offset
            if not 0 <= number < self.shape[axis]:
                return None
            return cut(number, pixel)[0] if offset else first

        return cut_plane

    def paste(self, values: torch.Tensor, plane: MetaTensor) -> np.ndarray:
        """Put values (h, w) of a plane made by `cut` back: (X, Y, Z) of the values' type, 0 elsewhere."""
        start, part = self.paste_stack(values[None], [plane])
        volume = np.zeros(self.shape, dtype=part.dtype)
        volume[..., start : start + part.shape[2]] = part
        return volume

    def paste_stack(self, values: torch.Tensor, planes: Sequence[MetaTensor]) -> tuple[int, np.ndarray]:
        """Put values of neighbouring planes back into the volume's axes.

        Args:
            values: (S, h, w), any type.
            planes: S planes of one function of `open_planes`.

        Returns:
            Third index at which the part begins, and the part (X, Y, slices) of the values' type, 0 outside the planes.
        """
        # A plane was cut out of a slab of one slice, or of the whole volume, whose slices it crosses.
        numbers = [int(plane.meta.get("slab_start", 0)) for plane in planes]
        first, thickness = min(numbers), int(planes[0].meta["volume_shape"][2])
        out = torch.zeros((1, *self.shape[:2], max(numbers) - first + thickness), dtype=values.dtype)
        for number, plane, value in zip(numbers, planes, values, strict=True):
            paste_crop(value[None], plane.meta, out[..., number - first : number - first + thickness])
        return first, out[0].numpy()


@dataclass(frozen=True)
class NiftiInput(VolumeInput):
    """A NIfTI file; `file_shape` is its shape with all trailing axes of length 1."""

    file_shape: tuple[int, ...]
    header: Any

    @property
    def has_place(self) -> bool:
        """Whether it says where in the patient its voxels lie: without sform and qform programs differ in that."""
        return int(self.header["sform_code"]) > 0 or int(self.header["qform_code"]) > 0

    @property
    def needs_place(self) -> bool:
        """A single slice may be a crop already."""
        return self.shape[2] > 1

    def read(self, start: int, stop: int) -> MetaTensor:
        """See `VolumeInput`."""
        try:
            image: Any = nibabel.load(self.path)
            rest = (slice(None),) * min(2, len(self.file_shape)) + (slice(start, stop),) * (len(self.file_shape) > 2)
            array = np.asarray(image.dataobj[rest], dtype=np.float32).reshape(*self.shape[:2], stop - start)
        except Exception as error:  # nibabel raises many kinds: ImageFileError, EOFError, zlib.error, OSError
            raise InputError(f"{self.path}: unreadable or truncated NIfTI ({error}); replace the file.") from error
        affine = self.affine.copy()
        affine[:3, 3] = (self.affine @ [0.0, 0.0, start, 1.0])[:3]
        return MetaTensor(torch.from_numpy(np.ascontiguousarray(array))[None], affine=torch.from_numpy(affine))


@dataclass(frozen=True)
class DicomInput(VolumeInput):
    """A DICOM CT series; slices ascend along the normal of their planes."""

    series: DicomSeries

    @property
    def needs_place(self) -> bool:
        """A series, of one slice or many, shows the whole chest."""
        return True

    def find_slice(self, point: Sequence[float]) -> int:
        """By the slices' true positions, which may be unevenly spaced."""
        if find_slice_axis(self.affine)[0] != 2:
            return super().find_slice(point)
        normal = np.cross(self.series.orientation[:3], self.series.orientation[3:])
        return int(np.abs(np.array(self.series.positions_mm) - normal @ np.asarray(point, dtype=float)).argmin())

    def read(self, start: int, stop: int) -> MetaTensor:
        """See `VolumeInput`; Hounsfield units."""
        return read_volume(self.series, start, stop)


def open_input(path: str | Path, in_channels: int) -> RasterInput | VolumeInput:
    """Open an image: find out what it is, and check that it is complete.

    Args:
        path: a PNG, JPEG or NIfTI file, or a folder with one DICOM CT series at any depth.
        in_channels: 1 or 3, channels of the network's image.

    Raises:
        InputError: no such file; an unknown, unreadable or truncated one; the wrong number of channels; for a folder:
            no DICOM file in it, no CT series or several, missing or doubled slices.
    """
    path = Path(path)
    check_path(path)
    if path.is_dir():
        return _open_series(path, in_channels)
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        return _open_nifti(path, in_channels)
    return open_raster(path, in_channels)


def _open_nifti(path: Path, in_channels: int) -> NiftiInput:
    if in_channels != 1:
        raise InputError(
            f"{path}: a NIfTI holds one channel; the bundle expects {CHANNEL_NAMES[in_channels]}. Give a PNG or JPEG."
        )
    image = open_nifti(path)
    shape = tuple(int(side) for side in image.shape)
    if len(shape) < 2 or 0 in shape or any(side != 1 for side in shape[3:]):
        raise InputError(f"{path}: a NIfTI of shape {shape}; expected a 2D slice (X, Y) or a volume (X, Y, Z).")
    affine = np.asarray(image.affine, dtype=np.float64)
    volume_shape = (shape[0], shape[1], shape[2] if len(shape) > 2 else 1)
    return NiftiInput(path, find_stem(path, NIFTI_SUFFIXES), volume_shape, affine, shape, image.header.copy())


def _open_series(path: Path, in_channels: int) -> DicomInput:
    found = find_series(path)
    if in_channels != 1:
        raise InputError(
            f"{path}: a DICOM series ({found[0].modality}); the bundle expects {CHANNEL_NAMES[in_channels]}. "
            "Give a PNG or JPEG."
        )
    scans = [series for series in found if series.modality == "CT"]
    if len(scans) > 1:
        listed = "; ".join(f"{series.describe()}, {len(series.files)} slices" for series in scans[:10])
        raise InputError(f"{path}: {len(scans)} CT series, expected one. Move all but one to other folders: {listed}.")
    series = scans[0] if scans else found[0]
    check_ct(series)
    check_slices(series)
    shape = (series.shape[1], series.shape[0], len(series.files))
    return DicomInput(path, find_stem(path, ()), shape, series.affine(), series)
