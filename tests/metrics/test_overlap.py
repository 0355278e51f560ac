from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, MeanIoU
from small_masks import EMPTY, FULL, LEFT, TOP, case

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.metrics import ConsensusDice, ConsensusIoU, dice_score, fuse_masks, iou_score

PAIRS = torch.stack([FULL, TOP, EMPTY, FULL, EMPTY])[:, None], torch.stack([TOP, LEFT, FULL, EMPTY, EMPTY])[:, None]


def test_hand_worked_values():
    assert dice_score(*PAIRS).shape == (5, 1)
    assert dice_score(*PAIRS).flatten().tolist() == pytest.approx([2 / 3, 1 / 2, 0, 0, 1], abs=1e-12)
    assert iou_score(*PAIRS).flatten().tolist() == pytest.approx([1 / 2, 1 / 3, 0, 0, 1], abs=1e-12)


def test_empty_references_are_nan_on_request():
    nan = pytest.approx(float("nan"), nan_ok=True)
    assert dice_score(*PAIRS, ignore_empty=True).flatten().tolist()[3:] == [nan, nan]
    assert iou_score(*PAIRS, ignore_empty=True).flatten().tolist()[3:] == [nan, nan]
    assert dice_score(*PAIRS, ignore_empty=True)[:3].equal(dice_score(*PAIRS)[:3])


@pytest.mark.parametrize("ignore_empty", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_equals_monai(seed, ignore_empty, random_case):
    a, b = (torch.as_tensor(x[:, :1]) for x in random_case(seed))
    for ours, theirs in ((dice_score, DiceMetric), (iou_score, MeanIoU)):
        expected = theirs(ignore_empty=ignore_empty)(a.float(), b.float())
        np.testing.assert_allclose(ours(a, b, ignore_empty=ignore_empty).numpy(), expected.numpy(), rtol=0, atol=1e-6)


def test_fusion_levels_and_ties():
    votes = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    masks = votes.T[None, :, None, :]  # four raters, five pixels with 0 to 4 votes
    assert fuse_masks(masks).shape == (1, 1, 1, 5)
    assert fuse_masks(masks).flatten().tolist() == [False, False, True, True, True]
    assert fuse_masks(masks, tie="background").flatten().tolist() == [False, False, False, True, True]
    assert fuse_masks(masks, level=1).flatten().tolist() == [False, False, False, False, True]
    assert fuse_masks(masks, level=0, tie="background").flatten().tolist() == [False, True, True, True, True]


def test_a_decimal_level_is_met_by_its_own_share():
    for votes in range(1, 21):
        masks = (torch.arange(20) < votes)[None, :, None, None]
        assert fuse_masks(masks, level=float(f"{votes / 20:.2f}")).item()
    for votes in range(20):
        masks = (torch.arange(20) < votes)[None, :, None, None]
        assert not fuse_masks(masks, level=float(f"{votes / 20:.2f}"), tie="background").item()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"level": 0}, "level: found 0"),
        ({"level": 1.5}, "level: found 1.5"),
        ({"level": 1, "tie": "background"}, "level: found 1"),
        ({"level": float("nan")}, "level: found nan"),
        ({"tie": "coin"}, "tie: found 'coin'"),
    ],
)
def test_bad_fusion_rules_are_named(arguments, match):
    with pytest.raises(InputError, match=match):
        fuse_masks(case(FULL), **arguments)
    with pytest.raises(InputError, match=match):
        ConsensusDice(**arguments)


def test_bad_threshold_is_named():
    with pytest.raises(InputError, match="threshold: found 0"):
        ConsensusIoU(threshold=0)


def test_channels_that_differ_are_named():
    with pytest.raises(InputError, match="fuse several samples"):
        dice_score(case(FULL, TOP), case(FULL))


def test_consensus_metrics_fuse_both_sides():
    samples, raters = case(FULL, TOP, TOP), case(TOP, LEFT, EMPTY, EMPTY)
    # Samples fuse to the top row; the raters agree by two on the top left pixel alone.
    assert ConsensusDice()(samples, raters).tolist() == [[pytest.approx(2 / 3)]]
    assert ConsensusIoU()(samples, raters).tolist() == [[pytest.approx(1 / 2)]]
    # One sample in three suffices: full. One rater in four suffices: three pixels.
    assert ConsensusDice(threshold=0.3, level=0.25)(samples, raters).tolist() == [[pytest.approx(6 / 7)]]
    # More than half of the raters: nothing.
    assert ConsensusDice(tie="background")(samples, raters).tolist() == [[0]]
    assert ConsensusDice(tie="background", ignore_empty=True)(samples, raters).isnan().all()


def test_mean_over_cases_with_a_consensus_and_over_all():
    samples = torch.stack([FULL, EMPTY, FULL])[:, None]
    raters = torch.stack([TOP, EMPTY, EMPTY])[:, None]
    for ignore_empty, dice, iou in ((True, 2 / 3, 1 / 2), (False, (2 / 3 + 1 + 0) / 3, (1 / 2 + 1 + 0) / 3)):
        for kind, expected in ((ConsensusDice, dice), (ConsensusIoU, iou)):
            metric = kind(ignore_empty=ignore_empty)
            metric(samples, raters)
            assert metric.aggregate().item() == pytest.approx(expected, abs=1e-12)
