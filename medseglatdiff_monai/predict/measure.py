"""Sizes of masks: of the consensus, of each sample, and the interval over the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Percentiles of the interval that is stated beside a measurement.
INTERVAL_PERCENT = (5.0, 95.0)
# Of fewer samples these percentiles are hardly more than the smallest and the largest one, and none is stated.
MIN_INTERVAL_SAMPLES = 16


@dataclass(frozen=True)
class Measurement:
    """One size of an ensemble.

    Attributes:
        consensus: of the consensus mask.
        samples: of each sample.
    """

    consensus: float
    samples: Sequence[float]

    def describe(self) -> dict[str, Any]:
        """JSON values: ``consensus``, ``samples``, their ``median`` and ``interval``, to three decimals.

        The interval is the 5th and 95th percentile of the samples, linearly interpolated; ``None`` of fewer than 16. It
        belongs to their median: the consensus is another mask, whose size may lie outside.
        """
        percents = (INTERVAL_PERCENT[0], 50.0, INTERVAL_PERCENT[1])
        low, median, high = np.percentile(np.asarray(self.samples, dtype=float), percents)
        return {
            "consensus": round(self.consensus, 3),
            "samples": [round(value, 3) for value in self.samples],
            "median": round(float(median), 3),
            "interval": [round(float(low), 3), round(float(high), 3)]
            if len(self.samples) >= MIN_INTERVAL_SAMPLES
            else None,
        }


def longest_diameter(mask: np.ndarray, edges: np.ndarray) -> float:
    """Longest straight line between two points of a mask's outline, millimetres.

    The outline runs through the middles of the pixels' outer edges, as a contour at one half does: n pixels in a row
    measure n pixel widths.

    Args:
        mask: (H, W) bool; empty → 0.
        edges: (3, 2), millimetres from one row to the next and from one column to the next.
    """
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return 0.0
    steps = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, -0.5], [0.0, 0.5]])
    # Here: who only checks or formats numbers does without.
    from scipy.spatial import ConvexHull
    from scipy.spatial.distance import pdist

    points = (np.stack([rows, columns], axis=1)[:, None] + steps).reshape(-1, 2)
    hull = points[ConvexHull(points).vertices]
    return float(pdist(hull @ np.asarray(edges, dtype=float).T).max())


def format_number(value: float) -> str:
    """A size as people read it, to four digits and never as a power of ten: 0.533, 14.42, 809.2, 12345."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def format_spread(size: Mapping[str, Any], unit: str = "") -> str:
    """The samples' median of a described size with its interval, where there is one: ``"5630 mm³ (2126 to 9666)"``."""
    text = f"{format_number(size['median'])} {unit}".rstrip()
    if size["interval"] is None:
        return text
    low, high = map(format_number, size["interval"])
    return f"{text} ({low} to {high})"
