"""Scores of fewer of the saved samples.

Masks are sampled once; the noise of a sample depends on seed, case and its number alone, so the first n of N samples
are those that an evaluation with n would have.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..evaluation.columns import COLUMNS
from ..evaluation.scored import ScoredMasks
from ..metrics.masks import mean_mask


def subsample_case(
    samples: torch.Tensor,
    raters: torch.Tensor,
    numbers: Sequence[int],
    metrics: Sequence[str],
    draws: int,
    seed: int,
    settings: Mapping[str, Any],
) -> list[dict[str, float]]:
    """Scores of the consensus and the set of n of the samples, for each n.

    Args:
        samples: (N, H, W[, D]) bool.
        raters: (R, H, W[, D]) bool.
        numbers: the numbers n; more than N counts as N.
        metrics: columns that can be computed from any samples.
        draws: subsets that are averaged; the first is the first n samples, the others are random ones.
        seed: seed of the subsets.
        settings: see :func:`score_subsamples`.

    Returns:
        One row for each number, with ``point`` and the metrics.

    Raises:
        InputError: see :func:`score_subsamples`.
    """
    rng = np.random.default_rng(seed)
    orders = [np.arange(len(samples)), *(rng.permutation(len(samples)) for _ in range(draws - 1))]
    rows = []
    for number in numbers:
        # All N samples, or one order: nothing to average.
        parts = []
        for order in orders[:1] if number >= len(samples) else orders:
            part = samples[order[:number]][None]
            confidence = mean_mask(part).float() if settings["confidence"] == "samples" else None
            parts.append(
                ScoredMasks(
                    part,
                    raters[None],
                    confidence,
                    settings["threshold"],
                    settings["fusion"],
                    settings["surface_tolerance"],
                )
            )
        scores: dict[str, float] = {"point": number}
        for name in metrics:
            score = COLUMNS[name].score
            assert score is not None, "the suite was checked"
            scores[name] = float(np.mean([float(score(part)) for part in parts]))
        rows.append(scores)
    return rows


def score_subsamples(
    samples_dir: Path,
    cases: pd.DataFrame,
    numbers: Sequence[int],
    metrics: Sequence[str],
    draws: int,
    settings: Mapping[str, Any],
) -> pd.DataFrame:
    """Rows (case, group, point, metrics) of the saved samples of ``cases``.

    Args:
        samples_dir: the evaluation's ``samples/``.
        cases: columns case and group.
        numbers: see :func:`subsample_case`.
        metrics: likewise.
        draws: likewise.
        settings: ``settings`` of the evaluation's ``metrics.json``, by which the consensus is made.

    Raises:
        InputError: a metric of the confidence or the consensus where the confidence comes from probabilities, which are
            kept for all samples only.
    """
    rows = []
    for case, group in zip(cases["case"], cases["group"], strict=True):
        with np.load(samples_dir / f"{case}.npz") as saved:
            samples, raters = torch.from_numpy(saved["samples"]), torch.from_numpy(saved["raters"])
        seed = zlib.crc32(str(case).encode())
        for scores in subsample_case(samples, raters, numbers, metrics, draws, seed, settings):
            rows.append({"case": case, "group": group, **scores})
    return pd.DataFrame(rows)
