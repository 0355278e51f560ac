"""Whatever a file holds, it is read as an independent reader reads it, or refused by a message that names it.

Files come from `bad_inputs`; pydicom, SimpleITK, nibabel and tifffile are the independent readers.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import bad_inputs
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
import tifffile
from judge import Reading, try_all

from medseglatdiff_monai.data.sources.images import read_image
from medseglatdiff_monai.io import open_input

# -- DICOM -------------------------------------------------------------------------------------------------------------


def read_series(folder: Path) -> Reading:
    """Hounsfield units (column, row, slice) and the affine to RAS."""
    source = open_input(folder, 1)
    volume = source.read(0, source.shape[2])
    return [volume[0].numpy(), np.asarray(source.affine)]


def read_series_by_pydicom(folder: Path) -> Reading:
    slices = []
    for path in sorted(folder.iterdir()):
        if path.suffix != ".txt":
            slices.append(pydicom.dcmread(path, force=True))
    slices = [image for image in slices if image.get("Modality") == "CT"]
    row, column = (np.array(slices[0].ImageOrientationPatient, float)[part] for part in (slice(0, 3), slice(3, 6)))
    for image in slices:
        # Of no account where there is one sample per pixel, and no reason not to read them.
        image.pop("PlanarConfiguration", None)
    normal = np.cross(row, column)
    slices.sort(key=lambda image: normal @ np.array(image.ImagePositionPatient, float))
    pixels = [s.pixel_array.astype(float) * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in slices]
    corners = [np.array(image.ImagePositionPatient, float) for image in slices]
    affine = np.eye(4)
    affine[:3, 0] = row * float(slices[0].PixelSpacing[1])
    affine[:3, 1] = column * float(slices[0].PixelSpacing[0])
    affine[:3, 2] = (corners[-1] - corners[0]) / (len(slices) - 1) if len(slices) > 1 else normal
    affine[:3, 3] = corners[0]
    # Every slice where the affine puts it, to a pixel.
    for number, corner in enumerate(corners):
        off = np.abs(affine[:3, :2].T @ (affine[:3, 3] + number * affine[:3, 2] - corner)).max()
        assert off < 1.01 * np.square(affine[:3, :2]).sum(0).max(), "the slices are no grid"
    return [np.stack(pixels, -1).swapaxes(0, 1), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine]


SERIES = "DICOM series: attributes, bytes, files of a folder"


def try_series(tmp_path: Path, step: int, number: int) -> None:
    inputs = [
        *bad_inputs.series_inputs(), *islice(bad_inputs.attribute_inputs(), 0, None, step),
        *bad_inputs.byte_inputs(number),
    ]  # fmt: skip
    ends = try_all("dicom", inputs, tmp_path, read_series, read_series_by_pydicom, SERIES)
    assert min(ends["refused"], ends["equal"]) > len(inputs) / 10


def test_series(tmp_path: Path) -> None:
    try_series(tmp_path, step=7, number=40)


@pytest.mark.slow
def test_all_series(tmp_path: Path) -> None:
    try_series(tmp_path, step=1, number=500)


# -- NIfTI -------------------------------------------------------------------------------------------------------------


def read_nifti(path: Path) -> Reading:
    source = open_input(path, 1)
    voxels = source.read(0, source.shape[2])[0].numpy()
    # What is not finite is 0 for ITK.
    return [np.nan_to_num(voxels, posinf=0.0, neginf=0.0), np.asarray(source.affine)]


def read_nifti_by_itk(path: Path) -> Reading:
    try:
        image = SimpleITK.ReadImage(str(path))
        if image.GetDimension() > 3:
            image = image[(slice(None),) * 3 + (0,) * (image.GetDimension() - 3)]
        codes = [int(image.GetMetaData(key)) for key in ("qform_code", "sform_code")]
        if image.GetDimension() < 3 or max(codes) <= 0:
            raise RuntimeError(
                "without a place in space ITK puts the origin elsewhere, and a plane has no third coordinate"
            )
    except RuntimeError:
        # Or a shear, which ITK's images cannot have.
        other = nibabel.load(path)
        voxels = other.get_fdata()
        return [voxels.reshape((*voxels.shape, 1)[:3]), other.affine]
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    voxels = np.nan_to_num(SimpleITK.GetArrayFromImage(image).T.astype(np.float32), posinf=0.0, neginf=0.0)
    return [voxels, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine]


def try_nifti(tmp_path: Path, step: int, number: int) -> None:
    inputs = islice(bad_inputs.nifti_inputs(number), 0, None, step)
    try_all("nifti", inputs, tmp_path, read_nifti, read_nifti_by_itk, "NIfTI: fields of the header, compression, bytes")


def test_nifti(tmp_path: Path) -> None:
    try_nifti(tmp_path, step=3, number=60)


@pytest.mark.slow
def test_all_nifti(tmp_path: Path) -> None:
    try_nifti(tmp_path, step=1, number=2000)


# -- pictures ----------------------------------------------------------------------------------------------------------


def read_picture_of(channels: int) -> Callable[[Path], Reading]:
    def read(path: Path) -> Reading:
        return [open_input(path, channels).read_plane().numpy().transpose(1, 2, 0)]

    return read


def read_for_preparation(path: Path) -> Reading:
    array = read_image(path).array
    return [array if array.ndim == 3 else array[..., None]]


def read_picture_by_itk(path: Path) -> Reading:
    """(H, W, C), without an alpha channel; colours of 16 bits as 8 bits."""
    if path.read_bytes()[:2] in (b"II", b"MM"):
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            array = page.asarray()
            array = np.moveaxis(array, 0, -1) if array.ndim == 3 and page.planarconfig == 2 else array
            if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
                array = np.iinfo(array.dtype).max - array
    else:
        array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    array = array[..., None] if array.ndim == 2 else array
    array = array[..., : {2: 1, 4: 3}.get(array.shape[2], array.shape[2])]
    return [array >> 8 if array.dtype == np.uint16 and array.shape[2] > 1 else array]


def try_pictures(tmp_path: Path, step: int, number: int) -> None:
    inputs = list(islice(bad_inputs.picture_inputs(number), 0, None, step))
    for name, read in (("grey", read_picture_of(1)), ("colour", read_picture_of(3)), ("prepare", read_for_preparation)):
        kept = [entry for entry in inputs if name == "prepare" or "b.tif" not in entry.name]
        title = (
            f"PNG, JPEG, TIFF, BMP for {'prepare' if name == 'prepare' else f'a {name} bundle'}: kinds, chunks, bytes"
        )
        try_all(f"pictures_{name}", kept, tmp_path / name, read, read_picture_by_itk, title)


def test_pictures(tmp_path: Path) -> None:
    try_pictures(tmp_path, step=3, number=40)


@pytest.mark.slow
def test_all_pictures(tmp_path: Path) -> None:
    try_pictures(tmp_path, step=1, number=1000)
