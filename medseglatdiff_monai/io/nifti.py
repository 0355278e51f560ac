"""Opening a NIfTI file: complete, of numbers, in millimetres.

nibabel takes lengths in metres for millimetres, and a pixdim of 0 for 1.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from ..errors import InputError

BLOCK_BYTES = 1 << 20
# What the three lowest bits of xyzt_units may say, and lengths in these units are refused.
UNITS_MASK, OTHER_UNITS = 0b111, {1: "metres", 3: "micrometres"}
# Of sform_code and qform_code: template, the highest that the standard knows.
LAST_CODE = 5
# How far pixdim and sform may differ in the size of a voxel; they are rounded.
SAME_SIZE = 0.01


def open_nifti(path: Path) -> Any:
    """Open a file with nibabel and check header and length; the voxels are not read yet.

    Raises:
        InputError: unreadable or truncated; voxels that are no numbers, or begin within the header; lengths that are
            not in millimetres, or absent; an affine that cannot be inverted, or two that differ.
    """
    try:
        image: Any = nibabel.load(path)
        with image.file_map["image"].get_prepare_fileobj("rb") as handle:
            # As it is in the file: nibabel has corrected its own copy.
            header = type(image.header).from_fileobj(handle, check=False)
        affine = np.asarray(image.affine, dtype=np.float64)
        _check_complete(path, image)
    except Exception as error:  # nibabel raises many kinds: ImageFileError, EOFError, zlib.error, HeaderDataError
        raise InputError(f"{path}: unreadable or truncated NIfTI ({error}); replace the file.") from error
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        raise InputError(
            f"{path}: voxels of type {dtype}; expected one number per voxel, e.g. int16. Convert the file."
        )
    for name in ("sform_code", "qform_code"):
        if int(header[name]) not in range(LAST_CODE + 1):
            raise InputError(
                f"{path}: {name} is {header[name]}; expected 0 to {LAST_CODE}, which say whether and how it places the "
                "image. Fix the header."
            )
    if 0 < abs(header["scl_slope"]) < np.finfo(np.float32).tiny:
        raise InputError(
            f"{path}: scl_slope is {header['scl_slope']}, by which every voxel is nearly 0; expected another, or 0 "
            "for none. Fix the header."
        )
    first = image.header.single_vox_offset
    if not header["vox_offset"] >= first:
        raise InputError(
            f"{path}: its voxels begin at byte {header['vox_offset']} (vox_offset); expected {first} or more, behind "
            "the header. Fix the header, or save the image again."
        )
    unit = OTHER_UNITS.get(int(header["xyzt_units"]) & UNITS_MASK)
    if unit:
        raise InputError(
            f"{path}: lengths in {unit} (xyzt_units); expected millimetres. Convert its affine, or, where the numbers "
            "are millimetres, correct it with nibabel's header.set_xyzt_units('mm')."
        )
    sides = [size for side, size in zip(image.shape, header["pixdim"][1:4], strict=False) if side > 1]
    # An sform says it all by itself.
    if not int(header["sform_code"]) and not all(np.isfinite(size) and size > 0 for size in sides):
        raise InputError(
            f"{path}: pixdim {[float(size) for size in sides]}; expected positive numbers of millimetres. Fix the "
            "header: the size of a voxel cannot be known."
        )
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise InputError(f"{path}: its affine {affine.tolist()} cannot be inverted; fix the header (sform, qform).")
    _check_forms(path, image, np.asarray(header["pixdim"][1:4], dtype=float))
    return image


def _check_forms(path: Path, image: Any, stated: np.ndarray) -> None:
    """Raise InputError if sform, qform and the stated sizes differ: programs differ in which they take."""
    header, shape = image.header, np.array([*image.shape[:3], 1, 1])[:3]
    if not int(header["sform_code"]) > 0:
        return
    sform = header.get_sform()
    sizes, stated = np.linalg.norm(sform[:3, :3], axis=0), np.abs(stated)
    # An absent size says nothing.
    told = (shape > 1) & np.isfinite(stated) & (stated > 0)
    if not np.allclose(stated[told], sizes[told], rtol=SAME_SIZE, atol=0.0):
        raise InputError(
            f"{path}: its pixdim says {stated[told].tolist()} mm, its sform {sizes[told].round(6).tolist()}; expected "
            "the same size of a voxel, since programs differ in which they take. Fix the one that is wrong."
        )
    if not int(header["qform_code"]) > 0:
        return
    try:
        qform = header.get_qform()
    except ValueError:  # its quaternion is none
        qform = np.full((4, 4), np.inf)
    corners = np.array([[*(np.array(corner) * (shape - 1)), 1.0] for corner in np.ndindex(2, 2, 2)])
    distance = float(np.linalg.norm(corners @ (sform - qform).T, axis=1).max())
    if not distance <= sizes.max():
        raise InputError(
            f"{path}: its sform and its qform put a voxel at places {distance:.4g} mm apart; expected the same place, "
            "since programs differ in which they take. Remove the wrong one, e.g. with nibabel's "
            "image.set_qform(None, 0) or image.set_sform(None, 0)."
        )


def count_bytes(path: Path) -> int:
    """Length of a file's content, unpacked; an archive is read to its check sum, in small blocks that are not kept.

    Raises:
        OSError, EOFError, zlib.error: the archive is damaged.
    """
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as handle:
        found = 0
        while block := handle.read(BLOCK_BYTES):
            found += len(block)
    return found


def _check_complete(path: Path, image: Any) -> None:
    """Raise OSError or EOFError if the file ends early."""
    expected = int(image.dataobj.offset) + int(np.prod(image.shape)) * image.get_data_dtype().itemsize
    found = count_bytes(path)
    if found < expected:
        raise OSError(f"{found} bytes, expected {expected}")
