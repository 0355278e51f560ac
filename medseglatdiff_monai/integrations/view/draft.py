"""The label that is about to be saved: an accepted mask, and what the brush changes of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

# Strokes that can be taken back.
MOST_UNDONE = 50


@dataclass
class Draft:
    """A label in the making.

    Attributes:
        accepted: (S, H, W) bool, as it was sampled or fused.
        sample: number of the accepted sample from 0, or ``None`` for the consensus.
        threshold: of the accepted consensus, or ``None`` for a sample.
        mask: (S, H, W) bool, what the brush has made of it.
    """

    accepted: np.ndarray
    sample: int | None = None
    threshold: float | None = None
    mask: np.ndarray = field(init=False)
    _before: list[tuple[int, np.ndarray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with what was accepted."""
        self.mask = self.accepted.copy()

    @property
    def corrected(self) -> bool:
        """Whether the brush has changed it."""
        return not np.array_equal(self.mask, self.accepted)

    def describe(self) -> str:
        """What was accepted: ``"sample no. 12"`` or ``"consensus ≥ 0.50"``, with "corrected" where it was."""
        what = f"consensus ≥ {self.threshold:.2f}" if self.sample is None else f"sample no. {self.sample + 1}"
        return f"{what}, corrected" if self.corrected else what

    def begin_stroke(self, number: int) -> None:
        """Remember slice `number` before the brush changes it."""
        self._before = [*self._before[1 - MOST_UNDONE :], (number, self.mask[number].copy())]

    def paint(
        self, number: int, start: tuple[float, float], end: tuple[float, float], radius: float, value: bool
    ) -> None:
        """Set the pixels of slice `number` along a line from one point to another.

        Args:
            number: of the slice.
            start: row and column; the middle of the first pixel is (0, 0).
            end: as `start`.
            radius: of the brush, pixels.
            value: ``False`` erases.
        """
        points = np.array([start, end], dtype=float)
        low = np.floor(points.min(0) - radius).astype(int).clip(0)
        high = np.ceil(points.max(0) + radius).astype(int) + 1
        part = self.mask[number, low[0] : high[0], low[1] : high[1]]
        places = np.moveaxis(np.indices(part.shape), 0, -1) + low - points[0]
        line = points[1] - points[0]
        share = np.clip(places @ line / max(float(line @ line), 1e-12), 0.0, 1.0)
        part[np.linalg.norm(places - share[..., None] * line, axis=-1) <= radius] = value

    def undo(self) -> None:
        """Take the last stroke back."""
        if self._before:
            number, plane = self._before.pop()
            self.mask[number] = plane
