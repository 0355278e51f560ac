"""Descriptions of the run, the input and each nodule, for a prediction's JSON and panel."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..bundle.config import experiment_name
from ..bundle.segmenter import Segmenter
from ..ensemble.inferer import sampling_settings
from ..io.places import Place
from ..io.planes import point_to_index
from ..io.raster import RasterInput
from ..io.reading import DicomInput, VolumeInput
from .ensemble import Ensemble

__all__ = ["describe_input", "describe_nodule", "describe_run", "describe_steps", "find_notes"]

logger = logging.getLogger(__name__)


def describe_run(segmenter: Segmenter, experiment: str | None, seed: int) -> dict[str, Any]:
    """What all inputs of a run have in common."""
    from ..provenance import provenance

    inferer = segmenter.inferer
    return {
        "bundle": segmenter.bundle_dir.name,
        "bundle_version": segmenter.metadata.get("version"),
        "experiment": experiment_name(experiment),
        "weights": segmenter.weights_path.name,
        "weights_sha256": segmenter.weights_sha256,
        "num_samples": inferer.num_samples,
        **sampling_settings(inferer, segmenter.network),
        "seed": seed,
        "threshold": inferer.threshold,
        "confidence": inferer.confidence,
        "fusion": inferer.fusion,
        "postprocess": inferer.postprocess,
        **provenance(segmenter.device),
    }


def describe_steps(record: Mapping[str, Any]) -> str:
    """How a mask was sampled: one pass of a network, or steps of a sampler, and the seed."""
    steps, sampler = record["num_inference_steps"], record["sampler"]
    if sampler is None:
        return "one mask, no steps"
    if sampler == "direct":
        return f"{steps} {'pass' if steps == 1 else 'passes'}, seed {record['seed']}"
    return f"{steps} {sampler.upper()} steps, seed {record['seed']}"


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
    why = {
        "reach": f"--reach-mm {reach_mm:g} ended the search", "slices": f"--slices {slices} ended the search",
        "volume": "the scan ends",
    }  # fmt: skip
    notes = []
    if slices != 1:
        notes = [
            f"Towards the {side} {why[end]} while the consensus was not empty: the volume covers only part of the "
            "nodule."
            for side, end in nodule.find_cut_ends()
        ]
    if not nodule.fused[nodule.clicked].any():
        notes.append("The consensus is empty in the clicked slice: most samples see no nodule there.")
    for note in notes:
        logger.warning("%s: nodule %d: %s", source.path, number, note)
    notes += _note_seen(nodule.seen, plane.shape[1:], "crop")
    return {
        "number": number,
        place[0]: list(place[1]),
        "point_mm": [round(float(value), 3) for value in point],
        "voxel": [int(value) for value in np.clip(voxel, 0, np.array(source.shape) - 1)],
        "num_slices": len(nodule.planes),
        "ended": {"feet": nodule.ended[0], "head": nodule.ended[1]},
        **nodule.describe(),
        "notes": notes,
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


def find_notes(source: RasterInput | VolumeInput, found: Ensemble, segmenter: Segmenter) -> list[str]:
    """Remarks for whoever uses the result, about how the image was taken."""
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
    what = "image" if isinstance(source, RasterInput) else "plane"
    return notes + _note_seen(found.seen, (height, width), what)


def _note_seen(seen: tuple[int, int, int, int], shape: Sequence[int], what: str) -> list[str]:
    """A note where the network did not see the whole image."""
    top, left, bottom, right = seen
    height, width = shape
    if seen == (0, 0, height, width):
        return []
    return [
        f"The network saw rows {top} to {bottom - 1} and columns {left} to {right - 1} of the {height}x{width} {what}; "
        "all else is background."
    ]
