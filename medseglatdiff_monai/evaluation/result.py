"""What an evaluation leaves, and how it is read again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError

__all__ = ["RESULT_VERSION", "load_result", "pool_bins", "reliability"]

# Raised with every change of what a column means: results of two versions are not to be compared.
RESULT_VERSION = 2
NUM_BINS = 15
REGIONS = {"ece": "image", "ece_band": "band"}


class ScoredCase(NamedTuple):
    """What is kept of a case: its row of the table, the bins behind its calibration errors, its number of readers."""

    row: dict[str, Any]
    bins: dict[str, np.ndarray]
    num_raters: int


def pool_bins(cases: Sequence[ScoredCase], name: str) -> np.ndarray:
    """Bins (3, NUM_BINS) of the pixels of all cases together."""
    return np.sum([case.bins[name] for case in cases], axis=0)


def reliability(bins: np.ndarray) -> dict[str, list[float]]:
    """A reliability diagram: pixels of each bin, their mean confidence and mean reader share, NaN in empty bins."""
    count, confidence, target = bins
    means = [
        np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0) for total in (confidence, target)
    ]
    return {"count": count.tolist(), "confidence": means[0].tolist(), "target": means[1].tolist()}


def load_result(path: str | Path) -> dict[str, Any]:
    """Read a ``metrics.json`` of this version.

    Raises:
        InputError: no such file, no result, or one of another version, whose figures may mean something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the metrics.json of an evaluation.")
    try:
        result = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON ({error}); evaluate again.") from error
    version = result.get("version") if isinstance(result, dict) else None
    if version != RESULT_VERSION or "summary" not in result:
        raise InputError(
            f"{path}: found a result of version {version}, expected {RESULT_VERSION}; the figures of two versions are "
            "not comparable: evaluate again."
        )
    return result
