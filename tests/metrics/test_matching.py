from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from small_masks import EMPTY, FULL, LEFT, TOP, case

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.metrics import hungarian_matched_iou


@pytest.mark.parametrize(
    ("samples", "raters", "expected"),
    [
        ([FULL, TOP], [TOP, FULL], 1),
        ([FULL], [TOP, EMPTY], (1 / 2 + 0) / 2),
        # Greedy would give TOP to TOP (1) and leave FULL with EMPTY (0); nothing better exists.
        ([FULL, TOP], [TOP, EMPTY], 1 / 2),
        # IoU rows full: 1/2, 1/2; top: 1, 1/3: full takes left, top takes top.
        ([FULL, TOP], [TOP, LEFT], (1 / 2 + 1) / 2),
        # Two samples, three raters, replicated to six: full x3 and empty x3 against full x2, top x2, empty x2.
        # full-full x2, full-top x1, empty-empty x2, empty-top x1: (2 + 1/2 + 2 + 0) / 6.
        ([FULL, EMPTY], [FULL, TOP, EMPTY], 4.5 / 6),
        ([EMPTY] * 3, [EMPTY] * 4, 1),
        ([FULL] * 3, [EMPTY] * 4, 0),
        ([EMPTY] * 3, [FULL] * 4, 0),
        ([FULL, TOP, LEFT, EMPTY] * 4, [FULL, TOP, LEFT, EMPTY], 1),
    ],
)
def test_hand_worked_values(samples, raters, expected):
    score = hungarian_matched_iou(case(*samples), case(*raters))
    assert score.shape == (1,)
    assert score.dtype == torch.float64
    assert score.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_equals_the_best_of_all_permutations_of_replicated_masks(seed, random_case, loop_iou):
    samples, raters = random_case(seed)
    samples, raters = samples[:, :3], raters[:, :3]  # at most 6! permutations of the replicated masks
    multiple = math.lcm(samples.shape[1], raters.shape[1])
    expected = []
    for s, y in zip(samples, raters, strict=True):
        s, y = list(s) * (multiple // len(s)), list(y) * (multiple // len(y))
        iou = [[loop_iou(a, b) for b in y] for a in s]
        expected.append(
            max(sum(iou[i][j] for i, j in enumerate(p)) / multiple for p in itertools.permutations(range(multiple)))
        )
    np.testing.assert_allclose(hungarian_matched_iou(samples, raters).numpy(), expected, rtol=0, atol=1e-6)


def test_bad_input_names_the_argument():
    with pytest.raises(InputError, match="samples: found the value 2"):
        hungarian_matched_iou(case(FULL).int() * 2, case(FULL))
    with pytest.raises(InputError, match="raters: found shape"):
        hungarian_matched_iou(case(FULL), case(FULL)[..., :1])
