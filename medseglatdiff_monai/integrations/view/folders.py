"""What there is to open in a folder of this computer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ...io.formats import NIFTI_SUFFIXES, RASTER_SUFFIXES


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        folder: its path, absolute.
        folders: names of its folders, without hidden ones.
        files: names of the images that can be opened.
        others: how many more files it has, such as the slices of a series.
    """

    folder: Path
    folders: tuple[str, ...]
    files: tuple[str, ...]
    others: int


def list_folder(folder: str | Path) -> Listing:
    """List a folder, or that of a file; the nearest one that exists.

    Raises:
        InputError: it cannot be read.
    """
    path = Path(folder).expanduser().absolute()
    while not path.is_dir():
        path = path.parent
    try:
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); allow reading, or choose another.") from error
    folders = tuple(entry.name for entry in entries if entry.is_dir())
    names = [entry.name for entry in entries if not entry.is_dir()]
    files = tuple(name for name in names if name.lower().endswith(RASTER_SUFFIXES + NIFTI_SUFFIXES))
    return Listing(path, folders, files, len(names) - len(files))
