"""A prediction run as one HTML file: pictures, sizes of every sample, notes, and how it was made.

Everything is read from what `predict` wrote (``NAME_prediction.json``, ``NAME_panel.png``, ``NAME_samples.npz``) and
put into the file itself: no script, style sheet or picture is loaded from elsewhere, so that it can be sent to others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..errors import InputError
from ..files import fill_template, png_uri, read_versioned, save_text
from ..io.formats import PREDICTION_SUFFIX
from ..plots.sizes import THRESHOLDS, plot_sizes, plot_slices
from ..startup import heavy_imports
from .measure import format_number
from .wording import describe_record, list_measures, name_consensus

if TYPE_CHECKING:
    from .ensemble import Ensemble


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
    folder = Path(run_folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Give the --output-dir of 'medseglatdiff predict'.")
    records = sorted(folder.glob(f"*{PREDICTION_SUFFIX}"))
    if not records:
        raise InputError(
            f"{folder}: no prediction in it (no file *{PREDICTION_SUFFIX}). Give the --output-dir of 'medseglatdiff "
            "predict'."
        )
    inputs = [_read_input(path) for path in records]
    # Patients' file names are text like any other: escaped.
    text = fill_template(
        Path(__file__).with_name("report.html"),
        title=folder.resolve().name, inputs=inputs, runs=_group_runs(inputs), version=__version__, write=format_number,
    )  # fmt: skip
    output = Path(output_file) if output_file is not None else folder / "report.html"
    try:
        save_text(text, output)
    except OSError as error:
        raise InputError(f"--output-file {output}: cannot write there ({error}); choose another file.") from error
    return output


def _group_runs(inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Equal provenances once, with the inputs that they hold for: a folder may be filled by several calls."""
    groups: dict[str, dict[str, Any]] = {}
    for entry in inputs:
        group = groups.setdefault(json.dumps(entry["provenance"]), {"provenance": entry["provenance"], "names": []})
        group["names"].append(entry["name"])
    return list(groups.values())


def _read_input(path: Path) -> dict[str, Any]:
    """The values that ``report.html`` names for one input, of its ``NAME_prediction.json`` and the files beside it."""
    # Here and below: these import MONAI, which takes seconds, and a folder without predictions is to be told before.
    with heavy_imports():
        from .results import RESULT_VERSION

    name = path.name.removesuffix(PREDICTION_SUFFIX)
    record = read_versioned(path, RESULT_VERSION, "predict again, or use the program that wrote it")
    try:
        findings = [_read_finding(path, name, record, described) for described in record.get("nodules", [record])]
        described = record["input"]
        return {
            "name": name,
            "format": described["format"],
            "shape": " × ".join(str(side) for side in described["shape"]),
            "spacing": " × ".join(f"{side:g}" for side in described.get("spacing_mm", ())),
            "uid": described.get("series_instance_uid", ""),
            "findings": findings,
            "notes": record["notes"] if "nodules" in record else [],
            "files": sorted(record["files"].values()),
            "provenance": record["provenance"],
        }
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: incomplete ({error!r}); run 'medseglatdiff predict' again.") from error


def _read_finding(path: Path, name: str, record: Mapping[str, Any], described: Mapping[str, Any]) -> dict[str, Any]:
    """A section of the page: a nodule, or the record itself of a picture or a NIfTI of one slice.

    The picture of sizes shows the volume, or else the area.
    """
    end = where = ""
    if "nodules" in record:
        end = f"_{described['number']}" if len(record["nodules"]) > 1 else ""
        point = ", ".join(f"{value:g}" for value in described["point_mm"])
        voxel = ", ".join(map(str, described["voxel"]))
        where = f"Point {point} mm (LPS), voxel {voxel}; {described['num_slices']} slice(s)."
    found = _read_ensemble(path, record["files"][f"samples{end}"], described.get("volume_mm3") is not None)
    run, measures = record["provenance"], list_measures(described)
    shown = measures[0] if found.voxel_mm3 is not None else measures[-1]
    by_threshold = [(found.volume_mm3(threshold) or found.area(threshold)[0]).consensus for threshold in THRESHOLDS]
    sizes = plot_sizes(shown, by_threshold, float(run["threshold"]))
    several = found.confidence.ndim == 3 and len(found.confidence) > 1
    # Predictions of older versions kept no image.
    image = np.stack([plane.as_tensor().numpy()[0] for plane in found.planes]) if found.planes else None
    slices = plot_slices(image, found.confidence, found.fused, found.clicked) if several else b""
    return {
        "panel": png_uri(_find_file(path, record["files"][f"panel{end}"]).read_bytes()),
        "sizes": png_uri(sizes),
        "slices": png_uri(slices) if slices else None,
        "measures": measures,
        "sentences": describe_record(described, run),
        "consensus": name_consensus(run),
        "title": f"{name}, nodule {described['number']}" if end else name,
        "where": where,
        "notes": described["notes"],
    }


def _find_file(record: Path, name: str) -> Path:
    """A file that the record names, which stands beside it."""
    path = record.parent / Path(name).name
    if not path.is_file():
        raise InputError(f"{path}: missing, though {record.name} names it; run 'medseglatdiff predict' again.")
    return path


def _read_ensemble(record: Path, name: str, is_volume: bool) -> Ensemble:
    from monai.data import MetaTensor

    from .ensemble import Ensemble

    path = _find_file(record, name)
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except Exception as error:  # zipfile and numpy raise many kinds
        raise InputError(f"{path}: unreadable or truncated ({error}); run 'medseglatdiff predict' again.") from error
    affine = arrays.get("affine")
    return Ensemble(
        samples=arrays["samples"],
        confidence=arrays["confidence"],
        fused=arrays["consensus"],
        seen=(0, 0, *arrays["confidence"].shape[-2:]),
        affine=affine,
        planes=tuple(MetaTensor(plane[None]) for plane in arrays.get("image", ())),
        clicked=int(arrays.get("clicked", 0)),
        voxel_mm3=float(abs(np.linalg.det(affine[:3, :3]))) if is_volume and affine is not None else None,
    )
