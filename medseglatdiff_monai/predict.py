"""From a user's image to an ensemble of masks, written in the image's own geometry.

A picture goes through the bundle's preprocessing as in training; of a CT volume first the axial slice and the crop
around the nodule are cut out. The samples are brought back by inverting the preprocessing (linear interpolation and a
threshold of 1/2 where it resized), and there confidence = mean of the samples, consensus = confidence ≥ threshold or
what another fusion makes of them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, SpatialPadd
from monai.transforms.utils import convert_applied_interp_mode

from .bundle import Segmenter, experiment_name, load_segmenter
from .data.nodule_crop import index_to_point, point_to_index
from .data.transforms import LoadCased
from .errors import InputError, unwrapped_errors
from .fusion import fuse_ensemble
from .io import (
    DicomInput,
    OutputFolder,
    Place,
    RasterInput,
    VolumeInput,
    draw_panel,
    find_point,
    open_input,
    parse_places,
    save_png,
    save_samples,
    save_volume,
)

__all__ = ["Prediction", "predict", "predict_image"]

RESULT_VERSION = 1
logger = logging.getLogger(__name__)
# Samples are brought back so many pixels at a time.
PIXELS_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Prediction:
    """An ensemble on the grid of the image that was given.

    Attributes:
        samples: (N, H, W) bool.
        confidence: (H, W) float32 in [0, 1].
        consensus: (H, W) bool.
        entropy: (H, W) float32 in [0, 1] bit.
        seen: (top, left, bottom, right) of the part of the image that the network saw; outside it all is background.
    """

    samples: np.ndarray
    confidence: np.ndarray
    consensus: np.ndarray
    entropy: np.ndarray
    seen: tuple[int, int, int, int]


def predict(
    bundle: str | Path,
    inputs: str | Path | Sequence[str | Path],
    output_dir: str | Path,
    weights: str | Path | None = None,
    experiment: str | None = None,
    num_samples: int | None = None,
    num_inference_steps: int | None = None,
    seed: int = 0,
    point: Any = None,
    index: Any = None,
    roi: Any = None,
    device: str | torch.device | None = None,
    **overrides: Any,
) -> list[dict[str, Any]]:
    """Draw an ensemble of masks for each input and write it.

    Of an input ``NAME.…`` these files are written to ``output_dir``: ``NAME_consensus`` and ``NAME_confidence`` (PNG of
    the input's size, 0 or 255 and round(255 · confidence); NIfTI of the volume's shape and affine, uint8 and float32,
    for NIfTI and DICOM), ``NAME_panel.png``, ``NAME_samples.npz`` (``samples``, ``confidence``, ``consensus``,
    ``entropy`` on the plane of the prediction, and for volumes ``affine``, (row, column, 0) to RAS millimetres) and
    ``NAME_prediction.json``. They appear together once the input is done; an earlier prediction is replaced.

    Args:
        bundle: folder, or name under ``bundles/``.
        inputs: PNG, JPEG and NIfTI files, and folders that hold one DICOM CT series each.
        output_dir: where the files go.
        weights: other weights than the bundle's own.
        experiment: overlay that the weights were trained with.
        num_samples: masks an input; default the bundle's.
        num_inference_steps: denoiser calls a mask; default the bundle's.
        seed: the noise is that of (seed, sample index), the same for every input.
        point: where the nodule is in a volume, (x, y, z) in LPS millimetres; with several volumes a list, one an input.
        index: the same as a voxel index (i, j, k): column, row, slice of a DICOM series.
        roi: the same as a box, (x0, y0, z0, x1, y1, z1) in LPS millimetres, whose centre is taken.
        device: e.g. ``"cuda:1"``; by default CUDA if there is one.
        overrides: configuration keys of the bundle.

    Returns:
        For each input the contents of ``NAME_prediction.json``, with absolute paths under ``files``.

    Raises:
        InputError: see :func:`~medseglatdiff_monai.bundle.load_segmenter` and
            :func:`~medseglatdiff_monai.io.open_input`; an argument out of its range; a place that is missing, given
            twice, outside the volume or not needed; an image that the network cannot take.
    """
    paths = [Path(path) for path in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    if not paths:
        raise InputError("No input: give at least one PNG, JPEG or NIfTI file, or a folder with a DICOM CT series.")
    _check_count("--num-samples", num_samples)
    _check_count("--num-inference-steps", num_inference_steps)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError(f"--seed is {seed!r}; expected an integer.")
    places = parse_places({"point": point, "index": index, "roi": roi}, len(paths))
    segmenter = load_segmenter(
        bundle, weights, experiment, device,
        num_samples=num_samples, num_inference_steps=num_inference_steps, seed=seed, **overrides,
    )  # fmt: skip
    # All headers before the first pixel: a misspelt last input should not cost the work on the first.
    opened = [open_input(path, segmenter.in_channels) for path in paths]
    _check_stems(opened)
    points = [
        find_point(source, place, segmenter.crop_size is not None, segmenter.bundle_dir.name)
        for source, place in zip(opened, places, strict=True)
    ]
    record = _describe_run(segmenter, experiment, seed)
    return [
        _predict_input(source, place, where, segmenter, record, Path(output_dir))
        for source, place, where in zip(opened, places, points, strict=True)
    ]


def predict_image(image: MetaTensor, segmenter: Segmenter) -> Prediction:
    """Draw an ensemble for an image in memory.

    An image smaller than the network's input is padded with its minimum, if the bundle crops and does not resize.

    Args:
        image: (C, H, W) grey values as a file of the bundle's kind holds them.
        segmenter: the loaded bundle.

    Raises:
        InputError: the network cannot take the image.
        ValueError: a sample is not finite, see :func:`~medseglatdiff_monai.ensemble.summarize_ensemble`.
    """
    steps: list[Any] = [step for step in _steps(segmenter) if not isinstance(step, LoadCased)]
    if segmenter.crop_size is not None:
        steps.insert(0, SpatialPadd("image", segmenter.image_size, mode="constant", value=float(image.min())))
    preprocessing = Compose(steps)
    with unwrapped_errors():
        item = preprocessing({"image": image})
    # One-to-one networks have no codec and know themselves what they can halve.
    (segmenter.network.mask_codec or segmenter.network).check_size(item["image"].shape[1:])
    inferer = segmenter.inferer
    ensemble = inferer(item["image"][None].to(segmenter.device), segmenter.network)

    # Whatever mode an image was resized by, masks go back by linear interpolation, which gives smooth edges.
    source = item["image"].clone()
    source.applied_operations = convert_applied_interp_mode(source.applied_operations, "bilinear", align_corners=False)
    invert = Invertd("maps", preprocessing, orig_keys="image", nearest_interp=False)
    step = max(1, PIXELS_AT_ONCE // (image.shape[1] * image.shape[2]))

    def bring_back(maps: torch.Tensor) -> torch.Tensor:
        """(N, h, w) on the network's grid → (N, H, W) on the image's, in bool or float32 as before."""
        kind = torch.bool if maps.dtype == torch.bool else torch.float32
        back = torch.empty((len(maps), *image.shape[1:]), dtype=kind)
        for start in range(0, len(maps), step):
            part = MetaTensor(maps[start : start + step].float().cpu())
            part = invert({"image": source, "maps": part})["maps"].as_tensor()
            back[start : start + step] = part >= 0.5 if kind == torch.bool else part
        return back

    samples = bring_back(ensemble["samples"][0])
    if inferer.confidence == "samples":
        confidence = samples.sum(0).float() / len(samples)
    else:
        confidence = bring_back(ensemble["confidence_map"][0])[0].clamp(0.0, 1.0)
    entropy = (torch.special.entr(confidence) + torch.special.entr(1.0 - confidence)) / float(np.log(2.0))
    seen = bring_back(torch.ones_like(ensemble["samples"][0, :1]))[0].nonzero()
    (top, left), (bottom, right) = seen.min(0).values.tolist(), (seen.max(0).values + 1).tolist()
    fused = fuse_ensemble(samples[None], confidence[None, None], inferer.threshold, inferer.fusion)
    return Prediction(
        samples=samples.numpy(),
        confidence=confidence.numpy(),
        consensus=fused["consensus_mask"][0, 0].numpy(),
        entropy=entropy.numpy(),
        seen=(top, left, bottom, right),
    )


def _steps(segmenter: Segmenter) -> Sequence[Any]:
    preprocessing = segmenter.preprocessing
    return preprocessing.transforms if isinstance(preprocessing, Compose) else [preprocessing]


def _check_count(name: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InputError(f"{name} is {value!r}; expected an integer of at least 1.")


def _check_stems(opened: Sequence[RasterInput | VolumeInput]) -> None:
    seen: dict[str, Path] = {}
    for source in opened:
        other = seen.setdefault(source.stem, source.path)
        if other is not source.path:
            raise InputError(
                f"{source.path} and {other}: two inputs called {source.stem!r}, whose files would have the same names. "
                "Predict them in separate calls with another --output-dir each."
            )


def _describe_run(segmenter: Segmenter, experiment: str | None, seed: int) -> dict[str, Any]:
    """What all inputs of a run have in common."""
    from .evaluation import provenance

    inferer = segmenter.inferer
    return {
        "bundle": segmenter.bundle_dir.name,
        "bundle_version": segmenter.metadata.get("version"),
        "experiment": experiment_name(experiment),
        "weights": segmenter.weights_path.name,
        "weights_sha256": segmenter.weights_sha256,
        "num_samples": inferer.num_samples,
        "num_inference_steps": inferer.num_inference_steps or segmenter.network.num_inference_steps,
        "sampler": inferer.sampler or segmenter.network.sampler,
        "seed": seed,
        "threshold": inferer.threshold,
        "confidence": inferer.confidence,
        "fusion": inferer.fusion,
        "postprocess": inferer.postprocess,
        **provenance(segmenter.device),
    }


def _predict_input(
    source: RasterInput | VolumeInput,
    place: Place | None,
    point: np.ndarray | None,
    segmenter: Segmenter,
    record: dict[str, Any],
    output_dir: Path,
) -> dict[str, Any]:
    plane = _cut(source, point, segmenter)
    try:
        found = predict_image(plane, segmenter)
    except ValueError as error:
        raise InputError(f"{source.path}: {error}") from error
    result: dict[str, Any] = {"version": RESULT_VERSION, "input": _describe_input(source, place, point, plane)}
    notes = _find_notes(source, plane, found, segmenter)
    areas = [int(mask.sum()) for mask in found.samples]
    result["area_pixels"] = {"consensus": int(found.consensus.sum()), "samples": areas}
    pixel_mm2 = None
    if not isinstance(source, RasterInput):
        affine = np.asarray(plane.affine, dtype=float)
        pixel_mm2 = float(np.linalg.norm(np.cross(affine[:3, 0], affine[:3, 1])))
        result["area_mm2"] = {
            "consensus": round(result["area_pixels"]["consensus"] * pixel_mm2, 3),
            "samples": [round(area * pixel_mm2, 3) for area in areas],
        }
    result["notes"] = notes
    result["provenance"] = record
    with OutputFolder(output_dir) as staging:
        names = _write(staging, source, plane, found, record, areas, pixel_mm2)
        result["files"] = names
        text = json.dumps(result, indent=2, allow_nan=False) + "\n"
        (staging / f"{source.stem}_prediction.json").write_text(text, encoding="utf-8")
    names = {**names, "prediction": f"{source.stem}_prediction.json"}
    return {**result, "files": {kind: str((output_dir / name).resolve()) for kind, name in names.items()}}


def _cut(source: RasterInput | VolumeInput, point: np.ndarray | None, segmenter: Segmenter) -> MetaTensor:
    if isinstance(source, RasterInput):
        return source.read()
    if point is not None:
        return source.cut(point.tolist(), segmenter.crop_size)
    return source.cut(index_to_point([(side - 1) / 2 for side in source.shape], source.affine).tolist(), None)


def _describe_input(
    source: RasterInput | VolumeInput,
    place: Place | None,
    point: np.ndarray | None,
    plane: MetaTensor,
) -> dict[str, Any]:
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
    if point is not None:
        assert place is not None  # a point comes from a place
        description[place[0]] = list(place[1])
        description["point_mm"] = [round(float(value), 3) for value in point]
        voxel = np.floor(point_to_index(point, source.affine) + 0.5).astype(int)
        if "slab_start" in plane.meta:
            voxel[2] = int(plane.meta["slab_start"])
        description["voxel"] = [int(value) for value in np.clip(voxel, 0, np.array(source.shape) - 1)]
    return description


def _find_notes(
    source: RasterInput | VolumeInput, plane: MetaTensor, found: Prediction, segmenter: Segmenter
) -> list[str]:
    """What a reader of the result should know about how the image was taken."""
    height, width = plane.shape[1:]
    crop = segmenter.crop_size
    notes = []
    if crop is not None and (height > crop or width > crop):
        notes.append(
            f"The image ({height}x{width}) was taken as a nodule crop: its central {crop}x{crop} pixels were used. "
            "Of a whole CT slice cut the nodule out first, or give the volume with --point."
        )
        # Not an error, since users cut crops of many sizes; but a whole slice must not pass in silence.
        logger.warning("%s: %s", source.path, notes[-1])
    elif crop is not None and (height < segmenter.image_size[0] or width < segmenter.image_size[1]):
        notes.append(f"The image ({height}x{width}) was padded with its minimum to the network's size.")
    top, left, bottom, right = found.seen
    if (top, left, bottom, right) != (0, 0, height, width):
        notes.append(
            f"The network saw rows {top} to {bottom - 1} and columns {left} to {right - 1} of the {height}x{width} "
            f"{'image' if isinstance(source, RasterInput) else 'plane'}; all else is background."
        )
    return notes


def _write(
    staging: Path,
    source: RasterInput | VolumeInput,
    plane: MetaTensor,
    found: Prediction,
    record: dict[str, Any],
    areas: Sequence[int],
    pixel_mm2: float | None,
) -> dict[str, str]:
    """All files but the JSON; returns their names by kind."""
    stem = source.stem
    arrays = {
        "samples": found.samples,
        "confidence": found.confidence,
        "consensus": found.consensus,
        "entropy": found.entropy,
    }
    if isinstance(source, RasterInput):
        names = {"consensus": f"{stem}_consensus.png", "confidence": f"{stem}_confidence.png"}
        save_png(found.consensus, staging / names["consensus"])
        save_png(found.confidence, staging / names["confidence"])
    else:
        names = {"consensus": f"{stem}_consensus.nii.gz", "confidence": f"{stem}_confidence.nii.gz"}
        for kind, values in (("consensus", found.consensus.astype(np.uint8)), ("confidence", found.confidence)):
            save_volume(source.paste(torch.from_numpy(values), plane), source, staging / names[kind])
        arrays["affine"] = np.asarray(plane.affine, dtype=float)
    names["samples"] = f"{stem}_samples.npz"
    save_samples(staging / names["samples"], **arrays)
    names["panel"] = f"{stem}_panel.png"
    top, left, bottom, right = found.seen
    image = plane.as_tensor().numpy()[:, top:bottom, left:right]
    size = [area * pixel_mm2 for area in areas] if pixel_mm2 is not None else list(areas)
    unit = "mm²" if pixel_mm2 is not None else "px"
    consensus_area = found.consensus.sum() * (pixel_mm2 or 1.0)
    draw_panel(
        image[0] if len(image) == 1 else np.clip(image, 0, 255).astype(np.uint8).transpose(1, 2, 0),
        found.samples[:, top:bottom, left:right],
        found.confidence[top:bottom, left:right],
        found.consensus[top:bottom, left:right],
        found.entropy[top:bottom, left:right],
        staging / names["panel"],
        title=stem,
        subtitle=(
            f"Consensus {consensus_area:.0f} {unit}, samples {min(size):.0f} to {max(size):.0f} {unit}  ·  "
            f"{record['num_inference_steps']} {record['sampler'].upper()} steps, seed {record['seed']}  ·  "
            f"{record['bundle']}"
        ),
        sample_titles=[
            f"Sample {number + 1}: {f'{area:.0f} {unit}' if area else 'empty'}" for number, area in enumerate(size)
        ],
        confidence_title=None if record["confidence"] == "samples" else f"Confidence ({len(found.samples)} samples)",
    )
    return names
