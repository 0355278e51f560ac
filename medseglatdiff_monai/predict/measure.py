"""What is measured on an ensemble of a nodule: volume, diameter, area, agreement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .nodule import Nodule

__all__ = ["format_number", "longest_diameter", "measure_nodule", "summarize_values"]

# Percentiles of the interval that is stated beside a measurement.
INTERVAL_PERCENT = (5.0, 95.0)


def measure_nodule(nodule: Nodule, voxel_mm3: float | None) -> dict[str, Any]:
    """Volume, longest axial diameter and area with their intervals, and how well the samples agree.

    Args:
        nodule: what was drawn.
        voxel_mm3: volume of a voxel; ``None`` where it is not known or a volume means nothing.

    Returns:
        ``volume_mm3`` (``None`` without ``voxel_mm3``), ``longest_diameter_mm`` (over the slices) and ``area_mm2`` (of
        the clicked slice), each with ``consensus`` and the keys of :func:`summarize_values`; ``agreement``:
        ``mean_pairwise_iou`` of two different samples in 3D, both empty → 1, ``None`` of a single one.
    """
    affine = np.asarray(nodule.planes[0].affine, dtype=float)
    pixel_mm2 = float(np.linalg.norm(np.cross(affine[:3, 0], affine[:3, 1])))
    edges = affine[:3, :2]
    masks = [nodule.consensus, *nodule.samples]

    def summarize(values: Sequence[float]) -> dict[str, Any]:
        return {"consensus": round(float(values[0]), 3), **summarize_values(values[1:])}

    number = len(nodule.samples)
    iou = None
    if number > 1:
        # Here: it imports MONAI, which takes seconds, and who only checks or formats numbers does without.
        from ..metrics.distances import pairwise_iou

        table = pairwise_iou(nodule.samples[None], nodule.samples[None])[0]
        iou = round(float((table.sum() - table.diagonal().sum()) / (number * (number - 1))), 4)
    return {
        "volume_mm3": None if voxel_mm3 is None else summarize([mask.sum() * voxel_mm3 for mask in masks]),
        "longest_diameter_mm": summarize([max(longest_diameter(plane, edges) for plane in mask) for mask in masks]),
        "area_mm2": summarize([mask[nodule.clicked].sum() * pixel_mm2 for mask in masks]),
        "agreement": {"mean_pairwise_iou": iou},
    }


def summarize_values(values: Sequence[float]) -> dict[str, Any]:
    """``samples``, their ``median`` and ``interval``: 5th and 95th percentile, linear between the values."""
    low, median, high = np.percentile(np.asarray(values, dtype=float), (INTERVAL_PERCENT[0], 50.0, INTERVAL_PERCENT[1]))
    return {
        "samples": [round(float(value), 3) for value in values],
        "median": round(float(median), 3),
        "interval": [round(float(low), 3), round(float(high), 3)],
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
