"""What the report shows of one input, read from the files of its prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import png_uri, read_versioned
from ..plots.sizes import THRESHOLDS, draw_sizes, draw_slices
from .ensemble import Ensemble
from .results import RESULT_VERSION

__all__ = ["read_input"]

# Sizes of a nodule: key in the record, name and unit in the report.
SIZES = (
    ("volume_mm3", "Volume", "mm³"),
    ("longest_diameter_mm", "Longest axial diameter", "mm"),
    ("area_mm2", "Area in the clicked slice", "mm²"),
)


def read_input(path: Path, name: str) -> dict[str, Any]:
    """The values that ``report.html`` names for one input.

    Args:
        path: its ``NAME_prediction.json``.
        name: its name.

    Raises:
        InputError: a file is missing, unreadable or of another version.
    """
    record = read_versioned(path, RESULT_VERSION, "predict again, or use the program that wrote it")
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
            "spacing": " × ".join(f"{side:g}" for side in described.get("spacing_mm", ())),
            "uid": described.get("series_instance_uid", ""),
            "findings": findings,
            "notes": record["notes"] if "nodules" in record else [],
            "files": sorted(record["files"].values()),
            "provenance": record["provenance"],
        }
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: incomplete ({error!r}); run 'medseglatdiff predict' again.") from error


def _read_plane(path: Path, name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """A picture, or a NIfTI of one slice."""
    found = _read_ensemble(path, record["files"]["samples"], False)
    area, unit = found.area()
    measures = [{"name": "Area", "unit": unit, **area.describe()}]
    return _make_finding(path, record, found, measures, "", title=name, where="", notes=record["notes"])


def _read_nodule(path: Path, name: str, record: Mapping[str, Any], nodule: Mapping[str, Any]) -> dict[str, Any]:
    end = f"_{nodule['number']}" if len(record["nodules"]) > 1 else ""
    found = _read_ensemble(path, record["files"][f"samples{end}"], nodule["volume_mm3"] is not None)
    measures = [{"name": title, "unit": unit, **nodule[key]} for key, title, unit in SIZES if nodule[key] is not None]
    point = ", ".join(f"{value:g}" for value in nodule["point_mm"])
    voxel = ", ".join(map(str, nodule["voxel"]))
    return _make_finding(
        path, record, found, measures, end,
        title=f"{name}, nodule {nodule['number']}" if end else name,
        where=f"Point {point} mm (LPS), voxel {voxel}; {nodule['num_slices']} slice(s).",
        notes=nodule["notes"],
    )  # fmt: skip


def _make_finding(
    path: Path,
    record: Mapping[str, Any],
    found: Ensemble,
    measures: Sequence[Mapping[str, Any]],
    end: str,
    **text: Any,
) -> dict[str, Any]:
    """A section of the page; the picture of sizes shows the volume, or else the area."""
    shown = measures[0] if found.voxel_mm3 is not None else measures[-1]
    by_threshold = [(found.volume_mm3(threshold) or found.area(threshold)[0]).consensus for threshold in THRESHOLDS]
    sizes = draw_sizes(shown, by_threshold, float(record["provenance"]["threshold"]))
    several = found.confidence.ndim == 3 and len(found.confidence) > 1
    agreement = found.agreement()
    return {
        "panel": png_uri(_find_file(path, record["files"][f"panel{end}"]).read_bytes()),
        "sizes": png_uri(sizes),
        "slices": png_uri(draw_slices(found.confidence, found.fused)) if several else None,
        "measures": measures,
        "agreement": None if agreement is None else round(agreement, 4),
        **text,
    }


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
            arrays = dict(file)
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
