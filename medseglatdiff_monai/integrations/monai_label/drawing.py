"""From a request of MONAI Label to a mask in the image's own axes and the numbers that go with it.

Voxels clicked in a viewer arrive as ``foreground``, a list of (i, j, k); ``point`` is the same in LPS millimetres. Of a
volume every nodule pointed at is drawn with its neighbouring slices, a picture or a single slice is drawn whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...bundle.segmenter import Segmenter
from ...errors import InputError
from ...io.places import find_points, parse_places
from ...io.planes import index_to_point
from ...io.reading import RasterInput, VolumeInput, open_input
from ...metrics.distances import pairwise_iou
from ...predict.image import predict_image
from ...predict.measure import INTERVAL_PERCENT, measure_nodule, summarize_values
from ...predict.nodule import draw_nodule

__all__ = ["Drawing", "draw_request", "find_disagreement", "find_mean_entropy"]


@dataclass(frozen=True)
class Drawing:
    """What a request is answered with.

    Attributes:
        mask: consensus, uint8 in {0, 1}; (X, Y, Z) of a NIfTI, (W, H) of a picture: x first, as MONAI Label writes it.
        affine: (4, 4), voxel index to RAS millimetres; ``None`` of a picture.
        result: JSON values, see :func:`draw_request`.
    """

    mask: np.ndarray
    affine: np.ndarray | None
    result: dict[str, Any]


def draw_request(segmenter: Segmenter, request: Mapping[str, Any]) -> Drawing:
    """Draw what a request asks for.

    Args:
        segmenter: the loaded bundle; its inferer has the request's number of samples, steps and seed.
        request: ``image`` is the file; ``foreground`` or ``point`` say where in a volume.

    Returns:
        The mask and a ``result`` with ``num_samples``, ``num_inference_steps``, ``seed``, ``interval_percent``,
        ``mean_entropy`` in bit (:func:`find_mean_entropy`) and ``disagreement`` (:func:`find_disagreement`), both the
        mean over the nodules; of a volume ``nodules``, a list with place, ``volume_mm3``, ``longest_diameter_mm`` and
        ``area_mm2``; of a picture ``area_pixels``, of a single slice ``area_mm2``, too. Each size is ``{"consensus",
        "median", "interval"}``.

    Raises:
        InputError: a volume without a place; a place outside of it; a file that the bundle cannot take.
    """
    source = open_input(Path(request["image"]), segmenter.in_channels)
    name, crops = segmenter.bundle_dir.name, segmenter.crop_size is not None
    places = parse_places(_read_clicks(request), 1)[0]
    if crops and not places and isinstance(source, VolumeInput) and source.needs_place:
        raise InputError(
            f"{source.path.name}: a volume of shape {source.shape}, and no nodule was clicked. Give params "
            "{'foreground': [[i, j, k]]} (voxel, from 0) or {'point': [x, y, z]} (LPS millimetres) with the request to "
            f"{name}."
        )
    try:
        points = find_points(source, places, crops, name)
    except InputError as error:
        message = str(error).replace("--index", "'foreground'").replace("--point", "'point'")
        raise InputError(message) from error
    inferer = segmenter.inferer
    result: dict[str, Any] = {
        "num_samples": inferer.num_samples,
        "num_inference_steps": inferer.num_inference_steps or segmenter.network.num_inference_steps,
        "seed": inferer.seed,
        "interval_percent": list(INTERVAL_PERCENT),
    }
    if len(points):
        assert not isinstance(source, RasterInput)  # which has no places
        mask, nodules = _draw_nodules(segmenter, source, points)
        result["nodules"] = nodules
        for key in ("mean_entropy", "disagreement"):
            values = [nodule[key] for nodule in nodules if nodule[key] is not None]
            result[key] = round(float(np.mean(values)), 4) if values else None
        return Drawing(mask, source.affine, result)
    return _draw_plane(segmenter, source, result)


def find_mean_entropy(entropy: np.ndarray, samples: np.ndarray) -> float:
    """Mean entropy over the pixels that at least one sample contains, in bit; 0 where all samples are empty.

    Over the whole image the figure would tell of the background's size.

    Args:
        entropy: (...) in [0, 1] bit.
        samples: (N, ...) bool.
    """
    union = samples.any(axis=0)
    return round(float(entropy[union].mean()), 4) if union.any() else 0.0


def find_disagreement(samples: np.ndarray) -> float | None:
    """Mean of 1 - IoU over pairs of different samples, (N, ...) bool; both empty → 0, a single sample → ``None``."""
    number = len(samples)
    if number < 2:
        return None
    table = pairwise_iou(samples[None], samples[None])[0]
    return round(1.0 - float((table.sum() - table.diagonal().sum()) / (number * (number - 1))), 4)


def _read_clicks(request: Mapping[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {"index": request.get("foreground"), "point": request.get("point")}
    for name, value in given.items():
        if isinstance(value, str) and value.strip().startswith("["):
            try:
                given[name] = json.loads(value)
            except json.JSONDecodeError as error:
                raise InputError(f"'{name}' is {value!r}; expected lists of three numbers.") from error
        if not isinstance(given[name], str) and given[name] is not None and not len(given[name]):
            given[name] = None
    if given["index"] is not None and given["point"] is not None:
        raise InputError("'foreground' and 'point' are given; expected one of them: leave the other out.")
    if isinstance(given["index"], Sequence) and not isinstance(given["index"], str):
        # A viewer may send the same click twice, or fractions of a voxel.
        rows = given["index"] if isinstance(given["index"][0], Sequence) else [given["index"]]
        try:
            given["index"] = [list(row) for row in dict.fromkeys(tuple(int(np.rint(v)) for v in row) for row in rows)]
        except (TypeError, ValueError, OverflowError):
            raise InputError(f"'foreground' is {rows!r}; expected lists of three numbers, [[i, j, k], …].") from None
    return given


def _draw_nodules(segmenter: Segmenter, source: VolumeInput, points: np.ndarray) -> tuple[np.ndarray, list[dict]]:
    # As in predict: one slice of a file does not say how thick it is.
    voxel_mm3 = float(abs(np.linalg.det(source.affine[:3, :3]))) if source.shape[2] > 1 else None
    mask = np.zeros(source.shape, np.uint8)
    nodules = []
    for number, point in enumerate(points.tolist(), start=1):
        nodule = draw_nodule(
            source.open_planes(point, segmenter.crop_size), lambda plane: predict_image(plane, segmenter)
        )
        start, part = source.paste_stack(torch.from_numpy(nodule.consensus.astype(np.uint8)), nodule.planes)
        part_of_mask = mask[..., start : start + part.shape[2]]
        np.maximum(part_of_mask, part, out=part_of_mask)
        measured = measure_nodule(nodule, voxel_mm3)
        nodules.append(
            {
                "number": number,
                "point": [round(float(value), 3) for value in point],
                "slices": len(nodule.planes),
                "ended": list(nodule.ended),
                **{key: _shorten(measured[key]) for key in ("volume_mm3", "longest_diameter_mm", "area_mm2")},
                "mean_entropy": find_mean_entropy(nodule.entropy, nodule.samples),
                "disagreement": find_disagreement(nodule.samples),
            }
        )
    return mask, nodules


def _draw_plane(segmenter: Segmenter, source: RasterInput | VolumeInput, result: dict[str, Any]) -> Drawing:
    if isinstance(source, RasterInput):
        plane = source.read()
    else:
        plane = source.cut(index_to_point([(side - 1) / 2 for side in source.shape], source.affine).tolist(), None)
    found = predict_image(plane, segmenter)
    areas = [int(mask.sum()) for mask in found.samples]
    result["area_pixels"] = _shorten({"consensus": int(found.consensus.sum()), **summarize_values(areas)})
    result["mean_entropy"] = find_mean_entropy(found.entropy, found.samples)
    result["disagreement"] = find_disagreement(found.samples)
    consensus = found.consensus.astype(np.uint8)
    if isinstance(source, RasterInput):
        return Drawing(np.ascontiguousarray(consensus.T), None, result)
    edges = np.asarray(plane.affine, dtype=float)
    pixel_mm2 = float(np.linalg.norm(np.cross(edges[:3, 0], edges[:3, 1])))
    result["area_mm2"] = _shorten(
        {
            "consensus": round(float(consensus.sum()) * pixel_mm2, 3),
            **summarize_values([area * pixel_mm2 for area in areas]),
        }
    )
    return Drawing(source.paste(torch.from_numpy(consensus), plane), source.affine, result)


def _shorten(size: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Without the list of all samples, which a viewer does not show."""
    return None if size is None else {key: size[key] for key in ("consensus", "median", "interval")}
