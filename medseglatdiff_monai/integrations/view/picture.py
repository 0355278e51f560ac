"""What the page shows of an ensemble: the image as PNG of a useful size, masks as SVG outlines on it, sizes as tables.

The image is sent once; when the threshold moves, only outlines and tables are.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image
from skimage.measure import find_contours

from ...files import png_uri
from ...plots.comparison import RATER_COLOURS
from ...plots.panel import CONSENSUS_COLOUR, SAMPLE_COLOUR
from ...predict.ensemble import Ensemble
from ...predict.measure import Measurement, format_number, format_spread
from ...predict.wording import describe_agreement
from .case import Shown

# Longest side of the picture that is sent, pixels.
SIDE = 640
# Grey windows (low, high) of CT, Hounsfield units; None: from minimum to maximum.
WINDOWS = {"Full range": None, "Lung": (-1350.0, 150.0), "Soft tissue": (-160.0, 240.0)}


def find_scale(shape: Sequence[int]) -> float:
    """Screen pixels per pixel: a whole number for small images, so that pixels are visible; below 1 for large ones."""
    longest = max(shape[:2])
    return float(max(1, SIDE // longest)) if longest <= 2 * SIDE else 2 * SIDE / longest


def render(values: np.ndarray, window: tuple[float, float] | None = None, colours: str | None = None) -> str:
    """Make the picture of a plane.

    Args:
        values: (H, W) grey, or (H, W, 3) from 0 to 255.
        window: grey values shown as black and white; ``None`` takes minimum and maximum.
        colours: name of a matplotlib colour map for values in [0, 1].

    Returns:
        A PNG as a data URI, `find_scale` times as large. NiceGUI would leave patients' images in the temporary folder
        if they were handed over as pictures.
    """
    if colours is not None:
        from matplotlib import colormaps

        pixels = (colormaps[colours](np.clip(values, 0.0, 1.0))[..., :3] * 255).round().astype(np.uint8)
    elif values.ndim == 3:
        pixels = np.clip(values, 0, 255).astype(np.uint8)
    else:
        low, high = window or (float(values.min()), float(values.max()))
        pixels = (np.clip((values - low) / max(high - low, 1e-6), 0.0, 1.0) * 255).round().astype(np.uint8)
    scale = find_scale(pixels.shape)
    size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX)
    stream = io.BytesIO()
    picture.save(stream, format="PNG", compress_level=1)
    return png_uri(stream.getvalue())


def to_path(mask: np.ndarray, scale: float) -> str:
    """SVG path data of the outline of a mask (H, W) bool, "" where it is empty; it closes at the image's border."""
    if not mask.any():
        return ""
    parts = []
    for line in find_contours(np.pad(mask, 1).astype(float), 0.5):
        # Undo the padding; a pixel's centre is half a pixel from its corner.
        points = (line - 0.5) * scale
        parts.append("M" + "L".join(f"{column:.1f} {row:.1f}" for row, column in points) + "Z")
    return "".join(parts)


def _to_svg(path: str, colour: str, name: str, fill: bool = False, width: float = 2.0, dash: str = "none") -> str:
    """SVG element of an outline, dark below so that it is seen on bright tissue; `name` becomes its ``data-layer``."""
    if not path:
        return ""
    inside = f'fill="{colour}" fill-opacity="0.22" fill-rule="evenodd"' if fill else 'fill="none"'
    return (
        f'<path d="{path}" fill="none" stroke="#000" stroke-opacity="0.6" stroke-width="{width + 2}"/>'
        f'<path data-layer="{name}" d="{path}" {inside} stroke="{colour}" stroke-width="{width}" '
        f'stroke-dasharray="{dash}"/>'
    )


def render_layers(shown: Shown, threshold: float, sample: int, number: int, names: Sequence[str]) -> str:
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
        layers += [_to_svg(path(mask), SAMPLE_COLOUR, "all", width=0.8) for mask in ensemble.samples]
    if "Consensus" in names:
        layers.append(_to_svg(path(ensemble.consensus(threshold)), CONSENSUS_COLOUR, "consensus", fill=True))
    if "Raters" in names and shown.raters is not None:
        layers += [
            _to_svg(path(mask), RATER_COLOURS[i % len(RATER_COLOURS)], f"rater-{i + 1}", width=2.0, dash="7 4")
            for i, mask in enumerate(shown.raters)
        ]
    if "Sample" in names:
        layers.append(_to_svg(path(ensemble.samples[sample]), SAMPLE_COLOUR, "sample"))
    return "".join(layers)


def describe_sizes(shown: Shown, threshold: float, sample: int, number: int) -> str:
    """What the ensemble says, HTML: the samples' median first, how far they agree in slice `number`, all sizes."""
    ensemble = shown.ensemble
    measures, rows = [], []
    for key, name, size in _measure(ensemble, threshold, number):
        measure = {**name, **size.describe()}
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
    head = f"<tr><th></th><th>{samples}</th><th>consensus ≥ {threshold:.2f}</th><th>sample {sample + 1}</th></tr>"
    return (
        f'<div class="headline">{first["name"]} {format_spread(first, first["unit"])}</div><div>{agreement}</div>'
        f'<table class="seg-table">{head}{"".join(rows)}</table>'
    )


def _measure(ensemble: Ensemble, threshold: float, number: int) -> Iterator[tuple[str, dict[str, str], Measurement]]:
    """Key, name with unit, and value of each size that the ensemble has, the area in slice `number`."""
    area, unit = ensemble.area(threshold, number)
    sizes = (
        ("volume_mm3", "Volume", "mm³", ensemble.volume_mm3(threshold)),
        ("diameter_mm", "Longest diameter", "mm", ensemble.diameter_mm(threshold)),
        ("area_mm2" if unit == "mm²" else "area_pixels", "Area in this slice", unit, area),
    )
    return ((key, {"name": name, "unit": of}, size) for key, name, of, size in sizes if size is not None)


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
    head = f"<tr><th>consensus against</th><th>{what}</th><th>Dice</th><th>IoU</th></tr>"
    return (
        f'<table class="seg-table">{head}{"".join(rows)}</table><div>All samples against all raters: '
        f"GED {found['ged']:.3f} (0 is best), HM-IoU {found['hm_iou']:.3f} (1 is best)</div>"
    )
