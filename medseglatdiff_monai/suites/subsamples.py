"""Scores of fewer of the saved samples.

Masks are sampled once; the noise of a sample depends on seed, case and its number alone, so the first n of N samples
are those that an evaluation with n would have. Other subsets are runs of n neighbours that begin with a pair of
opposite noise, since any such run is spread as evenly as the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..evaluation.columns import COLUMNS
from ..evaluation.scored import ScoredMasks
from ..metrics.masks import mean_mask


def score_subsamples(
    samples_dir: Path,
    cases: pd.DataFrame,
    numbers: Sequence[int],
    metrics: Sequence[str],
    draws: int,
    settings: Mapping[str, Any],
) -> pd.DataFrame:
    """Rows (case, group, point, metrics) of the saved samples of ``cases``: scores of n of the samples, for each n.

    Args:
        samples_dir: the evaluation's ``samples/``.
        cases: columns case and group.
        numbers: the numbers n, ``point`` in the rows; more than there are samples counts as all.
        metrics: columns that can be computed from any samples.
        draws: at most so many subsets are averaged; the first is the first n samples.
        settings: ``settings`` of the evaluation's ``metrics.json``, by which the consensus is made.

    Raises:
        InputError: a metric of the confidence or the consensus where the confidence comes from probabilities, which are
            kept for all samples only.
    """
    rows: list[dict[str, Any]] = []
    for case, group in zip(cases["case"], cases["group"], strict=True):
        with np.load(samples_dir / f"{case}.npz") as saved:
            samples, raters = torch.from_numpy(saved["samples"]), torch.from_numpy(saved["raters"])
        for number in numbers:
            starts = 2 * np.unique(np.linspace(0, max(0, len(samples) - number) // 2, draws, dtype=int))
            subsets = [slice(start, start + number) for start in starts]
            parts = [_scored_masks(samples[subset], raters, settings) for subset in subsets]
            row = {"case": case, "group": group, "point": number}
            for name in metrics:
                score = COLUMNS[name].score
                assert score is not None, "the suite was checked"
                row[name] = float(np.mean([float(score(part)) for part in parts]))
            rows.append(row)
    return pd.DataFrame(rows)


def _scored_masks(samples: torch.Tensor, raters: torch.Tensor, settings: Mapping[str, Any]) -> ScoredMasks:
    confidence = mean_mask(samples[None]).float() if settings["confidence"] == "samples" else None
    fusion = (settings[name] for name in ("threshold", "fusion", "surface_tolerance"))
    return ScoredMasks(samples[None], raters[None], confidence, *fusion)
