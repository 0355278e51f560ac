"""A prediction run as one HTML file: pictures, sizes of every sample, notes, and how it was made.

Everything is read from what `predict` wrote (``NAME_prediction.json``, ``NAME_panel.png``, ``NAME_samples.npz``) and
put into the file itself: no script, no style sheet and no picture is loaded from elsewhere, so that it can be sent on.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import InputError
from ..plots.panel import CONSENSUS_COLOUR, SAMPLE_COLOUR, TEXT_COLOUR
from .measure import format_number, summarize_values

__all__ = ["report"]

SUFFIX = "_prediction.json"
THRESHOLDS = np.linspace(0.05, 0.95, 19)
MAX_SLICES = 12


@dataclass(frozen=True)
class Measure:
    """A size of one result, as a row of the table.

    Attributes:
        name: what was measured.
        unit: ``mm³``, ``mm²``, ``mm`` or ``px``.
        consensus: of the consensus mask.
        samples: of each sample.
        median: of the samples.
        interval: 5th and 95th percentile of the samples.
    """

    name: str
    unit: str
    consensus: float
    samples: Sequence[float]
    median: float
    interval: Sequence[float]


@dataclass(frozen=True)
class Finding:
    """A picture, or a nodule of a volume: a section of the page; pictures are data URIs."""

    title: str
    where: str
    panel: str
    sizes: str
    slices: str | None
    measures: Sequence[Measure]
    agreement: float | None
    notes: Sequence[str]


def report(run_folder: str | Path, output_file: str | Path | None = None) -> Path:
    """Write what `predict` left in a folder as one HTML file: pictures, sizes of every sample, notes, provenance.

    Example: medseglatdiff report out --output-file report.html

    Args:
        run_folder: the --output-dir of predict.
        output_file: the HTML (default: RUN_FOLDER/report.html). An earlier one is replaced.

    Returns:
        The file.

    Raises:
        InputError: no such folder, no prediction in it, or one whose JSON, panel or samples are missing or unreadable.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(run_folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Give the --output-dir of 'medseglatdiff predict'.")
    records = sorted(folder.glob(f"*{SUFFIX}"))
    if not records:
        raise InputError(
            f"{folder}: no prediction in it (no file *{SUFFIX}). Give the --output-dir of 'medseglatdiff predict'."
        )
    inputs = [_read_input(path) for path in records]
    # Patients' file names are text like any other: escaped.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = format_number
    text = environment.get_template("report.html").render(
        title=folder.resolve().name, inputs=inputs, runs=_group_runs(inputs), version=__version__
    )
    output = Path(output_file) if output_file is not None else folder / "report.html"
    staging = output.with_name(f".tmp-{os.getpid()}-{output.name}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        staging.write_text(text, encoding="utf-8")
        staging.replace(output)
    except OSError as error:
        staging.unlink(missing_ok=True)
        raise InputError(f"--output-file {output}: cannot write there ({error}); choose another file.") from error
    return output


def _read_input(path: Path) -> dict[str, Any]:
    """What the template shows of one input."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: no record of a prediction ({error!r}); run 'medseglatdiff predict' again."
        ) from error
    # Here: it imports MONAI, which takes seconds, and a folder without predictions is to be told before.
    from .files import RESULT_VERSION

    if version != RESULT_VERSION:
        raise InputError(
            f"{path}: version {version!r} of the record; this program knows {RESULT_VERSION}. Predict again, or use "
            "the program that wrote it."
        )
    name = path.name.removesuffix(SUFFIX)
    try:
        findings = (
            [_read_nodule(path, name, record, nodule) for nodule in record["nodules"]]
            if "nodules" in record
            else [_read_plane(path, name, record)]
        )
        described = record["input"]
        return {
            "name": name,
            "format": described["format"],
            "shape": " × ".join(str(side) for side in described["shape"]),
            "spacing": " × ".join(f"{side:g}" for side in described["spacing_mm"]) if "spacing_mm" in described else "",
            "uid": described.get("series_instance_uid", ""),
            "findings": findings,
            "notes": record["notes"] if "nodules" in record else [],
            "files": sorted(record["files"].values()),
            "provenance": record["provenance"],
        }
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: incomplete ({error!r}); run 'medseglatdiff predict' again.") from error


def _read_plane(path: Path, name: str, record: Mapping[str, Any]) -> Finding:
    """A picture, or a NIfTI of one slice."""
    arrays = _read_samples(path, record["files"]["samples"])
    key, unit = ("area_mm2", "mm²") if "area_mm2" in record else ("area_pixels", "px")
    area = record[key]
    measures = [Measure("Area", unit, area["consensus"], **_summarize(area["samples"]))]
    # From pixels to the unit: the consensus may be empty, the affine is not.
    scale = 1.0 if unit == "px" else _pixel_mm2(arrays["affine"])
    return Finding(
        title=name,
        where="",
        panel=_embed(_find_file(path, record["files"]["panel"])),
        sizes=_draw_sizes(measures[0], _sizes_by_threshold(arrays["confidence"], scale), _threshold(record)),
        slices=None,
        measures=measures,
        agreement=_agreement(arrays["samples"]),
        notes=record["notes"],
    )


def _read_nodule(path: Path, name: str, record: Mapping[str, Any], nodule: Mapping[str, Any]) -> Finding:
    end = f"_{nodule['number']}" if len(record["nodules"]) > 1 else ""
    arrays = _read_samples(path, record["files"][f"samples{end}"])
    measures = [
        Measure(title, unit, **nodule[key])
        for key, title, unit in (
            ("volume_mm3", "Volume", "mm³"),
            ("longest_diameter_mm", "Longest axial diameter", "mm"),
            ("area_mm2", "Area in the clicked slice", "mm²"),
        )
        if nodule[key] is not None
    ]
    confidence = arrays["confidence"]
    if nodule["volume_mm3"] is not None:
        shown, scale, part = measures[0], float(abs(np.linalg.det(arrays["affine"][:3, :3]))), confidence
    else:
        shown, scale, part = measures[-1], _pixel_mm2(arrays["affine"]), confidence
    point = ", ".join(f"{value:g}" for value in nodule["point_mm"])
    return Finding(
        title=f"{name}, nodule {nodule['number']}" if end else name,
        where=f"Point {point} mm (LPS), voxel {', '.join(map(str, nodule['voxel']))}; {nodule['num_slices']} slice(s).",
        panel=_embed(_find_file(path, record["files"][f"panel{end}"])),
        sizes=_draw_sizes(shown, _sizes_by_threshold(part, scale), _threshold(record)),
        slices=_draw_slices(arrays) if confidence.ndim == 3 and len(confidence) > 1 else None,
        measures=measures,
        agreement=nodule["agreement"]["mean_pairwise_iou"],
        notes=nodule["notes"],
    )


def _threshold(record: Mapping[str, Any]) -> float:
    return float(record["provenance"]["threshold"])


def _summarize(samples: Sequence[float]) -> dict[str, Any]:
    return summarize_values([float(value) for value in samples])


def _agreement(samples: np.ndarray) -> float | None:
    """Mean IoU of two different samples (N, H, W), both empty → 1; ``None`` of a single one."""
    from ..metrics.distances import pairwise_iou

    number = len(samples)
    if number < 2:
        return None
    table = pairwise_iou(samples[None], samples[None])[0]
    return round(float((table.sum() - table.diagonal().sum()) / (number * (number - 1))), 4)


def _pixel_mm2(affine: np.ndarray) -> float:
    return float(np.linalg.norm(np.cross(affine[:3, 0], affine[:3, 1])))


def _sizes_by_threshold(confidence: np.ndarray, scale: float) -> np.ndarray:
    """Size of the region of confidence ≥ t at each of `THRESHOLDS`; of shares such as 3/6 whatever their rounding."""
    return np.array([float((confidence >= threshold - 1e-6).sum()) * scale for threshold in THRESHOLDS])


def _find_file(record: Path, name: str) -> Path:
    """A file that the record names, which stands beside it."""
    path = record.parent / Path(name).name
    if not path.is_file():
        raise InputError(f"{path}: missing, though {record.name} names it; run 'medseglatdiff predict' again.")
    return path


def _read_samples(record: Path, name: str) -> dict[str, np.ndarray]:
    path = _find_file(record, name)
    try:
        with np.load(path) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except Exception as error:  # zipfile and numpy raise many kinds
        raise InputError(f"{path}: unreadable or truncated ({error}); run 'medseglatdiff predict' again.") from error


def _embed(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _save_figure(figure: Any) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _draw_sizes(measure: Measure, by_threshold: np.ndarray, threshold: float) -> str:
    """Left the samples in order of size with their interval, right the consensus's size at other thresholds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 2.7), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    values = np.sort(np.asarray(measure.samples, dtype=float))
    left.bar(np.arange(1, len(values) + 1), values, color=SAMPLE_COLOUR, width=0.75)
    left.axhspan(*measure.interval, color="#888888", alpha=0.18, linewidth=0)
    left.axhline(measure.consensus, color=CONSENSUS_COLOUR, linewidth=2)
    left.set_title(f"{measure.name} of each sample, sorted", fontsize=9.5, loc="left", color=TEXT_COLOUR)
    left.set_xlabel("grey: 5th to 95th percentile · line: consensus", fontsize=8, color="#666666")
    left.set_xticks([1, len(values)] if len(values) > 1 else [1])
    right.plot(THRESHOLDS, by_threshold, color=CONSENSUS_COLOUR, linewidth=2)
    right.axvline(threshold, color="#888888", linewidth=1, linestyle=":")
    right.set_title(f"{measure.name} by consensus threshold", fontsize=9.5, loc="left", color=TEXT_COLOUR)
    right.set_xlabel("share of samples that a voxel needs · dotted: the one used", fontsize=8, color="#666666")
    top = 1.08 * max(float(values.max()), float(by_threshold.max()), measure.consensus) or 1.0
    for axes in (left, right):
        axes.set_ylim(0.0, top)
        axes.set_ylabel(measure.unit, fontsize=8.5, color=TEXT_COLOUR)
        axes.tick_params(labelsize=8, colors="#555555")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return _save_figure(figure)


def _draw_slices(arrays: Mapping[str, np.ndarray]) -> str:
    """Confidence of each slice from the feet to the head with the consensus's outline, cut to where it is."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ..plots.panel import outline

    confidence, consensus = arrays["confidence"], arrays["consensus"]
    count = len(confidence)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_SLICES)).round().astype(int))
    part = _part_with_confidence(confidence)
    figure = Figure(figsize=(9.6, 9.6 / 6 * -(-len(chosen) // 6) + 0.35), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(-(-len(chosen) // 6), 6, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, number in zip(grid.flat, chosen, strict=False):
        axes.imshow(confidence[number][part], cmap="magma", vmin=0.0, vmax=1.0, interpolation="nearest")
        outline(axes, consensus[number][part], CONSENSUS_COLOUR, width=1.0)
        axes.set_title(f"slice {number + 1} of {count}", fontsize=8, color=TEXT_COLOUR, pad=2)
    return _save_figure(figure)


def _part_with_confidence(confidence: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a square around all voxels (S, H, W) with confidence, or the whole plane without any."""
    rows, columns = np.nonzero(confidence.max(0) > 0)
    if not len(rows):
        return slice(None), slice(None)
    half = max(np.ptp(rows), np.ptp(columns)) // 2 + 5
    middle = (rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2
    top, left = (max(0, int(place) - half) for place in middle)
    bottom, right = (min(side, int(place) + half + 1) for place, side in zip(middle, confidence.shape[1:], strict=True))
    return slice(top, bottom), slice(left, right)


def _group_runs(inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Equal provenances once, with the inputs that they hold for: a folder may be filled by several calls."""
    groups: list[dict[str, Any]] = []
    for entry in inputs:
        for group in groups:
            if group["provenance"] == entry["provenance"]:
                group["names"].append(entry["name"])
                break
        else:
            groups.append({"provenance": entry["provenance"], "names": [entry["name"]]})
    return groups
