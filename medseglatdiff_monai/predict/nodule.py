"""A nodule in three dimensions: one mask volume a sample over neighbouring slices, and what is measured on it.

The network works on axial slices. From the slice of the clicked point it goes on towards the head and the feet, at the
same rows and columns, until the consensus is empty. Sample i starts from the same noise in every slice: its slices then
err in the same direction, and the sample's volume Σ area · distance spreads as readers' volumes do, whereas errors that
are independent from slice to slice would cancel in the sum and make the interval too narrow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .arguments import check_range

if TYPE_CHECKING:
    from monai.data import MetaTensor

__all__ = ["Nodule", "PlaneEnsemble", "draw_nodule"]


class PlaneEnsemble(Protocol):
    """What is drawn of one plane, see :class:`~medseglatdiff_monai.predict.image.Prediction`."""

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
