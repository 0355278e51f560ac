"""Intervals and tests of grouped scores, against values worked by hand and other implementations."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from medseglatdiff_monai.suites.statistics import compare_groups, group_interval, holm, is_significant

# Darwin's maize heights (inches, Zea mays): cross- minus self-fertilised, in eighths as Fisher gives them.
DARWIN = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]) / 8


def frame(scores, groups) -> pd.DataFrame:
    return pd.DataFrame({"score": np.asarray(scores, float), "group": [str(group) for group in groups]})


def signed_rank_p(differences: np.ndarray) -> float:
    """Exact two-sided p by trying all signs; no ties, no zeros."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    total = ranks.sum()
    signs = (np.arange(2 ** len(ranks))[:, None] >> np.arange(len(ranks))) & 1
    lesser = np.minimum(signs @ ranks, total - signs @ ranks)
    found = ranks[differences > 0].sum()
    return float((lesser <= min(found, total - found)).mean())


def test_mean_is_over_cases_and_undefined_ones_do_not_count():
    data = frame([1.0, 2.0, 6.0, math.nan], ["a", "a", "b", "c"])
    interval = group_interval(data["score"], data["group"])
    assert (interval.mean, interval.num_cases, interval.num_groups) == (3.0, 3, 2)


def test_interval_has_the_width_of_the_groups_deviation():
    """Cases of a group are copies: the standard error is that of 60 groups, not of 600 cases."""
    rng = np.random.default_rng(3)
    means = rng.normal(0.0, 1.0, 60)
    data = frame(np.repeat(means, 10), np.repeat(np.arange(60), 10))
    interval = group_interval(data["score"], data["group"], num_resamples=5000)
    error = means.std(ddof=0) / math.sqrt(60)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert interval.low < means.mean() < interval.high


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 6, 30)
    groups = np.repeat(np.arange(30), sizes)
    covered = 0
    for _ in range(200):
        scores = np.repeat(rng.normal(0.0, 1.0, 30), sizes) + rng.normal(0.0, 0.3, sizes.sum())
        data = frame(scores, groups)
        interval = group_interval(data["score"], data["group"], num_resamples=400)
        covered += interval.low <= 0.0 <= interval.high
    # 190 expected; three standard deviations of a binomial on either side, and the bootstrap's own slight optimism.
    assert 174 <= covered <= 199


def test_degenerate_intervals():
    alike = frame([0.5, 0.5, 0.5], ["a", "b", "c"])
    interval = group_interval(alike["score"], alike["group"])
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.5, 0.5)
    single = frame([0.1, 0.3], ["a", "a"])
    interval = group_interval(single["score"], single["group"])
    assert interval.mean == pytest.approx(0.2)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    none = frame([math.nan], ["a"])
    assert group_interval(none["score"], none["group"]).num_cases == 0


def test_wilcoxon_of_darwins_maize():
    groups = range(len(DARWIN))
    compared = compare_groups(frame(DARWIN, groups), frame(np.zeros(len(DARWIN)), groups), "score")
    assert compared.mean == pytest.approx(314 / 15 / 8)
    assert compared.p == pytest.approx(signed_rank_p(DARWIN), abs=1e-12)
    assert 0.03 < compared.p < 0.05


def test_the_test_counts_groups_not_cases():
    """Ten copies of each of six patients are six observations: p cannot fall below 2 / 2 ** 6."""
    differences = np.repeat([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 10)
    groups = np.repeat(np.arange(6), 10)
    compared = compare_groups(frame(differences, groups), frame(np.zeros(60), groups), "score")
    assert compared.p == pytest.approx(2 / 2**6)
    assert (compared.num_cases, compared.num_groups) == (60, 6)


def test_pairs_are_the_cases_that_both_have():
    first = frame([1.0, 2.0, 3.0], ["a", "b", "c"]).set_axis(["x", "y", "z"])
    second = frame([5.0, 0.0, math.nan], ["b", "a", "c"]).set_axis(["y", "x", "z"])
    compared = compare_groups(first, second, "score")
    assert compared.mean == pytest.approx(((1 - 0) + (2 - 5)) / 2)
    assert compared.num_cases == 2


def test_equal_systems_have_p_one():
    same = frame([0.1, 0.7, 0.4], ["a", "b", "c"])
    compared = compare_groups(same, same.assign(score=same["score"] + 1e-17), "score")
    assert [compared.mean, compared.low, compared.high] == pytest.approx([0.0] * 3, abs=1e-15)
    assert compared.p == 1.0


def test_holm_by_hand():
    # Sorted: 0.01 × 4, 0.02 × 3, 0.03 × 2 = 0.06 (already reached), 0.8 × 1; undefined ones are not counted.
    corrected = holm([0.03, 0.01, math.nan, 0.8, 0.02])
    assert corrected[:2] == pytest.approx([0.06, 0.04])
    assert math.isnan(corrected[2])
    assert corrected[3:] == pytest.approx([0.8, 0.06])
    assert holm([]) == []


@pytest.mark.parametrize(
    ("p_holm", "low", "high", "significant"),
    [
        (0.01, 0.1, 0.2, True),
        (0.01, -0.2, -0.1, True),
        (0.05, 0.1, 0.2, False),
        (0.01, -0.1, 0.2, False),
        # An end at exactly 0 does not exclude it.
        (0.01, -0.2, 0.0, False),
        (0.01, 0.0, 0.2, False),
        (None, 0.1, 0.2, False),
        (math.nan, 0.1, 0.2, False),
        (0.01, None, None, False),
    ],
)
def test_significance_needs_both_the_test_and_the_interval(p_holm, low, high, significant):
    assert is_significant({"p_holm": p_holm, "low": low, "high": high}) is significant
