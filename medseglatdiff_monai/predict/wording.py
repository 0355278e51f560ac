"""What is said of an ensemble in words: its samples' median first, then how far they agree, then the consensus.

Command, report and viewing page use the same sentences. A measure is the dictionary of a size: ``name`` and ``unit``,
and what :meth:`~medseglatdiff_monai.predict.measure.Measurement.describe` gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..ensemble.arguments import describe_fusion
from .measure import Measurement, format_number, format_spread

# Sizes of a nodule: key in the record, name and unit.
SIZES = (
    ("volume_mm3", "Volume", "mm³"),
    ("longest_diameter_mm", "Longest axial diameter", "mm"),
    ("area_mm2", "Area in the clicked slice", "mm²"),
)
# Between these shares of empty samples the model does not know whether there is anything.
UNSURE = (0.1, 0.9)


def list_measures(described: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The measures of a nodule, or of a record of an image that is taken whole; the most telling one first."""
    if "longest_diameter_mm" in described:
        sizes = [size for size in SIZES if described[size[0]]]
    else:
        sizes = [("area_mm2", "Area", "mm²") if "area_mm2" in described else ("area_pixels", "Area", "px")]
    # Not the interval of the record: older versions stated one of few samples, too.
    return [
        {"name": name, "unit": unit, **Measurement(described[key]["consensus"], described[key]["samples"]).describe()}
        for key, name, unit in sizes
    ]


def describe_sizes(measures: Sequence[Mapping[str, Any]]) -> str:
    """``"Volume 5630 mm³ (2126 to 9666), …: median of 16 samples (5th to 95th percentile)."``, of the first two."""
    count = len(measures[0]["samples"])
    what = "one sample" if count == 1 else f"median of {count} samples"
    if measures[0]["interval"] is not None:
        what += " (5th to 95th percentile)"
    sizes = _list_sizes(measures, [format_spread(entry, entry["unit"]) for entry in measures])
    return f"{sizes[0].upper()}{sizes[1:]}: {what}."


def name_consensus(run: Mapping[str, Any], word: str = "consensus") -> str:
    """``"consensus (≥ 25 % of samples)"`` for the settings of a run's record."""
    return f"{word} ({describe_fusion(run['threshold'], run['fusion'], run['confidence'])})"


def describe_consensus(measures: Sequence[Mapping[str, Any]], run: Mapping[str, Any]) -> str:
    """``"Consensus (≥ 25 % of samples): volume 5400 mm³, …."``, of the same sizes as :func:`describe_sizes`."""
    texts = [f"{format_number(entry['consensus'])} {entry['unit']}" for entry in measures]
    return f"{name_consensus(run, 'Consensus')}: {_list_sizes(measures, texts)}."


def describe_agreement(areas: Sequence[float], mean_iou: float | None, where: str = "") -> str:
    """How far the samples agree.

    Args:
        areas: of each sample, 0 where it is empty.
        mean_iou: of two samples; ``None`` where it is unknown.
        where: of a nodule, the slice that the areas belong to, such as ``"in this slice"``; empty for a picture.
    """
    count, empty = len(areas), sum(not area for area in areas)
    if count < 2:
        return "A single sample does not tell how sure the model is."
    see, thing = ("see", f"nodule {where}") if where else ("mark", "")
    if empty == count:
        return f"No sample sees a {thing}." if where else "No sample marks anything."
    if empty:
        verb = see if empty > 1 else f"{see}s"
        what, doubt = (f"no {thing}", "one") if where else ("nothing", "anything to mark")
        unsure = UNSURE[0] <= empty / count <= UNSURE[1]
        end = f": the model is unsure whether there is {doubt}" if unsure else ""
        return f"{empty} of {count} samples {verb} {what}{end}."
    overlap = "" if mean_iou is None else f"; two of them overlap by {100 * mean_iou:.0f} % on average (IoU)"
    return f"All {count} samples {see} {f'a {thing}' if where else 'something'}{overlap}."


def describe_record(described: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """The three sentences about a nodule of a record, or about an image that is taken whole."""
    measures = list_measures(described)
    nodule = "longest_diameter_mm" in described
    # Records of older versions have none for an image that is taken whole.
    mean_iou = described.get("agreement", {}).get("mean_pairwise_iou")
    # The last measure is the area in that slice, or in the image.
    agreement = describe_agreement(measures[-1]["samples"], mean_iou, "in the clicked slice" if nodule else "")
    return [describe_sizes(measures), agreement, describe_consensus(measures, run)]


def _list_sizes(measures: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> str:
    """The first two sizes: one alone says little of a nodule, and more are in the table."""
    named = [f"{entry['name'].lower()} {text}" for entry, text in zip(measures, texts, strict=True)]
    return ", ".join(named[:2])
