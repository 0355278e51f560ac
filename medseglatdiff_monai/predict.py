"""From a user's image to an ensemble of masks, written in the image's own geometry.

A picture goes through the bundle's preprocessing as in training; of a CT volume first the axial slices and in them the
crop around the nodule are cut out, and each is prepared by itself. The samples are brought back by inverting the
preprocessing (linear interpolation and a threshold of 1/2 where it resized), and there confidence = mean of the
samples, consensus = confidence ≥ threshold or what another fusion makes of them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, SpatialPadd
from monai.transforms.utils import convert_applied_interp_mode

from .arguments import check_predict
from .bundle import Segmenter, experiment_name, load_segmenter
from .data.nodule_crop import index_to_point, point_to_index
from .data.transforms import LoadCased
from .errors import InputError, unwrapped_errors
from .fusion import fuse_ensemble
from .inferer import drawing_settings
from .io import (
    DicomInput,
    DicomWriter,
    OutputFolder,
    Place,
    RasterInput,
    SegmentedNodule,
    VolumeInput,
    can_write_dicom,
    draw_panel,
    find_points,
    open_input,
    save_png,
    save_samples,
    save_volume,
)
from .networks import CodecBase, OneToOneSegmenter
from .volumes import INTERVAL_PERCENT, Nodule, draw_nodule, measure_nodule

__all__ = ["Prediction", "predict", "predict_image"]

RESULT_VERSION = 2
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
    slices: int | None = None,
    reach_mm: float = 30.0,
    dicom: bool | None = None,
    device: str | torch.device | None = None,
    **overrides: Any,
) -> list[dict[str, Any]]:
    """Draw an ensemble of masks for each input and write it.

    Of an input ``NAME.…`` these files are written to ``output_dir``: ``NAME_consensus`` and ``NAME_confidence`` (PNG of
    the input's size, 0 or 255 and round(255 · confidence); NIfTI of the volume's shape and affine, uint8 and float32,
    for NIfTI and DICOM), ``NAME_panel.png``, ``NAME_samples.npz`` (``samples``, ``confidence``, ``consensus``,
    ``entropy`` on the plane of the prediction) and ``NAME_prediction.json``. They appear together once the input is
    done; an earlier prediction is replaced.

    Of a volume and a place the whole nodule is drawn: the clicked slice and its neighbours up and down until the
    consensus is empty (see :func:`~medseglatdiff_monai.volumes.draw_nodule`). The JSON then has a list ``nodules`` with
    volume, diameter, area and agreement of each (:func:`~medseglatdiff_monai.volumes.measure_nodule`). The arrays of
    the ``.npz`` get a slice axis, (N, S, H, W) or (S, H, W) from the feet upwards, unless ``slices`` is 1, and
    ``affine``, (row, column, slice) to RAS millimetres. Of several nodules the n-th has the number n in the consensus
    NIfTI (where two overlap, the more confident; the confidence is the higher one) and ``NAME_samples_n.npz`` and
    ``NAME_panel_n.png``. Of a DICOM series ``NAME_seg_consensus.dcm``, ``NAME_seg_confidence.dcm`` and
    ``NAME_report.dcm`` are written, too (:class:`~medseglatdiff_monai.io.DicomWriter`).

    Args:
        bundle: folder, or name under ``bundles/``.
        inputs: PNG, JPEG and NIfTI files, and folders that hold one DICOM CT series each.
        output_dir: where the files go.
        weights: other weights than the bundle's own.
        experiment: overlay that the weights were trained with.
        num_samples: masks an input; default the bundle's. An interval of volumes wants 16 or more.
        num_inference_steps: denoiser calls a mask; default the bundle's.
        seed: the noise is that of (seed, sample index), the same for every input and every slice.
        point: where the nodule is in a volume, (x, y, z) in LPS millimetres; a list of such for several nodules of one
            volume; with several volumes a list with an entry (a place or a list of places) for each.
        index: the same as a voxel index (i, j, k): column, row, slice of a DICOM series.
        roi: the same as a box, (x0, y0, z0, x1, y1, z1) in LPS millimetres, whose centre is taken.
        slices: at most so many slices of a nodule, an odd number; 1 draws the clicked slice alone, without a volume.
        reach_mm: no slice of a nodule farther than this from the clicked one, millimetres.
        dicom: write DICOM results of a DICOM series; by default where highdicom (extra ``dicom``) is installed.
        device: e.g. ``"cuda:1"``; by default CUDA if there is one.
        overrides: configuration keys of the bundle.

    Returns:
        For each input the contents of ``NAME_prediction.json``, with absolute paths under ``files``.

    Raises:
        InputError: see :func:`~medseglatdiff_monai.bundle.load_segmenter` and
            :func:`~medseglatdiff_monai.io.open_input`; an argument out of its range; a place that is missing, given
            twice, outside the volume or not needed; an image that the network cannot take; DICOM results asked for
            without highdicom, or of a series that lacks what they must repeat.
    """
    paths, places = check_predict(
        inputs, num_samples, num_inference_steps, seed, point, index, roi, slices, reach_mm, dicom, device
    )
    segmenter = load_segmenter(
        bundle, weights, experiment, device,
        num_samples=num_samples, num_inference_steps=num_inference_steps, seed=seed, **overrides,
    )  # fmt: skip
    # All headers before the first pixel: a misspelt last input should not cost the work on the first.
    opened = [open_input(path, segmenter.in_channels) for path in paths]
    _check_stems(opened)
    points = [
        find_points(source, where, segmenter.crop_size is not None, segmenter.bundle_dir.name)
        for source, where in zip(opened, places, strict=True)
    ]
    record = _describe_run(segmenter, experiment, seed)
    wanted = can_write_dicom() if dicom is None else dicom
    writers = [DicomWriter(source, record) if wanted and isinstance(source, DicomInput) else None for source in opened]
    run = _Run(segmenter, record, Path(output_dir), slices, reach_mm)
    results = []
    for source, where, at, writer in zip(opened, places, points, writers, strict=True):
        if len(at):
            assert not isinstance(source, RasterInput)  # which has no places
            results.append(_predict_nodules(source, where, at, run, writer, dicom))
        else:
            results.append(_predict_plane(source, run))
    return results


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
    network = segmenter.network
    halving: CodecBase | OneToOneSegmenter = network if isinstance(network, OneToOneSegmenter) else network.mask_codec
    halving.check_size(item["image"].shape[1:])
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
        **drawing_settings(inferer, segmenter.network),
        "seed": seed,
        "threshold": inferer.threshold,
        "confidence": inferer.confidence,
        "fusion": inferer.fusion,
        "postprocess": inferer.postprocess,
        **provenance(segmenter.device),
    }


@dataclass(frozen=True)
class _Run:
    """What all inputs of a call share."""

    segmenter: Segmenter
    record: dict[str, Any]
    output_dir: Path
    slices: int | None
    reach_mm: float

    def draw(self, source: RasterInput | VolumeInput, plane: MetaTensor) -> Prediction:
        try:
            return predict_image(plane, self.segmenter)
        except ValueError as error:
            raise InputError(f"{source.path}: {error}") from error


def _predict_plane(source: RasterInput | VolumeInput, run: _Run) -> dict[str, Any]:
    """A picture, or a NIfTI of one slice that is taken as a crop."""
    if isinstance(source, RasterInput):
        plane = source.read()
    else:
        plane = source.cut(index_to_point([(side - 1) / 2 for side in source.shape], source.affine).tolist(), None)
    found = run.draw(source, plane)
    areas = [int(mask.sum()) for mask in found.samples]
    result: dict[str, Any] = {
        "version": RESULT_VERSION,
        "input": _describe_input(source),
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
    result["notes"] = _find_notes(source, plane, found, run.segmenter)

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
    run: _Run,
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
        described.append(_describe_nodule(source, place, point, nodule, number, measured, run))
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
        "input": _describe_input(source),
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
    run: _Run,
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


def _describe_nodule(
    source: VolumeInput,
    place: Place,
    point: np.ndarray,
    nodule: Nodule,
    number: int,
    measured: dict[str, Any],
    run: _Run,
) -> dict[str, Any]:
    plane = nodule.planes[nodule.clicked]
    voxel = np.floor(point_to_index(point, source.affine) + 0.5).astype(int)
    if "slab_start" in plane.meta:
        voxel[2] = int(plane.meta["slab_start"])
    notes = []
    why = {
        "reach": f"--reach-mm {run.reach_mm:g} ended the search", "slices": f"--slices {run.slices} ended the search",
        "volume": "the scan ends",
    }  # fmt: skip
    for end, place_in_stack, side in zip(nodule.ended, (0, -1), ("feet", "head"), strict=True):
        if run.slices != 1 and end in why and nodule.consensus[place_in_stack].any():
            notes.append(f"Towards the {side} {why[end]} while the consensus was not empty: the volume is a part.")
    if not nodule.consensus[nodule.clicked].any():
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
        **measured,
        "notes": notes,
    }


def _describe_input(source: RasterInput | VolumeInput) -> dict[str, Any]:
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
    what = "image" if isinstance(source, RasterInput) else "plane"
    return notes + _note_seen(found.seen, (height, width), what)


def _note_seen(seen: tuple[int, int, int, int], shape: Sequence[int], what: str) -> list[str]:
    top, left, bottom, right = seen
    height, width = shape
    if seen == (0, 0, height, width):
        return []
    return [
        f"The network saw rows {top} to {bottom - 1} and columns {left} to {right - 1} of the {height}x{width} {what}; "
        "all else is background."
    ]


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
