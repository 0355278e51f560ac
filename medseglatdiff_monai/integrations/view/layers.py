"""What the viewing page shows of an ensemble: coloured layers, and sizes in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...plots.comparison import RATER_COLOURS
from ...plots.panel import CONSENSUS_COLOUR, SAMPLE_COLOUR
from ...predict.ensemble import Ensemble
from ...predict.measure import Measurement, format_number
from .case import Shown
from .picture import find_scale, to_path, to_svg

__all__ = ["describe_raters", "describe_sizes", "draw_layers", "format_point"]

SIZE_ROWS = {
    "volume_mm3": ("Volume", "mm³"),
    "diameter_mm": ("Longest diameter", "mm"),
    "area_mm2": ("Area in this slice", "mm²"),
    "area_pixels": ("Area in this slice", "px"),
}


def draw_layers(shown: Shown, threshold: float, sample: int, number: int, names: Sequence[str]) -> str:
    """SVG of the outlines in slice `number`, of the part that the network saw.

    Args:
        shown: the ensemble.
        threshold: of the consensus.
        sample: its number from 0.
        number: of the slice.
        names: some of "Consensus", "Sample", "All samples", "Raters".
    """
    ensemble, part = shown.ensemble, shown.part
    scale = find_scale(ensemble.confidence[number][part].shape)

    def path(mask: np.ndarray) -> str:
        return to_path(mask[number][part], scale)

    layers = []
    if "All samples" in names:
        layers += [to_svg(path(mask), SAMPLE_COLOUR, "all", width=0.8) for mask in ensemble.samples]
    if "Consensus" in names:
        layers.append(to_svg(path(ensemble.consensus(threshold)), CONSENSUS_COLOUR, "consensus", fill=True))
    if "Raters" in names and shown.raters is not None:
        layers += [
            to_svg(path(mask), RATER_COLOURS[i % len(RATER_COLOURS)], f"rater-{i + 1}", width=2.0, dash="7 4")
            for i, mask in enumerate(shown.raters)
        ]
    if "Sample" in names:
        layers.append(to_svg(path(ensemble.samples[sample]), SAMPLE_COLOUR, "sample"))
    return "".join(layers)


def _measure(ensemble: Ensemble, threshold: float, number: int) -> dict[str, Measurement]:
    """The sizes that the ensemble has, by the keys of ``SIZE_ROWS``."""
    sizes = {
        "volume_mm3": ensemble.volume_mm3(threshold),
        "diameter_mm": ensemble.diameter_mm(threshold),
        "area_mm2": ensemble.area_mm2(threshold, number),
    }
    found = {key: size for key, size in sizes.items() if size is not None}
    return found if "area_mm2" in found else {**found, "area_pixels": ensemble.area_pixels(threshold, number)}


def describe_sizes(shown: Shown, threshold: float, sample: int, number: int) -> str:
    """Table of the sizes of consensus, one sample and all samples, HTML."""
    rows = []
    for key, size in _measure(shown.ensemble, threshold, number).items():
        name, unit = SIZE_ROWS[key]
        low, high = (format_number(value) for value in size.describe()["interval"])
        rows.append(
            f'<tr><td>{name}, {unit}</td><td class="{key}">{_format(size.consensus, key)}</td>'
            f"<td>{_format(size.samples[sample], key)}</td><td>{low} to {high}</td></tr>"
        )
    head = "<tr><th></th><th>consensus</th><th>sample</th><th>5 % to 95 % of samples</th></tr>"
    return f'<table class="seg-table">{head}{"".join(rows)}</table>'


def _format(value: float, key: str) -> str:
    return f"{value:.0f}" if key == "area_pixels" else format_number(value)


def describe_raters(shown: Shown, threshold: float) -> str:
    """Table of the consensus at the threshold against each rater, HTML; areas are those in the clicked slice."""
    found, ensemble = shown.compare(threshold), shown.ensemble
    assert shown.raters is not None  # `compare` has looked
    if ensemble.voxel_mm3 is not None:
        key, sizes = "volume_mm3", [ensemble.measure_volume(mask) for mask in shown.raters]
    elif ensemble.affine is not None:
        key, sizes = "area_mm2", [ensemble.measure_area(mask) * ensemble.pixel_mm2 for mask in shown.raters]
    else:
        key, sizes = "area_pixels", [ensemble.measure_area(mask) for mask in shown.raters]
    name, unit = SIZE_ROWS[key]
    rows = [
        f'<tr><td><span style="display: inline-block; width: 26px; vertical-align: middle; border-top: 4px dashed '
        f'{RATER_COLOURS[i % len(RATER_COLOURS)]}"></span> Rater {i + 1}</td>'
        f'<td>{_format(size, key)}</td><td class="dice">{rater["dice"]:.3f}</td>'
        f"<td>{rater['iou']:.3f}</td></tr>"
        for i, (rater, size) in enumerate(zip(found["raters"], sizes, strict=True))
    ]
    head = f"<tr><th>consensus against</th><th>{name.split()[0]}, {unit}</th><th>Dice</th><th>IoU</th></tr>"
    return (
        f'<table class="seg-table">{head}{"".join(rows)}</table><div>All samples against all raters: '
        f"GED {found['ged']:.3f} (0 is best), HM-IoU {found['hm_iou']:.3f} (1 is best)</div>"
    )


def format_point(point: Sequence[float] | None) -> str:
    """``x, y, z`` with one decimal."""
    return "" if point is None else ", ".join(f"{value:.1f}" for value in point)
