"""From a user's image to an ensemble of masks, written in the image's own geometry.

A picture goes through the bundle's preprocessing as in training; of a CT volume first the axial slices and in them the
crop around the nodule are cut out, and each is prepared by itself. The samples are brought back by inverting the
preprocessing (linear interpolation and a threshold of 1/2 where it resized), and there confidence = mean of the
samples, consensus = confidence ≥ threshold or what another fusion makes of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from ..bundle.segmenter import Segmenter
from ..errors import InputError
from ..io.dicom_results import DicomWriter, SegmentedNodule, can_write_dicom
from ..io.places import Place, find_points
from ..io.planes import index_to_point
from ..io.reading import DicomInput, RasterInput, VolumeInput, open_input
from ..io.writing import OutputFolder, save_png, save_samples, save_volume
from ..plots.panel import draw_panel
from .image import Prediction, PredictionRun
from .measure import INTERVAL_PERCENT, measure_nodule
from .nodule import Nodule, draw_nodule
from .record import describe_input, describe_nodule, describe_run, find_notes

__all__ = ["predict_inputs"]

RESULT_VERSION = 2


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
    """Sample an ensemble of masks for each input and write it, see :func:`~medseglatdiff_monai.predict.predict`.

    Args:
        segmenter: the loaded bundle.
        paths: the inputs.
        places: where to look in each of them.
        output_dir: where the files go.
        experiment: overlay that the weights were trained with, for the record.
        seed: of the noise, for the record.
        slices: at most this many slices of a nodule, or ``None``.
        reach_mm: no slice of a nodule farther than this from the clicked one.
        dicom: whether DICOM results are written; ``None`` where they can be.
    """
    # All headers before the first pixel: a misspelt last input should not cost the work on the first.
    opened = [open_input(path, segmenter.in_channels) for path in paths]
    _check_stems(opened)
    points = [
        find_points(source, where, segmenter.crop_size is not None, segmenter.bundle_dir.name)
        for source, where in zip(opened, places, strict=True)
    ]
    record = describe_run(segmenter, experiment, seed)
    wanted = can_write_dicom() if dicom is None else dicom
    writers = [DicomWriter(source, record) if wanted and isinstance(source, DicomInput) else None for source in opened]
    run = PredictionRun(segmenter, record, Path(output_dir), slices, reach_mm)
    results = []
    for source, where, at, writer in zip(opened, places, points, writers, strict=True):
        if len(at):
            assert not isinstance(source, RasterInput)  # which has no places
            results.append(_predict_nodules(source, where, at, run, writer, dicom))
        else:
            results.append(_predict_plane(source, run))
    return results


def _check_stems(opened: Sequence[RasterInput | VolumeInput]) -> None:
    seen: dict[str, Path] = {}
    for source in opened:
        other = seen.setdefault(source.stem, source.path)
        if other is not source.path:
            raise InputError(
                f"{source.path} and {other}: two inputs called {source.stem!r}, whose files would have the same names. "
                "Predict them in separate calls with another --output-dir each."
            )


def _predict_plane(source: RasterInput | VolumeInput, run: PredictionRun) -> dict[str, Any]:
    """A picture, or a NIfTI of one slice that is taken as a crop."""
    if isinstance(source, RasterInput):
        plane = source.read()
    else:
        plane = source.cut(index_to_point([(side - 1) / 2 for side in source.shape], source.affine).tolist(), None)
    found = run.draw(source, plane)
    areas = [int(mask.sum()) for mask in found.samples]
    result: dict[str, Any] = {
        "version": RESULT_VERSION,
        "input": describe_input(source),
        "area_pixels": {"consensus": int(found.consensus.sum()), "samples": areas},
    }
    pixel_mm2 = None
    if not isinstance(source, RasterInput):
        affine = np.asarray(plane.affine, dtype=float)
        pixel_mm2 = float(np.linalg.norm(np.cross(affine[:3, 0], affine[:3, 1])))
        result["area_mm2"] = {
            "consensus": round(result["area_pixels"]["consensus"] * pixel_mm2, 3),
            "samples": [round(area * pixel_mm2, 3) for area in areas],
        }
    result["notes"] = find_notes(source, plane, found, run.segmenter)

    def write(staging: Path) -> dict[str, str]:
        names = {}
        if isinstance(source, RasterInput):
            names = {kind: f"{source.stem}_{kind}.png" for kind in ("consensus", "confidence")}
            save_png(found.consensus, staging / names["consensus"])
            save_png(found.confidence, staging / names["confidence"])
        else:
            names = {kind: f"{source.stem}_{kind}.nii.gz" for kind in ("consensus", "confidence")}
            for kind, values in (("consensus", found.consensus.astype(np.uint8)), ("confidence", found.confidence)):
                save_volume(source.paste(torch.from_numpy(values), plane), source, staging / names[kind])
        names["samples"], names["panel"] = f"{source.stem}_samples.npz", f"{source.stem}_panel.png"
        extra = {} if isinstance(source, RasterInput) else {"affine": np.asarray(plane.affine, dtype=float)}
        save_samples(staging / names["samples"], **_arrays(found), **extra)
        _draw_plane(found, plane, staging / names["panel"], source.stem, run.record, pixel_mm2)
        return names

    return _write(source, result, run, write)


def _predict_nodules(
    source: VolumeInput,
    places: Sequence[Place],
    points: np.ndarray,
    run: PredictionRun,
    writer: DicomWriter | None,
    dicom: bool | None,
) -> dict[str, Any]:
    """Every nodule of a volume that was pointed at."""
    notes = []
    if isinstance(source, DicomInput) and writer is None and dicom is None:
        notes.append("No DICOM SEG and SR: highdicom is not installed; pip install -e '.[dicom]' in the source tree.")
    # Of a single slice the file does not say how thick it is, and one slice of several is no volume.
    voxel_mm3 = float(abs(np.linalg.det(source.affine[:3, :3]))) if source.shape[2] > 1 and run.slices != 1 else None
    nodules, described, segmented = [], [], []
    labels = np.zeros(source.shape, np.uint8)
    confidence = np.zeros(source.shape, np.float32)
    for number, (place, point) in enumerate(zip(places, points, strict=True), start=1):
        cut_plane = source.open_planes(point.tolist(), run.segmenter.crop_size)
        nodule = draw_nodule(cut_plane, lambda plane: run.draw(source, plane), run.slices, run.reach_mm)
        nodules.append(nodule)
        measured = measure_nodule(nodule, voxel_mm3)
        described.append(describe_nodule(source, place, point, nodule, number, measured, run))
        start, consensus = source.paste_stack(torch.from_numpy(nodule.consensus.astype(np.uint8)), nodule.planes)
        _, values = source.paste_stack(torch.from_numpy(nodule.confidence), nodule.planes)
        part = (..., slice(start, start + values.shape[2]))
        labels[part] = np.where(
            (consensus > 0) & (values > confidence[part] * (labels[part] > 0)), number, labels[part]
        )
        confidence[part] = np.maximum(confidence[part], values)
        segmented.append(SegmentedNodule(start, consensus, values, measured))
    result: dict[str, Any] = {
        "version": RESULT_VERSION,
        "input": describe_input(source),
        "interval_percent": list(INTERVAL_PERCENT),
        "nodules": described,
        "notes": notes,
    }

    def write(staging: Path) -> dict[str, str]:
        names = {kind: f"{source.stem}_{kind}.nii.gz" for kind in ("consensus", "confidence")}
        save_volume(labels, source, staging / names["consensus"])
        save_volume(confidence, source, staging / names["confidence"])
        for number, (nodule, entry) in enumerate(zip(nodules, described, strict=True), start=1):
            end = f"_{number}" if len(nodules) > 1 else ""
            samples, panel = f"samples{end}", f"panel{end}"
            names[samples], names[panel] = f"{source.stem}_{samples}.npz", f"{source.stem}_{panel}.png"
            arrays = _arrays(nodule)
            if run.slices == 1:
                arrays = {"samples": nodule.samples[:, 0], **{k: v[0] for k, v in arrays.items() if k != "samples"}}
            save_samples(staging / names[samples], **arrays, affine=nodule.affine)
            at = nodule.clicked
            plane = nodule.planes[at]
            shown = Prediction(
                nodule.samples[:, at], nodule.confidence[at], nodule.consensus[at], nodule.entropy[at],
                nodule.seen,
            )  # fmt: skip
            title = source.stem + (f", nodule {number}" if end else "")
            edges = np.asarray(plane.affine, dtype=float)
            pixel_mm2 = float(np.linalg.norm(np.cross(edges[:3, 0], edges[:3, 1])))
            volume = entry["volume_mm3"]
            extra = ""
            if volume is not None:
                low, high = volume["interval"]
                extra = f"Volume {volume['consensus']:.0f} mm³ ({low:.0f} to {high:.0f}), clicked slice: "
            _draw_plane(shown, plane, staging / names[panel], title, run.record, pixel_mm2, extra)
        if writer is not None:
            names.update(writer.write(segmented, staging, source.stem))
        return names

    return _write(source, result, run, write)


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


def _arrays(found: Prediction | Nodule) -> dict[str, np.ndarray]:
    return {name: getattr(found, name) for name in ("samples", "confidence", "consensus", "entropy")}


def _describe_steps(record: dict[str, Any]) -> str:
    """How a mask was sampled, for the panel: one pass of a network, or steps of a sampler, and the seed."""
    steps, sampler = record["num_inference_steps"], record["sampler"]
    if sampler in ("none", None):
        return "one mask, no samples"
    if sampler == "direct":
        return f"{steps} {'pass' if steps == 1 else 'passes'}, seed {record['seed']}"
    return f"{steps} {sampler.upper()} steps, seed {record['seed']}"


def _draw_plane(
    found: Prediction,
    plane: MetaTensor,
    path: Path,
    title: str,
    record: dict[str, Any],
    pixel_mm2: float | None,
    extra: str = "",
) -> None:
    """The panel of one plane, of the part that the network saw."""
    top, left, bottom, right = found.seen
    image = plane.as_tensor().numpy()[:, top:bottom, left:right]
    size = [float(mask.sum()) * (pixel_mm2 or 1.0) for mask in found.samples]
    unit = "mm²" if pixel_mm2 is not None else "px"
    consensus_area = found.consensus.sum() * (pixel_mm2 or 1.0)
    draw_panel(
        image[0] if len(image) == 1 else np.clip(image, 0, 255).astype(np.uint8).transpose(1, 2, 0),
        found.samples[:, top:bottom, left:right],
        found.confidence[top:bottom, left:right],
        found.consensus[top:bottom, left:right],
        found.entropy[top:bottom, left:right],
        path,
        title=title,
        subtitle=(
            f"{extra}{'consensus' if extra else 'Consensus'} {consensus_area:.0f} {unit}, samples {min(size):.0f} to "
            f"{max(size):.0f} {unit}  ·  "
            f"{_describe_steps(record)}  ·  {record['bundle']}"
        ),
        sample_titles=[
            f"Sample {number + 1}: {f'{area:.0f} {unit}' if area else 'empty'}" for number, area in enumerate(size)
        ],
        confidence_title=None if record["confidence"] == "samples" else f"Confidence ({len(found.samples)} samples)",
    )
