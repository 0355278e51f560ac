"""What the page says of an ensemble: sizes, agreement with raters, and the values below the cursor."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from ...ensemble.summary import measure_entropy
from ...plots.comparison import RATER_COLOURS
from ...predict.ensemble import Ensemble
from ...predict.measure import format_number, format_spread
from ...predict.wording import describe_agreement
from .case import Shown


def describe_sizes(shown: Shown, threshold: float, sample: int, number: int) -> str:
    """What the ensemble says, HTML: the samples' median first, how far they agree in slice `number`, all sizes."""
    ensemble = shown.ensemble
    area, area_unit = ensemble.area(threshold, number)
    pixels = area_unit == "px"
    sizes = (
        ("volume_mm3", "Volume", "mm³", ensemble.volume_mm3(threshold)),
        ("diameter_mm", "Longest diameter", "mm", ensemble.diameter_mm(threshold)),
        ("area_pixels" if pixels else "area_mm2", "Area" if pixels else "Area in this slice", area_unit, area),
    )
    measures, rows = [], []
    for key, name, unit, size in sizes:
        if size is None:
            continue
        measure = {"name": name, "unit": unit, **size.describe()}
        measures.append(measure)
        rows.append(
            f"<tr><td>{measure['name']}, {measure['unit']}</td><td>{format_spread(measure)}</td>"
            f'<td class="{key}">{format_number(size.consensus)}</td>'
            f"<td>{format_number(size.samples[sample])}</td></tr>"
        )
    where = "" if ensemble.affine is None else "in this slice"
    agreement = describe_agreement(measures[-1]["samples"], ensemble.agreement(), where)
    first = measures[0]
    samples = "sample" if len(first["samples"]) == 1 else "median of samples"
    samples += "" if first["interval"] is None else " (5 % to 95 %)"
    head = f"<tr><th></th><th>{samples}</th><th>consensus ≥ {threshold:.2f}</th><th>this sample</th></tr>"
    return (
        f'<div class="headline">{first["name"]} {format_spread(first, first["unit"])}</div><div>{agreement}</div>'
        f'<table class="seg-table">{head}{"".join(rows)}</table>'
    )


def describe_raters(shown: Shown, threshold: float) -> str:
    """Table of the consensus at the threshold against each rater, HTML; areas are those in the clicked slice."""
    found = shown.compare(threshold)
    assert shown.raters is not None  # `compare` has looked
    raters = dataclasses.replace(shown.ensemble, samples=shown.raters)
    volume, (area, unit) = raters.volume_mm3(), raters.area()
    sizes, what = (area, f"Area, {unit}") if volume is None else (volume, "Volume, mm³")
    rows = [
        f'<tr><td><span style="display: inline-block; width: 26px; vertical-align: middle; border-top: 4px dashed '
        f'{RATER_COLOURS[i % len(RATER_COLOURS)]}"></span> Rater {i + 1}</td>'
        f'<td>{format_number(size)}</td><td class="dice">{rater["dice"]:.3f}</td>'
        f"<td>{rater['iou']:.3f}</td></tr>"
        for i, (rater, size) in enumerate(zip(found["raters"], sizes.samples, strict=True))
    ]
    head = f"<tr><th>consensus ≥ {threshold:.2f} against</th><th>{what}</th><th>Dice</th><th>IoU</th></tr>"
    return (
        f'<table class="seg-table">{head}{"".join(rows)}</table><div>All samples against all raters: '
        f"GED {found['ged']:.3f} (0 is best), HM-IoU {found['hm_iou']:.3f} (1 is best)</div>"
    )


def describe_pixel(image: np.ndarray, row: int, column: int, unit: str, ensemble: Ensemble | None = None) -> str:
    """The values below the cursor: of the image, and how many samples contain the pixel.

    Args:
        image: (C, H, W).
        row: of the pixel, from 0, as is its column.
        column: of the pixel.
        unit: of grey values, e.g. "HU"; may be empty.
        ensemble: of this plane, (N, H, W), on the image's grid.
    """
    values = ", ".join(format_number(float(value)) for value in image[:, row, column])
    parts = [f"column {column}, row {row}", f"{'RGB ' if len(image) == 3 else ''}{values} {unit}".rstrip()]
    if ensemble is not None:
        samples = ensemble.samples[:, row, column]
        parts.append(f"{samples.sum()} of {len(samples)} samples")
        confidence = torch.tensor(float(ensemble.confidence[row, column]))
        parts.append(f"confidence {confidence:.2f}, entropy {measure_entropy(confidence):.2f} bit")
    return " · ".join(parts)
