"""What a prediction's JSON and its panel say of the run, the input and each nodule."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.config import experiment_name
from ..bundle.segmenter import Segmenter
from ..ensemble.inferer import sampling_settings
from ..io.places import Place
from ..io.planes import point_to_index
from ..io.raster import RasterInput
from ..io.reading import DicomInput, VolumeInput
from ..plots.panel import plot_panel
from ..provenance import provenance
from .ensemble import Ensemble
from .wording import describe_record, name_consensus

logger = logging.getLogger(__name__)


def describe_run(segmenter: Segmenter, experiment: str | None) -> dict[str, Any]:
    """What all inputs of a run have in common."""
    inferer = segmenter.inferer
    return {
        "bundle": segmenter.bundle_dir.name,
        "bundle_version": segmenter.metadata.get("version"),
        "experiment": experiment_name(experiment),
        "weights": segmenter.weights_path.name,
        "weights_sha256": segmenter.weights_sha256,
        "num_samples": inferer.num_samples,
        **sampling_settings(inferer, segmenter.network),
        "seed": inferer.seed,
        "threshold": inferer.threshold,
        "confidence": inferer.confidence,
        "fusion": inferer.fusion,
        "postprocess": inferer.postprocess,
        **provenance(segmenter.device),
    }


def describe_input(source: RasterInput | VolumeInput) -> dict[str, Any]:
    """What a result says about its input: name, format, shape, and the grid of a volume."""
    if isinstance(source, RasterInput):
        return {"name": source.path.name, "format": source.path.suffix[1:].lower(), "shape": list(source.size)}
    description: dict[str, Any] = {
        "name": source.stem if isinstance(source, DicomInput) else source.path.name,
        "format": "dicom" if isinstance(source, DicomInput) else "nifti",
        "shape": list(source.shape),
        "spacing_mm": [round(float(value), 6) for value in np.linalg.norm(source.affine[:3, :3], axis=0)],
        "affine": source.affine.tolist(),
    }
    if isinstance(source, DicomInput):
        description["series_instance_uid"] = source.series.uid
    return description


def describe_plane(source: RasterInput | VolumeInput, found: Ensemble, segmenter: Segmenter) -> dict[str, Any]:
    """The sizes of an image that is taken whole, and remarks about how it was taken."""
    area = found.area_mm2()
    sizes = {"area_pixels": found.area_pixels().describe()}
    if area is not None:
        sizes["area_mm2"] = area.describe()
    height, width = found.confidence.shape
    crop = segmenter.crop_size
    notes = []
    if crop is not None and (height > crop or width > crop):
        notes.append(
            f"The image ({height}x{width}) was taken as a nodule crop: its central {crop}x{crop} pixels were used. "
            "From a whole CT slice, cut the nodule out first, or give the volume with --point."
        )
        # Not an error, since users cut crops of many sizes; but a whole slice must not pass without a note.
        logger.warning("%s: %s", source.path, notes[-1])
    elif crop is not None and (height < segmenter.image_size[0] or width < segmenter.image_size[1]):
        notes.append(f"The image ({height}x{width}) was padded with its minimum to the network's size.")
    return {**sizes, "agreement": found.describe_agreement(), "seen": _describe_seen(found), "notes": notes}


def describe_nodule(
    source: VolumeInput,
    place: Place,
    point: np.ndarray,
    nodule: Ensemble,
    number: int,
    slices: int | None,
    reach_mm: float,
) -> dict[str, Any]:
    """One nodule of a result: where it is, how it was found, its sizes, and remarks for whoever uses it."""
    plane = nodule.planes[nodule.clicked]
    voxel = np.floor(point_to_index(point, source.affine) + 0.5).astype(int)
    if "slab_start" in plane.meta:
        voxel[2] = int(plane.meta["slab_start"])
    reasons = {
        "reach": f"--reach-mm {reach_mm:g} ended the search", "slices": f"--slices {slices} ended the search",
        "volume": "the scan ends",
    }  # fmt: skip
    notes = [] if slices == 1 else nodule.note_cut_ends(reasons)
    notes += _note_border(nodule, plane.shape[1:])
    complete = not notes
    if not nodule.fused[nodule.clicked].any():
        notes.append("The consensus is empty in the clicked slice: most samples see no nodule there.")
    for note in notes:
        logger.warning("%s: nodule %d: %s", source.path, number, note)
    return {
        "number": number,
        place[0]: list(place[1]),
        "point_mm": [round(float(value), 3) for value in point],
        "voxel": [int(value) for value in np.clip(voxel, 0, np.array(source.shape) - 1)],
        "num_slices": len(nodule.planes),
        "ended": {"feet": nodule.ended[0], "head": nodule.ended[1]},
        **nodule.describe(),
        "complete": complete,
        "seen": _describe_seen(nodule),
        "notes": notes,
    }


def _note_border(nodule: Ensemble, shape: Sequence[int]) -> list[str]:
    """A note where the consensus ends at the border of what the network saw, inside the plane."""
    top, left, bottom, right = nodule.seen
    rows: np.ndarray = np.asarray(nodule.fused.any(axis=(0, 2)))
    columns: np.ndarray = np.asarray(nodule.fused.any(axis=(0, 1)))
    cut = (top > 0 and rows[top]) or (left > 0 and columns[left])
    cut = cut or (bottom < shape[0] and rows[bottom - 1]) or (right < shape[1] and columns[right - 1])
    if not cut:
        return []
    return ["The consensus reaches the border of what the network saw: sizes may be of a part of the nodule."]


def _describe_seen(found: Ensemble) -> dict[str, list[int]]:
    """First and last row and column of the planes that the network saw; outside of them all is background."""
    top, left, bottom, right = found.seen
    return {"rows": [top, bottom - 1], "columns": [left, right - 1]}


def describe_steps(run: Mapping[str, Any]) -> str:
    """How a mask was sampled: one pass of a network, or steps of a sampler, and the seed."""
    steps, sampler = run["num_inference_steps"], run["sampler"]
    if sampler is None:
        return "one mask, no steps"
    if sampler == "direct":
        return f"{steps} {'pass' if steps == 1 else 'passes'}, seed {run['seed']}"
    return f"{steps} {sampler.upper()} steps, seed {run['seed']}"


def save_panel(found: Ensemble, path: Path, title: str, run: Mapping[str, Any], described: Mapping[str, Any]) -> None:
    """Write the PNG of a plane, or of the clicked slice of a nodule: the part that the network saw.

    ``described`` is what :func:`describe_plane` or :func:`describe_nodule` gave.
    """
    shown = found.plane(found.clicked) if found.confidence.ndim == 3 else found
    top, left, bottom, right = shown.seen
    part = (..., slice(top, bottom), slice(left, right))
    image = shown.planes[0].as_tensor().numpy()[part]
    area, unit = shown.area()
    plot_panel(
        image[0] if len(image) == 1 else np.clip(image, 0, 255).astype(np.uint8).transpose(1, 2, 0),
        shown.samples[part],
        shown.confidence[part],
        shown.fused[part],
        shown.entropy()[part],
        path,
        title=title,
        subtitle="\n".join([*describe_record(described, run), f"{describe_steps(run)}  ·  {run['bundle']}"]),
        sample_titles=[
            f"Sample {number}: {f'{size:.0f} {unit}' if size else 'empty'}"
            for number, size in enumerate(area.samples, start=1)
        ],
        confidence_title=None if run["confidence"] == "samples" else f"Confidence ({len(shown.samples)} samples)",
        consensus_title=name_consensus(run, "Consensus"),
    )
