"""What the viewing page shows of an ensemble: coloured layers, and sizes in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...plots.comparison import READER_COLOURS
from ...plots.panel import CONSENSUS_COLOUR, SAMPLE_COLOUR
from ...predict.measure import format_number
from .case import Drawn, Sizes
from .picture import find_scale, to_path, to_svg

__all__ = ["format_size", "seen_part"]


def seen_part(drawn: Drawn) -> tuple[slice, slice]:
    """Rows and columns of the planes that the network saw."""
    top, left, bottom, right = drawn.seen
    return slice(top, bottom), slice(left, right)


def draw_layers(drawn: Drawn, threshold: float, sample: int, number: int, shown: Sequence[str]) -> str:
    """SVG of the outlines in slice `number`, of the part that the network saw.

    Args:
        drawn: the ensemble.
        threshold: of the consensus.
        sample: its number from 0.
        number: of the slice.
        shown: some of "Consensus", "Sample", "All samples", "Readers".
    """
    part = seen_part(drawn)
    scale = find_scale(drawn.confidence[number][part].shape)

    def path(mask: np.ndarray) -> str:
        return to_path(mask[number][part], scale)

    layers = []
    if "All samples" in shown:
        layers += [to_svg(path(mask), SAMPLE_COLOUR, "all", width=0.8) for mask in drawn.samples]
    if "Consensus" in shown:
        layers.append(to_svg(path(drawn.consensus(threshold)), CONSENSUS_COLOUR, "consensus", fill=True))
    if "Readers" in shown and drawn.readers is not None:
        layers += [
            to_svg(path(mask), READER_COLOURS[i % len(READER_COLOURS)], f"reader-{i + 1}", width=2.0, dash="7 4")
            for i, mask in enumerate(drawn.readers)
        ]
    if "Sample" in shown:
        layers.append(to_svg(path(drawn.samples[sample]), SAMPLE_COLOUR, "sample"))
    return "".join(layers)


SIZE_ROWS: tuple[tuple[str, str, str], ...] = (
    ("volume_mm3", "Volume", "mm³"),
    ("diameter_mm", "Longest diameter", "mm"),
    ("area_mm2", "Area in this slice", "mm²"),
    ("area_pixels", "Area in this slice", "px"),
)


def describe_sizes(drawn: Drawn, threshold: float, sample: int, number: int) -> str:
    """Table of the sizes of consensus, one sample and all samples, HTML."""
    ours = drawn.measure(drawn.consensus(threshold), number)
    one = drawn.measure(drawn.samples[sample], number)
    summary = drawn.summarize_samples(number)
    rows = []
    for key, name, unit in SIZE_ROWS:
        if key in summary:
            low, high = (format_number(value) for value in summary[key]["interval"])
            rows.append(
                f'<tr><td>{name}, {unit}</td><td class="{key}">{format_size(ours, key)}</td>'
                f"<td>{format_size(one, key)}</td><td>{low} to {high}</td></tr>"
            )
    head = "<tr><th></th><th>consensus</th><th>sample</th><th>5 % to 95 % of samples</th></tr>"
    return f'<table class="seg-table">{head}{"".join(rows)}</table>'


def format_size(sizes: Sizes, key: str) -> str:
    """A size of :class:`Sizes` as the table shows it."""
    value = getattr(sizes, key)
    return f"{value:.0f}" if key == "area_pixels" else format_number(value)


def describe_readers(drawn: Drawn, threshold: float) -> str:
    """Table of the consensus at the threshold against each reader, HTML."""
    found = drawn.compare(threshold)
    has_volume = drawn.voxel_mm3 is not None
    key = "volume_mm3" if has_volume else "area_mm2" if drawn.edges is not None else "area_pixels"
    unit = next(f"{name.split()[0]}, {unit}" for other, name, unit in SIZE_ROWS if other == key)
    rows = [
        f'<tr><td><span style="display: inline-block; width: 26px; vertical-align: middle; border-top: 4px dashed '
        f'{READER_COLOURS[i % len(READER_COLOURS)]}"></span> Reader {i + 1}</td>'
        f'<td>{format_size(reader["sizes"], key)}</td><td class="dice">{reader["dice"]:.3f}</td>'
        f"<td>{reader['iou']:.3f}</td></tr>"
        for i, reader in enumerate(found["readers"])
    ]
    head = f"<tr><th>consensus against</th><th>{unit}</th><th>Dice</th><th>IoU</th></tr>"
    return (
        f'<table class="seg-table">{head}{"".join(rows)}</table><div>All samples against all readers: '
        f"GED {found['ged']:.3f} (0 is best), HM-IoU {found['hm_iou']:.3f} (1 is best)</div>"
    )


def format_point(point: Sequence[float] | None) -> str:
    """``x, y, z`` with one decimal."""
    return "" if point is None else ", ".join(f"{value:.1f}" for value in point)
