"""D_max and the index of CIMD against hand-worked values and loops over NumPy masks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from small_masks import EMPTY, FULL, LEFT, TOP, case

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.metrics import collective_insight, maximum_dice


def test_hand_worked_values():
    # Dice: full-top 2/3, full-left 2/3, full-empty 0, top-top 1, top-left 1/2, top-empty 0.
    samples, raters = case(FULL, TOP), case(TOP, LEFT, EMPTY)
    assert maximum_dice(samples, raters).item() == pytest.approx((1 + 2 / 3 + 0) / 3, abs=1e-12)
    index = {name: value.item() for name, value in collective_insight(samples, raters).items()}
    # The union of the samples is everything; the raters' three pixels are in it.
    assert index["sensitivity"] == 1
    # Differences: full-top 0 0 1 1, variance 1/4. Top-left 0 1 -1 0: 1/2; top-empty 1 1 0 0: 1/4; left-empty 1/4.
    assert index["agreement"] == pytest.approx(1 - (0 + 1 / 4) / 2, abs=1e-12)
    a, b, c = 1, 5 / 9, 7 / 8
    assert index["score"] == pytest.approx(3 * a * b * c / (a + b + c), abs=1e-12)
    # Seen from the other side: half of the four pixels of the union are found by the top row alone.
    assert collective_insight(case(TOP, TOP), samples)["sensitivity"].item() == 1 / 2


@pytest.mark.parametrize("seed", range(20))
def test_equal_loops_over_pairs(seed, random_case):
    def dice(a, b):
        return 1.0 if a.sum() + b.sum() == 0 else 2 * (a & b).sum() / (a.sum() + b.sum())

    def variances(masks):
        return [np.var(a.astype(int) - b.astype(int)) for a, b in itertools.combinations(masks, 2)] or [np.nan]

    samples, raters = random_case(seed)
    result = {name: values.numpy() for name, values in collective_insight(samples, raters).items()}
    for i, (s, y) in enumerate(zip(samples, raters, strict=True)):
        d_max = np.mean([max(dice(a, b) for a in s) for b in y])
        marked, found = y.any(0), s.any(0)
        sensitivity = (marked & found).sum() / marked.sum() if marked.any() else float(not found.any())
        of_samples, of_raters = variances(s), variances(y)
        agreement = 1 - (abs(min(of_samples) - min(of_raters)) + abs(max(of_samples) - max(of_raters))) / 2
        total = sensitivity + d_max + agreement
        expected = (sensitivity, d_max, agreement, 3 * sensitivity * d_max * agreement / total)
        names = ("sensitivity", "maximum_dice", "agreement", "score")
        for name, value in zip(names, expected, strict=True):
            np.testing.assert_allclose(result[name][i], value, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    ("samples", "raters", "expected"),
    [
        # sensitivity, maximum Dice, agreement, score
        ([EMPTY] * 3, [EMPTY] * 4, (1, 1, 1, 1)),
        ([FULL] * 2, [FULL] * 2, (1, 1, 1, 1)),
        # Copies of a rater have V_min = 0, different raters here 1/4.
        ([TOP, LEFT, EMPTY] * 2, [TOP, LEFT, EMPTY], (1, 1, 7 / 8, 3 * (7 / 8) / (2 + 7 / 8))),
        ([FULL] * 3, [EMPTY] * 4, (0, 0, 1, 0)),
        ([EMPTY] * 3, [FULL] * 4, (0, 0, 1, 0)),
        # One false finding among empty masks.
        ([EMPTY, TOP], [EMPTY] * 4, (0, 1, 3 / 4, 0)),
    ],
)
def test_degenerate_cases(samples, raters, expected):
    result = collective_insight(case(*samples), case(*raters))
    assert [values.item() for values in result.values()] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("samples", "raters"), [([FULL], [TOP, LEFT]), ([FULL, TOP], [LEFT]), ([FULL], [FULL])])
def test_without_pairs_only_the_index_is_undefined(samples, raters):
    result = collective_insight(case(*samples), case(*raters))
    assert result["agreement"].isnan().all()
    assert result["score"].isnan().all()
    assert result["maximum_dice"].isfinite().all()
    assert result["sensitivity"].isfinite().all()


def test_more_samples_never_lower_the_best():
    generator = torch.Generator().manual_seed(0)
    samples, raters = torch.rand((1, 9, 6, 6), generator=generator) < 0.5, torch.rand((1, 4, 6, 6)) < 0.5
    best = [maximum_dice(samples[:, :n], raters).item() for n in range(1, 10)]
    assert best == sorted(best)
    assert best[-1] > best[0]


def test_bad_input_names_the_argument():
    for function in (maximum_dice, collective_insight):
        with pytest.raises(InputError, match="found the value nan"):
            function(case(FULL), case(FULL) * torch.nan)
        with pytest.raises(InputError, match="found shape"):
            function(case(FULL), case(FULL)[..., :1])
