"""What the report shows of one input, read from the files of its prediction."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..plots.sizes import THRESHOLDS, draw_sizes, draw_slices
from .ensemble import Ensemble
from .results import RESULT_VERSION

__all__ = ["Finding", "Measure", "read_input"]


@dataclass(frozen=True)
class Measure:
    """A size of one result, as a row of the table.

    Attributes:
        name: what was measured.
        unit: ``mm³``, ``mm²``, ``mm`` or ``px``.
        consensus: of the consensus mask.
        samples: of each sample.
        median: of the samples.
        interval: 5th and 95th percentile of the samples.
    """

    name: str
    unit: str
    consensus: float
    samples: Sequence[float]
    median: float
    interval: Sequence[float]


@dataclass(frozen=True)
class Finding:
    """A picture, or a nodule of a volume: a section of the page; pictures are data URIs."""

    title: str
    where: str
    panel: str
    sizes: str
    slices: str | None
    measures: Sequence[Measure]
    agreement: float | None
    notes: Sequence[str]


def read_input(path: Path, name: str) -> dict[str, Any]:
    """What the template shows of one input.

    Args:
        path: its ``NAME_prediction.json``.
        name: its name.

    Raises:
        InputError: a file is missing, unreadable or of another version.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: no record of a prediction ({error!r}); run 'medseglatdiff predict' again."
        ) from error
    if version != RESULT_VERSION:
        raise InputError(
            f"{path}: version {version!r} of the record; this program knows {RESULT_VERSION}. Predict again, or use "
            "the program that wrote it."
        )
    try:
        findings = (
            [_read_nodule(path, name, record, nodule) for nodule in record["nodules"]]
            if "nodules" in record
            else [_read_plane(path, name, record)]
        )
        described = record["input"]
        return {
            "name": name,
            "format": described["format"],
            "shape": " × ".join(str(side) for side in described["shape"]),
            "spacing": " × ".join(f"{side:g}" for side in described["spacing_mm"]) if "spacing_mm" in described else "",
            "uid": described.get("series_instance_uid", ""),
            "findings": findings,
            "notes": record["notes"] if "nodules" in record else [],
            "files": sorted(record["files"].values()),
            "provenance": record["provenance"],
        }
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: incomplete ({error!r}); run 'medseglatdiff predict' again.") from error


def _read_plane(path: Path, name: str, record: Mapping[str, Any]) -> Finding:
    """A picture, or a NIfTI of one slice."""
    found = _read_ensemble(path, record["files"]["samples"], False)
    area = found.area_mm2()
    measure = (
        Measure("Area", "px", **found.area_pixels().describe())
        if area is None
        else Measure("Area", "mm²", **area.describe())
    )
    return _make_finding(path, record, found, [measure], "", title=name, notes=record["notes"])


def _read_nodule(path: Path, name: str, record: Mapping[str, Any], nodule: Mapping[str, Any]) -> Finding:
    end = f"_{nodule['number']}" if len(record["nodules"]) > 1 else ""
    found = _read_ensemble(path, record["files"][f"samples{end}"], nodule["volume_mm3"] is not None)
    measures = [
        Measure(title, unit, **nodule[key])
        for key, title, unit in (
            ("volume_mm3", "Volume", "mm³"),
            ("longest_diameter_mm", "Longest axial diameter", "mm"),
            ("area_mm2", "Area in the clicked slice", "mm²"),
        )
        if nodule[key] is not None
    ]
    point = ", ".join(f"{value:g}" for value in nodule["point_mm"])
    return _make_finding(
        path, record, found, measures, end,
        title=f"{name}, nodule {nodule['number']}" if end else name,
        notes=nodule["notes"],
        where=f"Point {point} mm (LPS), voxel {', '.join(map(str, nodule['voxel']))}; {nodule['num_slices']} slice(s).",
    )  # fmt: skip


def _make_finding(
    path: Path,
    record: Mapping[str, Any],
    found: Ensemble,
    measures: Sequence[Measure],
    end: str,
    title: str,
    notes: Sequence[str],
    where: str = "",
) -> Finding:
    """A section; the picture of sizes shows the volume, or else the area."""
    shown = measures[0] if found.voxel_mm3 is not None else measures[-1]
    by_threshold = [
        (found.volume_mm3(threshold) or found.area_mm2(threshold) or found.area_pixels(threshold)).consensus
        for threshold in THRESHOLDS
    ]
    agreement = found.agreement()
    return Finding(
        title=title,
        where=where,
        panel=_to_uri(_find_file(path, record["files"][f"panel{end}"]).read_bytes()),
        sizes=_to_uri(
            draw_sizes(
                shown.name, shown.unit, shown.consensus, shown.samples, shown.interval, by_threshold,
                float(record["provenance"]["threshold"]),
            )
        ),
        slices=_to_uri(draw_slices(found.confidence, found.fused))
        if found.confidence.ndim == 3 and len(found.confidence) > 1
        else None,
        measures=measures,
        agreement=None if agreement is None else round(agreement, 4),
        notes=notes,
    )  # fmt: skip


def _find_file(record: Path, name: str) -> Path:
    """A file that the record names, which stands beside it."""
    path = record.parent / Path(name).name
    if not path.is_file():
        raise InputError(f"{path}: missing, though {record.name} names it; run 'medseglatdiff predict' again.")
    return path


def _read_ensemble(record: Path, name: str, is_volume: bool) -> Ensemble:
    path = _find_file(record, name)
    try:
        with np.load(path) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as error:  # zipfile and numpy raise many kinds
        raise InputError(f"{path}: unreadable or truncated ({error}); run 'medseglatdiff predict' again.") from error
    affine = arrays.get("affine")
    return Ensemble(
        samples=arrays["samples"],
        confidence=arrays["confidence"],
        fused=arrays["consensus"],
        seen=(0, 0, *arrays["confidence"].shape[-2:]),
        affine=affine,
        voxel_mm3=float(abs(np.linalg.det(affine[:3, :3]))) if is_volume and affine is not None else None,
    )


def _to_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
