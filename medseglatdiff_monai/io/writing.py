"""Writing a prediction in its input's geometry: PNG of the same size, NIfTI of the same shape and affine.

All files of one input are written to a hidden folder first and moved into place together at the end, so that an error
leaves nothing half-written behind. An earlier prediction of the same input is replaced only then.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

from ..errors import InputError
from ..files import remove_leftovers, temporary_name
from .reading import NiftiInput, VolumeInput

# Fields of a NIfTI header that say where the voxels lie.
GEOMETRY = (
    "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
    "qoffset_z", "srow_x", "srow_y", "srow_z",
)  # fmt: skip


@contextmanager
def output_folder(folder: str | Path) -> Iterator[Path]:
    """Give an empty staging folder, and move its files to the output folder if no error occurred.

    Args:
        folder: output folder; created if needed, and removed again if it stays empty.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    folder = Path(folder)
    staging = folder / temporary_name("predict")
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        staging.mkdir(parents=True)
        remove_leftovers(folder)
    except OSError as error:
        raise InputError(f"--output-dir {folder}: cannot write there ({error}); choose another folder.") from error
    try:
        yield staging
        # A JSON lists the others: it is there only while they are.
        ordered = sorted(staging.iterdir(), key=lambda path: (path.suffix == ".json", path.name))
        for path in ordered:
            if path.suffix == ".json":
                (folder / path.name).unlink(missing_ok=True)
        for path in ordered:
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


def save_png(values: np.ndarray, path: Path) -> None:
    """Write values (H, W) in [0, 1] as an 8-bit grey PNG, round(255 · value); a mask becomes 0 and 255."""
    Image.fromarray(np.rint(np.asarray(values, dtype=np.float64) * 255.0).astype(np.uint8)).save(path)


def save_volume(values: np.ndarray, source: VolumeInput, path: Path) -> None:
    """Write values (X, Y, Z) as a NIfTI with shape and affine of the volume they belong to.

    For a NIfTI the sform, the qform, their codes and the units are kept, and nothing else of the header: descriptions
    and extensions of an image may hold a patient's name. For a DICOM series the affine is written as both, in scanner
    coordinates.
    """
    header = nibabel.Nifti1Header()
    if isinstance(source, NiftiInput) and type(source.header) is nibabel.Nifti1Header:
        for field in GEOMETRY:
            header[field] = source.header[field]
        values = values.reshape(source.file_shape)
    else:
        header.set_xyzt_units("mm")
    header.set_data_dtype(values.dtype)
    header["cal_min"], header["cal_max"] = 0.0, 1.0
    image = nibabel.Nifti1Image(values, source.affine, header)
    if not isinstance(source, NiftiInput):
        image.set_sform(source.affine, code="scanner")
        image.set_qform(source.affine, code="scanner")
    nibabel.save(image, path)
