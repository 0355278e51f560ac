"""File formats that can be read, recognised by file name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError

__all__ = ["CHANNEL_NAMES", "NIFTI_SUFFIXES", "RASTER_SUFFIXES", "check_path", "find_stem"]

RASTER_SUFFIXES = (".png", ".jpg", ".jpeg")
NIFTI_SUFFIXES = (".nii.gz", ".nii")
CHANNEL_NAMES = {1: "one grey channel", 3: "three channels (RGB)"}


def check_path(path: Path) -> None:
    """Raise the InputError of a path that is neither a folder nor a file with a known suffix; nothing is opened."""
    if path.is_dir():
        return
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder. Give a PNG, JPEG or NIfTI file, or a folder of DICOM files.")
    name = path.name.lower()
    if name.endswith(".dcm"):
        raise InputError(f"{path}: a single DICOM file; give the folder of its series, {path.parent}.")
    if not name.endswith(RASTER_SUFFIXES + NIFTI_SUFFIXES):
        raise InputError(
            f"{path}: unknown format; expected {', '.join(RASTER_SUFFIXES + NIFTI_SUFFIXES)} or a folder of DICOM "
            "files."
        )


def find_stem(path: Path, suffixes: Sequence[str]) -> str:
    """Name of a file or folder without the first of the suffixes that it ends with."""
    name = path.resolve().name or "volume"
    suffix = next((suffix for suffix in suffixes if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]
