"""File formats that can be read, recognised by file name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import InputError

RASTER_SUFFIXES = (".png", ".jpg", ".jpeg")
NIFTI_SUFFIXES = (".nii.gz", ".nii")
# What `predict` writes of an input NAME: NAME_prediction.json, and beside it pictures with these endings.
PREDICTION_SUFFIX = "_prediction.json"
RESULT_PICTURES = ("_consensus.png", "_confidence.png", "_panel.png")
CHANNEL_NAMES = {1: "one grey channel", 3: "three channels (RGB)"}


def check_path(path: Path) -> None:
    """Raise the InputError of a path that is neither a folder nor a file with a known suffix; nothing is opened."""
    if path.is_dir():
        return
    if not path.is_file():
        raise InputError(
            f"{path}: no such file or folder. Give a PNG, JPEG or NIfTI file, a folder of PNG and JPEG files, or a "
            "folder of DICOM files."
        )
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


def list_inputs(path: Path) -> list[Path]:
    """The images that a path stands for: the pictures of a folder in the order of their names, or the path itself.

    Hidden files and folders, and pictures that an earlier prediction wrote into the folder, are left out. A folder of
    DICOM files, at any depth, is one series and stays one.

    Raises:
        InputError: see :func:`check_path`; a folder that holds neither pictures nor DICOM files, or both.
    """
    check_path(path)
    if not path.is_dir():
        return [path]
    names = sorted(entry.name for entry in path.iterdir() if not entry.is_dir() and not entry.name.startswith("."))
    predicted = [name.removesuffix(PREDICTION_SUFFIX) for name in names if name.endswith(PREDICTION_SUFFIX)]
    results = {stem + end for stem in predicted for end in RESULT_PICTURES}
    pictures = [path / name for name in names if name.lower().endswith(RASTER_SUFFIXES) and name not in results]
    for picture in pictures:
        _check_regular(picture, "pictures")
    # Beside pictures only a slice matters; of a series `find_series` checks each file.
    dicom = next((file for file in walk_files(path) if file.is_file() and is_dicom(file)), None)
    if pictures and dicom is not None:
        raise InputError(
            f"{path}: holds pictures ({pictures[0].name}) and DICOM files ({dicom.relative_to(path)}); expected one "
            "kind. Move one of them to a folder of its own."
        )
    if not pictures and dicom is None:
        endings = ", ".join(RASTER_SUFFIXES)
        raise InputError(
            f"{path}: holds neither pictures ({endings}) nor DICOM files; found {_describe_names(names)}. Give the "
            "folder that holds them itself; NIfTI files are given one by one."
        )
    return pictures or [path]


def walk_files(folder: Path) -> Iterator[Path]:
    """Whatever may be a DICOM slice: all that is no folder, at any depth, without what is hidden and DICOMDIR."""
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (
            Path(parent) / name for name in sorted(names) if not name.startswith(".") and name.upper() != "DICOMDIR"
        )


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its name or by the marker in its first 132 bytes.

    Raises:
        InputError: it cannot be read, or is no regular file.
    """
    _check_regular(path, "DICOM files")
    if path.name.lower().endswith(".dcm"):
        return True
    try:
        with path.open("rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); allow reading, or remove it.") from error


def _check_regular(path: Path, expected: str) -> None:
    if not path.is_file():
        # A pipe would be waited for without end; behind a broken link an image may be missing.
        what = "a link to nothing" if path.is_symlink() else "no regular file"
        raise InputError(f"{path}: {what}; expected {expected}. Remove it, or restore what it stands for.")


def _describe_names(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "no file"
