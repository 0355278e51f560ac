"""The files that `predict` writes: JSON, masks and maps in the input's geometry, samples, panel, DICOM results."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..bundle.segmenter import Segmenter
from ..io.dicom_results import DicomWriter, SegmentedNodule
from ..io.places import Place
from ..io.raster import RasterInput
from ..io.reading import DicomInput, VolumeInput
from ..io.writing import OutputFolder, save_png, save_samples, save_volume
from .ensemble import Ensemble
from .measure import INTERVAL_PERCENT
from .panel import save_panel
from .record import describe_input, describe_nodule, find_notes

__all__ = ["RESULT_VERSION", "PredictionRun", "write_nodules", "write_plane"]

RESULT_VERSION = 2
NO_DICOM = "No DICOM SEG and SR: highdicom is not installed; pip install -e '.[dicom]' in the source tree."


@dataclass(frozen=True)
class PredictionRun:
    """What all inputs of a call share; see :func:`~medseglatdiff_monai.predict.command.predict`."""

    segmenter: Segmenter
    record: dict[str, Any]
    output_dir: Path
    slices: int | None
    reach_mm: float
    dicom: bool | None


def write_plane(source: RasterInput | VolumeInput, found: Ensemble, run: PredictionRun) -> dict[str, Any]:
    """Write a picture's ensemble, or that of a NIfTI of one slice that is taken as a crop; returns the result."""
    pixels, area = found.area_pixels(), found.area_mm2()
    result: dict[str, Any] = {
        "version": RESULT_VERSION,
        "input": describe_input(source),
        "area_pixels": {"consensus": pixels.consensus, "samples": pixels.samples},
    }
    if area is not None:
        result["area_mm2"] = {name: area.describe()[name] for name in ("consensus", "samples")}
    result["notes"] = find_notes(source, found, run.segmenter)

    def write(staging: Path) -> dict[str, str]:
        end = "png" if isinstance(source, RasterInput) else "nii.gz"
        names = {kind: f"{source.stem}_{kind}.{end}" for kind in ("consensus", "confidence")}
        values = {"consensus": found.fused, "confidence": found.confidence}
        for kind, name in names.items():
            if isinstance(source, RasterInput):
                save_png(values[kind], staging / name)
            else:
                save_volume(source.paste(_to_tensor(values[kind]), found.planes[0]), source, staging / name)
        names["samples"], names["panel"] = f"{source.stem}_samples.npz", f"{source.stem}_panel.png"
        save_samples(staging / names["samples"], **found.arrays())
        save_panel(found, staging / names["panel"], source.stem, run.record)
        return names

    return _write(source, result, run, write)


def write_nodules(
    source: VolumeInput,
    places: Sequence[Place],
    points: np.ndarray,
    nodules: Sequence[Ensemble],
    run: PredictionRun,
    writer: DicomWriter | None,
) -> dict[str, Any]:
    """Write the nodules of a volume, one for each place; returns the result."""
    described = [
        describe_nodule(source, place, point, nodule, number, run.slices, run.reach_mm)
        for number, (place, point, nodule) in enumerate(zip(places, points, nodules, strict=True), start=1)
    ]
    result: dict[str, Any] = {
        "version": RESULT_VERSION,
        "input": describe_input(source),
        "interval_percent": list(INTERVAL_PERCENT),
        "nodules": described,
        "notes": [NO_DICOM] if isinstance(source, DicomInput) and writer is None and run.dicom is None else [],
    }
    pasted = [_paste(source, nodule, entry) for nodule, entry in zip(nodules, described, strict=True)]
    labels, confidence = _merge(source, pasted)

    def write(staging: Path) -> dict[str, str]:
        names = {kind: f"{source.stem}_{kind}.nii.gz" for kind in ("consensus", "confidence")}
        save_volume(labels, source, staging / names["consensus"])
        save_volume(confidence, source, staging / names["confidence"])
        for number, nodule in enumerate(nodules, start=1):
            end = f"_{number}" if len(nodules) > 1 else ""
            samples, panel = f"samples{end}", f"panel{end}"
            names[samples], names[panel] = f"{source.stem}_{samples}.npz", f"{source.stem}_{panel}.png"
            save_samples(staging / names[samples], **(nodule.plane(0) if run.slices == 1 else nodule).arrays())
            title = source.stem + (f", nodule {number}" if end else "")
            save_panel(nodule, staging / names[panel], title, run.record)
        if writer is not None:
            names.update(writer.write(pasted, staging, source.stem))
        return names

    return _write(source, result, run, write)


def _to_tensor(values: np.ndarray) -> torch.Tensor:
    """Masks as uint8, maps as they are, for pasting into a volume."""
    return torch.from_numpy(values.astype(np.uint8) if values.dtype == bool else values)


def _paste(source: VolumeInput, nodule: Ensemble, measurements: dict[str, Any]) -> SegmentedNodule:
    """A nodule on the grid of its volume."""
    start, consensus = source.paste_stack(_to_tensor(nodule.fused), nodule.planes)
    _, confidence = source.paste_stack(_to_tensor(nodule.confidence), nodule.planes)
    return SegmentedNodule(start, consensus, confidence, measurements)


def _merge(source: VolumeInput, nodules: Sequence[SegmentedNodule]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the nodules (X, Y, Z) uint8, the more confident one where two overlap; and the highest confidence."""
    labels, confidence = np.zeros(source.shape, np.uint8), np.zeros(source.shape, np.float32)
    for number, nodule in enumerate(nodules, start=1):
        part = (..., slice(nodule.start, nodule.start + nodule.confidence.shape[2]))
        stronger = nodule.confidence > confidence[part] * (labels[part] > 0)
        labels[part] = np.where((nodule.consensus > 0) & stronger, number, labels[part])
        confidence[part] = np.maximum(confidence[part], nodule.confidence)
    return labels, confidence


def _write(
    source: RasterInput | VolumeInput,
    result: dict[str, Any],
    run: PredictionRun,
    write: Callable[[Path], dict[str, str]],
) -> dict[str, Any]:
    """Write all files of an input together; returns the JSON's content with absolute paths."""
    with OutputFolder(run.output_dir) as staging:
        names = write(staging)
        result = {**result, "provenance": run.record, "files": names}
        text = json.dumps(result, indent=2, allow_nan=False) + "\n"
        (staging / f"{source.stem}_prediction.json").write_text(text, encoding="utf-8")
    names = {**names, "prediction": f"{source.stem}_prediction.json"}
    return {**result, "files": {kind: str((run.output_dir / name).resolve()) for kind, name in names.items()}}
