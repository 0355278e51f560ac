"""From users' files to ensembles of masks, and to the files that `predict` writes in each input's own geometry.

A picture goes through the bundle's preprocessing as in training. From a CT volume the crop around the nodule is cut out
of each axial slice first, and prepared by itself. Written are JSON, masks and maps, samples, a panel, DICOM results.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
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
from ..io.reading import DicomInput, VolumeInput, open_input
from ..io.writing import output_folder, save_png, save_samples, save_volume
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
    seed: int,
    slices: int | None,
    reach_mm: float,
    dicom: bool | None,
) -> list[dict[str, Any]]:
    """Sample an ensemble of masks for each input and write it; the arguments are those of `predict`, checked."""
    # All headers before the first pixel: a misspelt last input should not cost the work on the first.
    opened = [open_input(path, segmenter.in_channels) for path in paths]
    _check_stems(opened)
    for source, where in zip(opened, places, strict=True):
        if where and where[0][0] != "index" and isinstance(source, VolumeInput) and not source.has_place:
            raise InputError(
                f"{source.path}: --{where[0][0]} is given, but the header has no sform and no qform: where its voxels "
                "lie is not known. Give --index I,J,K (column, row, slice from 0)."
            )
    points = [
        find_points(source, where, segmenter.crop_size is not None, segmenter.bundle_dir.name)
        for source, where in zip(opened, places, strict=True)
    ]
    run = describe_run(segmenter, experiment, seed)
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
        write: Callable[[dict[str, Any], Path], dict[str, str]]
        if isinstance(source, RasterInput) or not len(at):
            found = segment_image(segmenter, source)
            described = describe_plane(source, found, segmenter)
            result |= described
            write = partial(_write_plane, source, found, described)
        else:

            def tell(slices_done: int) -> None:
                progress.update(0, lambda: f"slice {slices_done}")

            nodules = [segment_nodule(segmenter, source, point, None, slices, reach_mm, tell) for point in at]
            entries = [
                describe_nodule(source, place, point, nodule, number, slices, reach_mm)
                for number, (place, point, nodule) in enumerate(zip(where, at, nodules, strict=True), start=1)
            ]
            notes = [NO_DICOM] if isinstance(source, DicomInput) and writer is None and dicom is None else []
            result |= {"interval_percent": list(INTERVAL_PERCENT), "nodules": entries, "notes": notes}
            write = partial(_write_nodules, source, nodules, entries, writer, slices == 1)
        if unfinished:
            result["notes"] = [UNFINISHED, *result["notes"]]
        results.append(_write_together({**result, "provenance": run}, source.stem, Path(output_dir), write))
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


def _write_together(
    result: dict[str, Any], stem: str, output_dir: Path, write: Callable[[dict[str, Any], Path], dict[str, str]]
) -> dict[str, Any]:
    """Write all files of an input together; returns the JSON's content with absolute paths."""
    with output_folder(output_dir) as staging:
        names = write(result["provenance"], staging)
        text = json.dumps({**result, "files": names}, indent=2, allow_nan=False) + "\n"
        (staging / f"{stem}{PREDICTION_SUFFIX}").write_text(text, encoding="utf-8")
    names = {**names, "prediction": f"{stem}{PREDICTION_SUFFIX}"}
    return {**result, "files": {kind: str((output_dir / name).resolve()) for kind, name in names.items()}}


def _write_plane(
    source: RasterInput | VolumeInput,
    found: Ensemble,
    described: dict[str, Any],
    run: dict[str, Any],
    folder: Path,
) -> dict[str, str]:
    """Write a picture's ensemble, or that of a NIfTI of one slice that is taken as a crop; returns the files' names."""
    end = "png" if isinstance(source, RasterInput) else "nii.gz"
    names = {}
    for kind, values in {"consensus": found.fused, "confidence": found.confidence}.items():
        names[kind] = f"{source.stem}_{kind}.{end}"
        if isinstance(source, RasterInput):
            save_png(values, folder / names[kind])
        else:
            save_volume(source.paste(_to_tensor(values), found.planes[0]), source, folder / names[kind])
    names["samples"], names["panel"] = f"{source.stem}_samples.npz", f"{source.stem}_panel.png"
    save_samples(folder / names["samples"], **found.arrays())
    save_panel(found, folder / names["panel"], source.stem, run, described)
    return names


def _write_nodules(
    source: VolumeInput,
    nodules: Sequence[Ensemble],
    described: Sequence[dict[str, Any]],
    writer: DicomWriter | None,
    clicked_slice_only: bool,
    run: dict[str, Any],
    folder: Path,
) -> dict[str, str]:
    """Write the nodules of a volume; returns the files' names."""
    pasted = [_paste(source, nodule, entry) for nodule, entry in zip(nodules, described, strict=True)]
    names = {kind: f"{source.stem}_{kind}.nii.gz" for kind in ("consensus", "confidence")}
    for kind, values in zip(names, _merge(source, pasted), strict=True):
        save_volume(values, source, folder / names[kind])
    for number, nodule in enumerate(nodules, start=1):
        end = f"_{number}" if len(nodules) > 1 else ""
        samples, panel = f"samples{end}", f"panel{end}"
        names[samples], names[panel] = f"{source.stem}_{samples}.npz", f"{source.stem}_{panel}.png"
        save_samples(folder / names[samples], **(nodule.plane(0) if clicked_slice_only else nodule).arrays())
        title = source.stem + (f", nodule {number}" if end else "")
        save_panel(nodule, folder / names[panel], title, run, described[number - 1])
    if writer is not None:
        names.update(writer.write(pasted, folder, source.stem))
    return names


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
