"""The sentences about an ensemble: what is said first, and when the model is said to be unsure."""

from __future__ import annotations

from typing import Any

import pytest

from medseglatdiff_monai.ensemble.arguments import describe_fusion
from medseglatdiff_monai.predict.measure import Measurement
from medseglatdiff_monai.predict.wording import describe_agreement, describe_record, describe_sizes, list_measures

RUN = {"threshold": 0.25, "fusion": "mean", "confidence": "samples"}
UNSURE = ": the model is unsure whether there is one."


@pytest.mark.parametrize(
    ("empty", "count", "expected"),
    [
        (0, 16, "All 16 samples see a nodule in this slice; two of them overlap by 72 % on average (IoU)."),
        (1, 16, "1 of 16 samples sees no nodule in this slice."),
        (2, 16, "2 of 16 samples see no nodule in this slice" + UNSURE),
        (14, 16, "14 of 16 samples see no nodule in this slice" + UNSURE),
        (15, 16, "15 of 16 samples see no nodule in this slice."),
        (1, 4, "1 of 4 samples sees no nodule in this slice" + UNSURE),
        (16, 16, "No sample sees a nodule in this slice."),
        (0, 1, "A single sample does not tell how sure the model is."),
    ],
)
def test_agreement_about_a_nodule(empty: int, count: int, expected: str) -> None:
    assert describe_agreement([0.0] * empty + [3.5] * (count - empty), 0.719, "in this slice") == expected


def test_agreement_about_a_picture() -> None:
    assert describe_agreement([0, 0], 1.0) == "No sample marks anything."
    assert describe_agreement([0, 5], 0.0) == (
        "1 of 2 samples marks nothing: the model is unsure whether there is anything to mark."
    )
    assert describe_agreement([4, 5], None) == "All 2 samples mark something."


def describe(consensus: float, samples: list[float]) -> dict[str, Any]:
    return Measurement(consensus, samples).describe()


def test_a_nodule_begins_with_its_samples_median() -> None:
    areas = [0.0] * 6 + [96.0] * 10
    nodule = {
        "volume_mm3": describe(102.0, [float(value) for value in range(100, 1700, 100)]),
        "longest_diameter_mm": describe(9.0, [10.0] * 16), "area_mm2": describe(102.0, areas),
        "agreement": {"mean_pairwise_iou": 0.4},
    }  # fmt: skip
    assert describe_record(nodule, RUN) == [
        "Volume 850 mm³ (175 to 1525), longest axial diameter 10 mm (10 to 10): median of 16 samples (5th to 95th "
        "percentile).",
        "6 of 16 samples see no nodule in the clicked slice" + UNSURE,
        "Consensus (≥ 25 % of samples): volume 102 mm³, longest axial diameter 9 mm.",
    ]
    # The clicked slice alone has no volume.
    alone = describe_record({**nodule, "volume_mm3": None}, RUN)
    assert alone[0].startswith("Longest axial diameter 10 mm (10 to 10), area in the clicked slice 96 mm² (0 to 96):")


def test_an_image_that_is_taken_whole() -> None:
    record = {"area_pixels": {"consensus": 5, "samples": [7]}, "agreement": {"mean_pairwise_iou": None}}
    assert describe_record(record, RUN) == [
        "Area 7 px: one sample.",
        "A single sample does not tell how sure the model is.",
        "Consensus (≥ 25 % of samples): area 5 px.",
    ]
    record["area_mm2"] = {"consensus": 2.5, "samples": [3.5]}
    assert describe_record(record, RUN)[2].endswith("area 2.5 mm².")
    # Records of older versions hold no agreement.
    del record["agreement"]
    assert len(describe_record(record, RUN)) == 3


def test_few_samples_have_no_interval() -> None:
    assert describe_sizes([{"name": "Volume", "unit": "mm³", **describe(9.0, [11.0, 13.0])}]) == (
        "Volume 12 mm³: median of 2 samples."
    )
    # Records of older versions may hold one.
    size = {**describe(9.0, [11.0, 13.0]), "interval": [11.1, 12.9]}
    nodule = {"volume_mm3": size, "longest_diameter_mm": None, "area_mm2": None}
    assert [entry["interval"] for entry in list_measures(nodule)] == [None]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ((0.5, "mean", "samples"), "≥ 50 % of samples"),
        ((0.125, "mean", "probabilities"), "≥ 12.5 % mean probability"),
        ((0.5, "majority", "samples"), "> 50 % of samples"),
        ((0.9, "staple", "samples"), "STAPLE ≥ 90 %"),
        ((0.5, "size_preserving", "samples"), "size of the mean sample"),
    ],
)
def test_every_fusion_is_named(settings: tuple[float, str, str], expected: str) -> None:
    assert describe_fusion(*settings) == expected
