"""From a request of MONAI Label to a mask in the image's own axes and its measurements.

Voxels clicked in a viewer arrive as ``foreground``, a list of (i, j, k); ``point`` is the same in LPS millimetres. In a
volume every nodule pointed at is segmented with its neighbouring slices; a picture or a single slice is used whole.
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
from ...ensemble.inferer import sampling_settings
from ...errors import InputError
from ...io.places import find_points, parse_places
from ...io.reading import RasterInput, VolumeInput, open_input
from ...predict.ensemble import Ensemble
from ...predict.image import segment_image
from ...predict.measure import INTERVAL_PERCENT, Measurement
from ...predict.nodule import segment_nodule


@dataclass(frozen=True)
class Answer:
    """The answer to a request.

    Attributes:
        mask: consensus, uint8 in {0, 1}; (X, Y, Z) for a NIfTI, (W, H) for a picture: x first, as in MONAI Label.
        affine: (4, 4), voxel index to RAS millimetres; ``None`` for a picture.
        result: JSON values, see :func:`answer_request`.
    """

    mask: np.ndarray
    affine: np.ndarray | None
    result: dict[str, Any]


def answer_request(segmenter: Segmenter, request: Mapping[str, Any]) -> Answer:
    """Segment what a request asks for.

    Args:
        segmenter: the loaded bundle; its inferer has the request's number of samples, steps and seed.
        request: ``image`` is the file; ``foreground`` or ``point`` say where in a volume.

    Returns:
        The mask and a ``result`` with ``num_samples``, ``num_inference_steps``, ``seed``, ``interval_percent``,
        ``mean_entropy`` in bit (:meth:`~medseglatdiff_monai.predict.ensemble.Ensemble.mean_entropy`) and
        ``disagreement``, the mean of 1 - IoU over pairs of samples; both are the mean over the nodules. For a volume
        there are ``nodules``, a list with place, ``volume_mm3``, ``longest_diameter_mm`` and ``area_mm2``; for a
        picture ``area_pixels``, for a single slice ``area_mm2``, too. Each size is ``{"consensus", "median",
        "interval"}``.

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
        "num_inference_steps": sampling_settings(inferer, segmenter.network)["num_inference_steps"],
        "seed": inferer.seed,
        "interval_percent": list(INTERVAL_PERCENT),
    }
    if len(points):
        assert not isinstance(source, RasterInput)  # which has no places
        mask, nodules = _segment_nodules(segmenter, source, points)
        result["nodules"] = nodules
        for key in ("mean_entropy", "disagreement"):
            values = [nodule[key] for nodule in nodules if nodule[key] is not None]
            result[key] = round(float(np.mean(values)), 4) if values else None
        return Answer(mask, source.affine, result)
    return _segment_plane(segmenter, source, result)


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


def _segment_nodules(segmenter: Segmenter, source: VolumeInput, points: np.ndarray) -> tuple[np.ndarray, list[dict]]:
    mask = np.zeros(source.shape, np.uint8)
    nodules = []
    for number, point in enumerate(points.tolist(), start=1):
        nodule = segment_nodule(segmenter, source, point)
        start, part = source.paste_stack(torch.from_numpy(nodule.fused.astype(np.uint8)), nodule.planes)
        part_of_mask = mask[..., start : start + part.shape[2]]
        np.maximum(part_of_mask, part, out=part_of_mask)
        nodules.append(
            {
                "number": number,
                "point": [round(float(value), 3) for value in point],
                "slices": len(nodule.planes),
                "ended": list(nodule.ended),
                "volume_mm3": _shorten(nodule.volume_mm3()),
                "longest_diameter_mm": _shorten(nodule.diameter_mm()),
                "area_mm2": _shorten(nodule.area_mm2()),
                **_describe_spread(nodule),
            }
        )
    return mask, nodules


def _segment_plane(segmenter: Segmenter, source: RasterInput | VolumeInput, result: dict[str, Any]) -> Answer:
    found = segment_image(segmenter, source)
    result |= {"area_pixels": _shorten(found.area_pixels()), **_describe_spread(found)}
    consensus = found.consensus().astype(np.uint8)
    if isinstance(source, RasterInput):
        return Answer(np.ascontiguousarray(consensus.T), None, result)
    result["area_mm2"] = _shorten(found.area_mm2())
    return Answer(source.paste(torch.from_numpy(consensus), found.planes[0]), source.affine, result)


def _describe_spread(found: Ensemble) -> dict[str, Any]:
    agreement = found.agreement()
    return {
        "mean_entropy": round(found.mean_entropy(), 4),
        "disagreement": None if agreement is None else round(1.0 - agreement, 4),
    }


def _shorten(size: Measurement | None) -> dict[str, Any] | None:
    """Without the list of all samples, which a viewer does not show."""
    return None if size is None else {key: size.describe()[key] for key in ("consensus", "median", "interval")}
