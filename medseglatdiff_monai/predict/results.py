"""From users' files to ensembles of masks, and to the files that `predict` writes in each input's own geometry.

A picture goes through the bundle's preprocessing as in training. From a CT volume the crop around the nodule is cut out
of each axial slice first, and prepared by itself. Written are JSON, masks and maps, samples, a panel, DICOM results.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..bundle.segmenter import Segmenter
from ..console import Progress, format_duration
from ..errors import InputError
from ..extras import EXTRAS, install_command
from ..io.dicom_results import DicomWriter, SegmentedNodule
from ..io.formats import PREDICTION_SUFFIX
from ..io.places import Place, find_points
from ..io.raster import RasterInput
from ..io.reading import DicomInput, NiftiInput, VolumeInput, open_input
from ..io.writing import output_folder, save_png, save_volume
from ..networks.weights import stage_finished
from .ensemble import Ensemble
from .image import segment_image
from .measure import INTERVAL_PERCENT
from .nodule import segment_nodule
from .record import describe_input, describe_nodule, describe_plane, describe_run, save_panel

logger = logging.getLogger(__name__)

RESULT_VERSION = 2
UNFINISHED = "The training of these weights was not finished; the command that trained them goes on with it."
NO_DICOM = f"No DICOM SEG and SR: highdicom is not installed: {install_command('dicom')}."


def predict_inputs(
    segmenter: Segmenter,
    paths: Sequence[Path],
    places: Sequence[Sequence[Place]],
    output_dir: str | Path,
    experiment: str | None,
    slices: int | None,
    reach_mm: float,
    dicom: bool | None,
) -> list[dict[str, Any]]:
    """Sample an ensemble of masks for each input and write it; the arguments are those of `predict`, checked."""
    # All headers before the first pixel: a misspelt last input should not cost the work on the first.
    opened = [open_input(path, segmenter.in_channels) for path in paths]
    _check_stems(opened)
    for source, where in zip(opened, places, strict=True):
        if where and where[0][0] != "index" and isinstance(source, NiftiInput) and not source.has_place:
            raise InputError(
                f"{source.path}: --{where[0][0]} is given, but the header has no sform and no qform: where its voxels "
                "lie is not known. Give --index I,J,K (column, row, slice from 0)."
            )
    points = [
        find_points(source, where, segmenter.crop_size is not None, segmenter.bundle_dir.name)
        for source, where in zip(opened, places, strict=True)
    ]
    run = describe_run(segmenter, experiment)
    unfinished = not stage_finished(segmenter.weights_path)
    if unfinished:
        logger.warning("%s", UNFINISHED)
    wanted = EXTRAS["dicom"].is_installed() if dicom is None else dicom
    try:
        writers = [DicomWriter(source, run) if wanted and isinstance(source, DicomInput) else None for source in opened]
    except InputError as error:
        raise InputError(f"{error} With --dicom False only NIfTI is written.") from error
    results: list[dict[str, Any]] = []
    progress = Progress("Predicting", len(opened), "inputs")
    for source, where, at, writer in zip(opened, places, points, writers, strict=True):
        started = time.monotonic()
        result: dict[str, Any] = {"version": RESULT_VERSION, "input": describe_input(source)}
        if isinstance(source, RasterInput) or not len(at):
            found = [segment_image(segmenter, source)]
            entries = [describe_plane(source, found[0], segmenter)]
            result |= entries[0]
        else:

            def tell(slices_done: int) -> None:
                progress.update(0, lambda: f"slice {slices_done}")

            found = [segment_nodule(segmenter, source, point, None, slices, reach_mm, tell) for point in at]
            entries = [
                describe_nodule(source, place, point, nodule, number, slices, reach_mm)
                for number, (place, point, nodule) in enumerate(zip(where, at, found, strict=True), start=1)
            ]
            notes = [NO_DICOM] if isinstance(source, DicomInput) and writer is None and dicom is None else []
            result |= {"interval_percent": list(INTERVAL_PERCENT), "nodules": entries, "notes": notes}
        if unfinished:
            result["notes"] = [UNFINISHED, *result["notes"]]
        result["provenance"] = run
        with output_folder(output_dir) as staging:
            names = _write(source, found, entries, writer, slices == 1, run, staging)
            text = json.dumps({**result, "files": names}, indent=2, allow_nan=False) + "\n"
            (staging / f"{source.stem}{PREDICTION_SUFFIX}").write_text(text, encoding="utf-8")
        names["prediction"] = f"{source.stem}{PREDICTION_SUFFIX}"
        results.append(
            {**result, "files": {kind: str((Path(output_dir) / name).resolve()) for kind, name in names.items()}}
        )
        progress.update()
        took = format_duration(time.monotonic() - started)
        logger.info("%s: predicted in %s (%d of %d)", source.path.name, took, len(results), len(opened))
    progress.close()
    return results


def _check_stems(opened: Sequence[RasterInput | VolumeInput]) -> None:
    seen: dict[str, Path] = {}
    for source in opened:
        other = seen.setdefault(source.stem, source.path)
        if other is not source.path:
            raise InputError(
                f"{source.path} and {other}: two inputs called {source.stem!r}, whose files would have the same names. "
                "Predict them in separate calls, each with its own --output-dir."
            )


def _write(
    source: RasterInput | VolumeInput,
    found: Sequence[Ensemble],
    described: Sequence[dict[str, Any]],
    writer: DicomWriter | None,
    clicked_slice_only: bool,
    run: dict[str, Any],
    folder: Path,
) -> dict[str, str]:
    """Write the ensemble of an image that is taken whole, or those of a volume's nodules; returns the files' names."""
    if isinstance(source, RasterInput):
        names = _write_picture(source, found[0], folder)
    else:
        names = _write_volume(source, found, described, writer, folder)
    for number, one in enumerate(found, start=1):
        end = f"_{number}" if len(found) > 1 else ""
        samples, panel = f"samples{end}", f"panel{end}"
        names[samples], names[panel] = f"{source.stem}_{samples}.npz", f"{source.stem}_{panel}.png"
        kept = one.plane(0) if clicked_slice_only and one.confidence.ndim == 3 else one
        np.savez_compressed(folder / names[samples], **kept.arrays())  # type: ignore[arg-type]
        title = source.stem + (f", nodule {number}" if end else "")
        save_panel(one, folder / names[panel], title, run, described[number - 1])
    return names


def _write_picture(source: RasterInput, found: Ensemble, folder: Path) -> dict[str, str]:
    names = {kind: f"{source.stem}_{kind}.png" for kind in ("consensus", "confidence")}
    save_png(found.fused, folder / names["consensus"])
    save_png(found.confidence, folder / names["confidence"])
    return names


def _write_volume(
    source: VolumeInput,
    found: Sequence[Ensemble],
    described: Sequence[dict[str, Any]],
    writer: DicomWriter | None,
    folder: Path,
) -> dict[str, str]:
    """Masks and confidence of all nodules on the volume's grid, and what DICOM needs of them."""
    names = {kind: f"{source.stem}_{kind}.nii.gz" for kind in ("consensus", "confidence")}
    pasted = [_paste(source, one, entry) for one, entry in zip(found, described, strict=True)]
    for name, values in zip(names.values(), _merge(source, pasted), strict=True):
        save_volume(values, source, folder / name)
    return names | (writer.write(pasted, folder, source.stem) if writer else {})


def _paste(source: VolumeInput, found: Ensemble, measurements: dict[str, Any]) -> SegmentedNodule:
    """A nodule, or a slice that is taken whole, on the grid of its volume."""
    (start, consensus), (_, confidence) = (
        source.paste_stack(torch.from_numpy(values.reshape(-1, *values.shape[-2:])), found.planes)
        for values in (found.fused.astype(np.uint8), found.confidence)
    )
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
