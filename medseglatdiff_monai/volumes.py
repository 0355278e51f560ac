"""A nodule in three dimensions: one mask volume a sample over neighbouring slices, and what is measured on it.

The network works on axial slices. From the slice of the clicked point it goes on towards the head and the feet, at the
same rows and columns, until the consensus is empty. Sample i starts from the same noise in every slice: its slices then
err in the same direction, and the sample's volume Σ area · distance spreads as readers' volumes do, whereas errors that
are independent from slice to slice would cancel in the sum and make the interval too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .errors import InputError

if TYPE_CHECKING:
    from monai.data import MetaTensor

__all__ = [
    "Nodule",
    "PlaneEnsemble",
    "check_range",
    "draw_nodule",
    "format_number",
    "longest_diameter",
    "measure_nodule",
    "summarize_values",
]

# Percentiles of the interval that is stated beside a measurement.
INTERVAL_PERCENT = (5.0, 95.0)


class PlaneEnsemble(Protocol):
    """What is drawn of one plane, see :class:`~medseglatdiff_monai.predict.Prediction`."""

    @property
    def samples(self) -> np.ndarray: ...  # noqa: D102
    @property
    def confidence(self) -> np.ndarray: ...  # noqa: D102
    @property
    def consensus(self) -> np.ndarray: ...  # noqa: D102
    @property
    def entropy(self) -> np.ndarray: ...  # noqa: D102
    @property
    def seen(self) -> tuple[int, int, int, int]: ...  # noqa: D102


@dataclass(frozen=True)
class Nodule:
    """An ensemble over S neighbouring slices, from the feet upwards.

    Attributes:
        planes: S planes (1, h, w).
        samples: (N, S, h, w) bool.
        confidence: (S, h, w) float32 in [0, 1].
        consensus: (S, h, w) bool.
        entropy: (S, h, w) float32 in [0, 1] bit.
        clicked: index of the slice of the point among the S.
        ended: why it ends towards the feet and towards the head: ``"empty"`` (the consensus of the last slice is),
            ``"volume"`` (the scan ends), ``"reach"`` or ``"slices"`` (a limit of the call).
        seen: (top, left, bottom, right) of the part of the planes that the network saw.
    """

    planes: tuple[MetaTensor, ...]
    samples: np.ndarray
    confidence: np.ndarray
    consensus: np.ndarray
    entropy: np.ndarray
    clicked: int
    ended: tuple[str, str]
    seen: tuple[int, int, int, int]

    @property
    def affine(self) -> np.ndarray:
        """(4, 4), (row, column, slice) to RAS millimetres; of unevenly spaced slices with their mean distance."""
        affine = np.asarray(self.planes[0].affine, dtype=float).copy()
        if len(self.planes) > 1:
            last = np.asarray(self.planes[-1].affine, dtype=float)
            affine[:3, 2] = (last[:3, 3] - affine[:3, 3]) / (len(self.planes) - 1)
        return affine


def draw_nodule(
    cut_plane: Callable[[int], MetaTensor | None],
    draw: Callable[[MetaTensor], PlaneEnsemble],
    slices: int | None = None,
    reach_mm: float = 30.0,
) -> Nodule:
    """Draw the clicked slice, then its neighbours up and down until the consensus of one is empty.

    The first slice of empty consensus is drawn and kept: single samples may reach into it.

    Args:
        cut_plane: from :meth:`~medseglatdiff_monai.io.VolumeInput.open_planes`.
        draw: draws the ensemble of a plane; sample i must start from the same noise at every call.
        slices: at most so many slices, an odd number with the clicked one in the middle; 1 is the clicked slice alone.
        reach_mm: no slice farther than this from the clicked one. A nodule measures at most 30 mm by definition
            (Fleischner Society glossary; beyond it is a mass), so the default takes in all of one wherever it is hit.

    Raises:
        InputError: ``slices`` is even or less than 1, ``reach_mm`` is negative or not finite.
    """
    check_range(slices, reach_mm)
    first = cut_plane(0)
    assert first is not None  # the slice of a point that is inside
    drawn: dict[int, tuple[MetaTensor, PlaneEnsemble]] = {0: (first, draw(first))}
    ended = []
    origin = np.asarray(first.affine, dtype=float)[:3, 3]
    normal = np.cross(*np.asarray(first.affine, dtype=float)[:3, :2].T)
    normal /= np.linalg.norm(normal)
    for direction in (-1, 1):
        offset = direction
        while True:
            if slices is not None and abs(offset) > slices // 2:
                ended.append("slices")
                break
            plane = cut_plane(offset)
            if plane is None:
                ended.append("volume")
                break
            if abs(float(normal @ (np.asarray(plane.affine, dtype=float)[:3, 3] - origin))) > reach_mm + 1e-3:
                ended.append("reach")
                break
            found = draw(plane)
            drawn[offset] = plane, found
            if not found.consensus.any():
                ended.append("empty")
                break
            offset += direction
    order = sorted(drawn)
    ensembles = [drawn[offset][1] for offset in order]
    return Nodule(
        planes=tuple(drawn[offset][0] for offset in order),
        samples=np.stack([found.samples for found in ensembles], axis=1),
        confidence=np.stack([found.confidence for found in ensembles]),
        consensus=np.stack([found.consensus for found in ensembles]),
        entropy=np.stack([found.entropy for found in ensembles]),
        clicked=order.index(0),
        ended=(ended[0], ended[1]),
        seen=ensembles[0].seen,
    )


def check_range(slices: int | None, reach_mm: float) -> None:
    """Raise the InputError of :func:`draw_nodule` if an argument is out of its range."""
    if slices is not None and (isinstance(slices, bool) or not isinstance(slices, int) or slices < 1 or not slices % 2):
        raise InputError(f"--slices is {slices!r}; expected an odd number (1: the clicked slice), or left out: all.")
    if isinstance(reach_mm, bool) or not isinstance(reach_mm, int | float) or not 0.0 <= reach_mm < float("inf"):
        raise InputError(f"--reach-mm is {reach_mm!r}; expected millimetres, at least 0.")


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
        from .metrics import pairwise_iou

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
