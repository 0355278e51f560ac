"""Intervals and tests of per-case scores whose cases come in groups: a patient's slices, a video's frames.

Cases of one group are alike, so the bootstrap resamples groups, and each group counts once in the Wilcoxon
signed-rank test. The figure that an interval belongs to is the mean over cases, sum_g S_g / sum_g n_g with S_g the sum
of scores and n_g the number of cases of group g.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests


@dataclass(frozen=True)
class Interval:
    """A mean over cases with its bootstrap interval.

    Attributes:
        mean: mean over the cases; NaN without cases.
        low: lower end of the interval; NaN with fewer than two groups.
        high: upper end.
        num_cases: cases for which the score is defined.
        num_groups: their groups.
    """

    mean: float
    low: float
    high: float
    num_cases: int
    num_groups: int


@dataclass(frozen=True)
class Comparison(Interval):
    """A mean difference over the cases that both systems have.

    Attributes:
        p: two-sided Wilcoxon signed-rank p-value of the groups' mean differences; NaN with fewer than two groups, 1
            where all differences are 0.
    """

    p: float


def _ratio(sums: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray:
    return sums.sum(axis) / counts.sum(axis)


def group_interval(scores: pd.Series, groups: pd.Series, num_resamples: int = 2000) -> Interval:
    """Bias-corrected and accelerated 95% bootstrap interval of the mean of ``scores``, its groups resampled.

    Args:
        scores: one value for each case; NaN where the metric is not defined for it.
        groups: the group of each case, with the same index.
        num_resamples: number of resamples.

    Returns:
        The interval. One group gives no interval (NaN); groups whose means are all alike give the mean twice.
    """
    defined = scores.dropna()
    if defined.empty:
        return Interval(math.nan, math.nan, math.nan, 0, 0)
    by_group = defined.groupby(groups.loc[defined.index]).agg(["sum", "count"])
    sums, counts = by_group["sum"].to_numpy(float), by_group["count"].to_numpy(float)
    mean = float(_ratio(sums, counts))
    low = high = math.nan
    if len(sums) > 1 and np.allclose(sums / counts, mean, rtol=1e-12, atol=1e-15):
        low = high = mean
    elif len(sums) > 1:
        for method in ("BCa", "percentile"):
            with warnings.catch_warnings():
                # Where nearly all groups are alike, scipy cannot bias-correct and says so: percentiles then.
                warnings.simplefilter("ignore")
                result = stats.bootstrap(
                    (sums, counts), _ratio, paired=True, vectorized=True, confidence_level=0.95, method=method,
                    n_resamples=num_resamples, rng=np.random.default_rng(0), batch=500,
                ).confidence_interval  # fmt: skip
            low, high = float(result.low), float(result.high)
            if math.isfinite(low) and math.isfinite(high):
                break
    return Interval(mean, low, high, len(defined), len(sums))


def compare_groups(first: pd.DataFrame, second: pd.DataFrame, metric: str) -> Comparison:
    """Mean difference ``first - second`` of a metric over the cases that both have, its interval and p-value.

    Args:
        first: frame indexed by case, with the column ``group`` and the metric's.
        second: the same of the other system.
        metric: column.
    """
    cases = first.index.intersection(second.index)
    difference = (first.loc[cases, metric] - second.loc[cases, metric]).dropna()
    groups = first.loc[difference.index, "group"]
    interval = group_interval(difference, groups)
    p = math.nan
    if interval.num_groups > 1:
        means = difference.groupby(groups).mean().to_numpy()
        # Differences of rounding errors are ties, not ranks.
        means = np.where(np.abs(means) < 1e-12, 0.0, means)
        p = float(stats.wilcoxon(means).pvalue) if means.any() else 1.0
    return Comparison(**asdict(interval), p=p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction over all p-values that are defined; NaN stays NaN and is not counted."""
    values = np.asarray(p_values, float)
    corrected = np.full(values.shape, math.nan)
    defined = np.isfinite(values)
    if defined.any():
        corrected[defined] = multipletests(values[defined], method="holm")[1]
    return corrected.tolist()


def is_significant(row: Mapping[str, Any]) -> bool:
    """Whether a comparison says that two systems differ: corrected p below 5%, and 0 outside of the interval.

    Args:
        row: entry of ``comparisons`` in ``results.json``: ``p_holm``, ``low`` and ``high``; ``None`` or NaN where they
            are not defined, which says nothing.
    """
    if any(row[name] is None or not math.isfinite(row[name]) for name in ("p_holm", "low", "high")):
        return False
    # An end at exactly 0 leaves 0 inside.
    return bool(row["p_holm"] < 0.05 and (row["low"] > 0 or row["high"] < 0))
