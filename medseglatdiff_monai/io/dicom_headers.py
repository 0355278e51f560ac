"""The header of one DICOM file, read by pydicom and checked before ITK sees the file.

ITK inverts MONOCHROME1, takes a missing PixelSpacing for 1 mm, cuts off bits that do not fit, and ends the whole
process at a colour palette, each without a word. So nothing reaches it that is not one grey slice with a place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError

# Names in pydicom of the transfer syntaxes that ITK decodes; by pydicom's first use, not at import.
SYNTAXES = (
    "ImplicitVRLittleEndian", "ExplicitVRLittleEndian", "ExplicitVRBigEndian", "RLELossless", "JPEGBaseline8Bit",
    "JPEGExtended12Bit", "JPEGLossless", "JPEGLosslessSV1", "JPEGLSLossless", "JPEGLSNearLossless", "JPEG2000Lossless",
    "JPEG2000",
)  # fmt: skip
TEXTS = ("Modality", "PatientID", "SeriesInstanceUID", "StudyInstanceUID")
# Directions written with three decimals are this far from length 1 and from a right angle.
DIRECTION_TOLERANCE = 1e-3
PIXEL_DATA = b"\xe0\x7f\x10\x00"
# Decimal strings with backslashes between them, padded with spaces; some programs pad with zeros. Python alone takes
# 1_0, nan and digits of other scripts.
DECIMAL = rb" *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)? *"
DECIMALS = re.compile(rb"(%b(\\%b)*)?[ \0]*" % (DECIMAL, DECIMAL))


def _is_orientation(values: np.ndarray) -> bool:
    directions = values.reshape(2, 3)
    return np.allclose(directions @ directions.T, np.eye(2), atol=DIRECTION_TOLERANCE)


# Attribute of a CT slice: how many numbers it holds, which they may be, and that in words.
NUMBERS: dict[str, tuple[int, Callable[[np.ndarray], Any], str]] = {
    "SamplesPerPixel": (1, lambda v: v == 1, "1, a grey image"),
    "Rows": (1, lambda v: v >= 1, "a positive number"),
    "Columns": (1, lambda v: v >= 1, "a positive number"),
    "BitsAllocated": (1, lambda v: v in (8, 16, 32), "8, 16 or 32"),
    "BitsStored": (1, lambda v: v >= 1, "a positive number"),
    "HighBit": (1, lambda v: v >= 0, "BitsStored - 1"),
    "PixelRepresentation": (1, lambda v: v in (0, 1), "0 or 1"),
    "PixelSpacing": (2, lambda v: (v > 0).all(), "two positive numbers of millimetres, between rows and columns"),
    "ImagePositionPatient": (3, lambda v: True, "three numbers of millimetres"),
    "ImageOrientationPatient": (6, _is_orientation, "two directions of length 1 at a right angle"),
    "RescaleSlope": (1, lambda v: v != 0, "a number other than 0, without which there are no Hounsfield units"),
    "RescaleIntercept": (1, lambda v: True, "a number, without which there are no Hounsfield units"),
}
# May be absent.
OPTIONAL_NUMBERS: dict[str, tuple[int, Callable[[np.ndarray], Any], str]] = {
    "NumberOfFrames": (1, lambda v: v == 1, "one slice per file; split the file into slices"),
    "SliceThickness": (1, lambda v: v >= 0, "a number of millimetres"),
}
HEADER_TAGS = ["PhotometricInterpretation", "SOPInstanceUID", *TEXTS, *NUMBERS, *OPTIONAL_NUMBERS]


@dataclass(frozen=True)
class SliceHeader:
    """What one file says.

    Attributes:
        path: the file.
        texts: Modality, PatientID, SeriesInstanceUID, StudyInstanceUID; empty where they are absent.
        numbers: of a CT without fault, the values of ``NUMBERS`` and those of ``OPTIONAL_NUMBERS`` that are present.
        fault: why the file cannot be a slice of a CT volume, as a message; empty if it can. Of other modalities nothing
            is checked.
    """

    path: Path
    texts: dict[str, str]
    numbers: dict[str, tuple[float, ...]] = field(default_factory=dict)
    fault: str = ""


def read_header(path: Path) -> SliceHeader:
    """Read and check the header of a file; of a CT also that the pixels are all there.

    Raises:
        InputError: no DICOM, a header that cannot be read or ends early, or pixels that end early.
    """
    import pydicom

    try:
        with path.open("rb") as handle:
            header = pydicom.dcmread(handle, stop_before_pixels=True, specific_tags=HEADER_TAGS)
            texts = {name: _text(header, name) for name in TEXTS}
            if texts["Modality"] != "CT" and texts["SeriesInstanceUID"]:
                return SliceHeader(path, texts)
            start, rest = handle.read(12), os.fstat(handle.fileno()).st_size - handle.tell()
    except _Fault as fault:
        raise InputError(f"{path}: {fault}") from fault
    except Exception as error:  # pydicom raises many kinds: InvalidDicomError, EOFError, struct.error, ValueError, …
        raise InputError(
            f"{path}: unreadable DICOM file ({type(error).__name__}: {error}); download it again, or remove it."
        ) from error
    try:
        syntax = _check_syntax(header)
        if not texts["SeriesInstanceUID"] or len(start) < 12:
            raise InputError(f"{path}: truncated DICOM file (the header ends early); download it again.")
        _check_texts(header)
        numbers = _read_numbers(header)
        _check_depth(numbers)
        if not syntax.is_compressed:
            _check_length(path, numbers, syntax, start, rest)
    except _Fault as fault:
        return SliceHeader(path, texts, fault=f"{path}: {fault}")
    return SliceHeader(path, texts, numbers)


def check_bits(path: str | Path) -> None:
    """Check that uncompressed pixels fit into the bits that the header states, above which ITK cuts them off.

    Raises:
        InputError: a pixel needs more than BitsStored.
    """
    import pydicom

    image = pydicom.dcmread(path)
    if image.BitsStored >= image.BitsAllocated or image.file_meta.TransferSyntaxUID.is_compressed:
        return
    order = "<" if image.file_meta.TransferSyntaxUID.is_little_endian else ">"
    words = np.frombuffer(image.PixelData, dtype=f"{order}i{image.BitsAllocated // 8}")
    unused = image.BitsAllocated - image.BitsStored
    # The bits above are all zero, or repeat the sign.
    fits = not (words >> image.BitsStored).any()
    if not fits and image.PixelRepresentation:
        fits = np.array_equal((words << unused) >> unused, words)
    if not fits:
        raise InputError(
            f"{path}: pixels need more than the {image.BitsStored} bits that BitsStored states; expected it to cover "
            "them. Fix BitsStored and HighBit, or download the series again."
        )


class _Fault(Exception):
    """What is wrong with a file, and what to do."""


def _text(header: Any, name: str) -> str:
    try:
        return str(header.get(name) or "").strip()
    except Exception as error:  # as for numbers
        raise _Fault(f"{name} cannot be read ({error}); expected text. Export or download the series again.") from error


def _check_syntax(header: Any) -> Any:
    from pydicom import uid

    syntax = getattr(header.file_meta, "TransferSyntaxUID", None)
    if str(syntax) not in {getattr(uid, name) for name in SYNTAXES}:
        raise _Fault(
            f"transfer syntax {syntax or 'not stated'}; expected one that ITK reads, e.g. Explicit VR Little Endian "
            f"({uid.ExplicitVRLittleEndian}). Convert the series, e.g. with dcmconv."
        )
    return syntax


def _check_texts(header: Any) -> None:
    if not _text(header, "SOPInstanceUID"):
        raise _Fault("no SOPInstanceUID; expected the slice's own. Export the series again.")
    kind = _text(header, "PhotometricInterpretation")
    if kind == "MONOCHROME1":
        raise _Fault(
            "PhotometricInterpretation is MONOCHROME1; expected MONOCHROME2, since ITK inverts the pixels of the "
            "other. Set it to MONOCHROME2 in a copy: the stored numbers, and so the Hounsfield units, stay."
        )
    if kind != "MONOCHROME2":
        raise _Fault(f"PhotometricInterpretation is {kind!r}; expected MONOCHROME2, a grey CT slice. Remove the file.")


def _read_numbers(header: Any) -> dict[str, tuple[float, ...]]:
    """Values of all attributes that are present; raises for one that is not as the tables say."""
    found: dict[str, tuple[float, ...]] = {}
    for name, (count, allows, expected) in {**OPTIONAL_NUMBERS, **NUMBERS}.items():
        odd = _find_odd_number(header, name)
        try:
            # pydicom converts text to numbers here.
            value = header.get(name)
            if value in (None, "") and name in OPTIONAL_NUMBERS:
                continue
            numbers = np.atleast_1d(np.asarray(value, dtype=float))
        except Exception:  # ValueError, TypeError, OverflowError, NotImplementedError, struct.error, …
            element = header.get_item(name)
            value, numbers = getattr(element, "value", None), np.array([])
        if odd or numbers.shape != (count,) or not np.isfinite(numbers).all() or not allows(numbers):
            what = odd or ("absent" if value in (None, "") else _show(value))
            raise _Fault(f"{name} is {what}; expected {expected}. Export or download the series again.")
        found[name] = tuple(numbers.tolist())
    return found


def _find_odd_number(header: Any, name: str) -> str:
    """A number that ITK reads otherwise than pydicom, as a message shows it; empty if it is none."""
    from pydicom.datadict import dictionary_VR

    # As it is in the file: pydicom has not converted it yet.
    element, expected = header.get_item(name), dictionary_VR(name)
    kind, value = getattr(element, "VR", None), getattr(element, "value", None)
    if kind not in (None, expected):
        return f"of the kind {kind} instead of {expected}"
    odd = isinstance(value, bytes) and expected in ("DS", "IS") and not DECIMALS.fullmatch(value)
    return _show(value) if odd else ""


def _show(value: Any) -> str:
    return repr(value.decode("latin-1") if isinstance(value, bytes) else value)[:80]


def _check_depth(numbers: dict[str, tuple[float, ...]]) -> None:
    allocated, stored, high = (numbers[name][0] for name in ("BitsAllocated", "BitsStored", "HighBit"))
    if stored > allocated or high != stored - 1:
        raise _Fault(
            f"BitsAllocated {allocated:.0f}, BitsStored {stored:.0f}, HighBit {high:.0f}; expected at most as many "
            "bits stored as allocated, and HighBit one below BitsStored. Export the series again."
        )


def _check_length(path: Path, numbers: dict[str, tuple[float, ...]], syntax: Any, start: bytes, rest: int) -> None:
    """Compare the length of PixelData, at which the header ends, with the file and with what the header says.

    Args:
        path: the file.
        numbers: its attributes.
        syntax: its transfer syntax, uncompressed.
        start: 12 bytes of the element: tag, kind unless it is implicit, and length.
        rest: bytes of the file after them.

    Raises:
        InputError: the file ends early.
    """
    tag = start[:4] if syntax.is_little_endian else start[1::-1] + start[3:1:-1]
    if tag != PIXEL_DATA:
        raise _Fault("no PixelData; expected a CT slice. Remove the file.")
    if syntax.is_implicit_VR:
        length, rest = start[4:8], rest + 4
    else:
        length = start[8:]
    found = int.from_bytes(length, "little" if syntax.is_little_endian else "big")
    if rest < found:
        raise InputError(f"{path}: truncated DICOM file, {rest} bytes of pixels; expected {found}. Download it again.")
    rows, columns, bits = (int(numbers[name][0]) for name in ("Rows", "Columns", "BitsAllocated"))
    expected = rows * columns * bits // 8
    # An odd number of bytes is filled up.
    if found not in (expected, expected + expected % 2):
        raise _Fault(
            f"{found} bytes of pixels; expected {expected} for {rows}x{columns} of {bits} bits. Export or download "
            "the series again."
        )
