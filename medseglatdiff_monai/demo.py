"""The demonstration: prepared phantom cases → ensembles → pictures, NIfTI and scores, with the lung bundle's weights.

The phantom carries real raters' contours on a synthetic lung CT; the weights were trained on real CT. What torch and
MONAI are needed for is imported where it is used: the command line reads this module for its help.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .bundle.arguments import check_device
from .bundle.folders import find_bundle
from .data.datalist import load_datalist
from .data.prepare import prepare
from .evaluation.run import evaluate
from .plots.comparison import ComparedCase, plot_comparison
from .predict.command import predict

BUNDLE = "lung_nodule_ct_latent_diffusion"
NUM_PICTURED = 6

logger = logging.getLogger(__name__)


def demo(output_dir: str | Path = "demo_output", num_cases: int = 24, seed: int = 0, device: str | None = None) -> Path:
    """Do the main job on an embedded example: phantom cases with real raters' contours, no download.

    Example: medseglatdiff demo --output-dir demo_output

    Args:
        output_dir: receives raters_and_samples.png, demo.json, phantom/ (data), evaluation/ (scores), prediction/
            (pictures, masks and maps) and dicom/ (a series).
        num_cases: phantom cases.
        seed: seed of phantom and noise.
        device: cpu, cuda, a numbered one such as cuda:1, or mps; by default CUDA if there is one.

    Returns:
        The folder.

    Raises:
        InputError: the lung bundle or the extra 'lidc' is not installed.
    """
    find_bundle(BUNDLE)
    check_device(device)
    output = Path(output_dir)
    data = output / "phantom"
    logger.info("1. Phantom cases: a synthetic lung CT with the outlines of four real raters")
    # Nothing is trained on the phantom: all of it is for testing.
    prepare("phantom", output_dir=data, ratios="0:0:1", num_cases=num_cases, phantom_seed=seed)
    cases = load_datalist(data, "test")
    logger.info("2. Sixteen masks of each case, scored against the raters")
    results = evaluate(
        BUNDLE, data, output / "evaluation", split="test", seed=seed, num_samples=16, save_samples=True, device=device
    )
    # Nodules that most raters marked, though not on every slice.
    pictured = sorted(cases, key=lambda item: -item["num_raters"])[:NUM_PICTURED]
    picture = output / "raters_and_samples.png"
    plot_comparison(
        [_compare(item, output / "evaluation") for item in pictured], picture,
        title="Four raters and sixteen samples of the model",
        subtitle="Phantom: synthetic lung CT, outlines of real LIDC-IDRI raters. The model was trained on real CT.",
    )  # fmt: skip
    logger.info("3. Predictions of single crops, and of a DICOM series with the nodule's position")
    sampling: dict[str, Any] = {"seed": seed, "num_samples": 10, "device": device}
    predict(BUNDLE, [item["image"] for item in pictured], output / "prediction", **sampling)
    series = output / "dicom" / f"PHANTOM-{pictured[0]['group']}_series"
    point = _write_series(pictured[0]["group"], series, seed)
    (volume,) = predict(BUNDLE, series, output / "prediction", point=point, **sampling)

    summary = results["summary"]
    names = ("ged_v", "hm_iou", "dice", "dice_all", "num_cases", "num_nonempty_consensus", "num_samples")
    (output / "demo.json").write_text(json.dumps({name: summary[name] for name in names}, indent=2) + "\n")
    panels = sorted((output / "prediction").glob("*_panel.png"))
    dice = "" if summary["dice"] is None else f", Dice {summary['dice']:.3f}"
    print(f"\nComparison:  {picture}")
    print(f"Pictures:    {panels[0]} and {len(panels) - 1} more")
    print(
        f"NIfTI:       {output / 'prediction' / Path(volume['files']['consensus']).name} of the DICOM series {series}"
    )
    print(f"Scores:      {output / 'demo.json'}: GED {summary['ged_v']:.3f}{dice} on {summary['num_cases']} cases")
    return output


def _compare(item: dict, evaluation: Path) -> ComparedCase:
    """What a row of the comparison shows: the middle of the crop, which the network sees."""
    from .io.prepared import LoadCase

    with np.load(evaluation / "samples" / f"{item['case']}.npz") as found:
        raters, samples = found["raters"], found["samples"]
    top, left = (side // 4 for side in raters.shape[1:])
    middle = (..., slice(top, -top), slice(left, -left))
    image = LoadCase()(item["image"])[0].numpy()
    return ComparedCase(item["group"], image[middle], raters[middle], samples[middle])


def _write_series(patient: str, folder: Path, seed: int) -> tuple[float, float, float]:
    """Write a patient's phantom as a DICOM series; returns the middle of its first nodule in LPS millimetres."""
    from .data.sources.phantom_dicom import write_phantom_dicom_series
    from .data.sources.phantom_scan import load_phantom_scan

    with tempfile.TemporaryDirectory() as temporary:
        # Out of the folders named by UIDs: results take their names from the series' folder.
        series = write_phantom_dicom_series(patient, temporary, seed, anonymous=True)
        shutil.copytree(series, folder, dirs_exist_ok=True)
    scan = load_phantom_scan(patient, seed)
    nodule = scan.nodules[0]
    row, column = nodule.center
    x, y = (scan.corner_mm() + index * scan.spacing_mm for index in (column, row))
    return float(x), float(y), float(scan.zvals[nodule.slices[len(nodule.slices) // 2]])
