"""Which image comes next: of those without a label the one on which the samples disagree most."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path


class Queue:
    """The images of a folder.

    Args:
        paths: in the order in which they come while nothing is known of them.
        labelled: those that have a label.
    """

    def __init__(self, paths: Sequence[Path], labelled: Collection[Path] = ()) -> None:
        self.paths = list(paths)
        self.done = set(labelled)
        # Disagreement in [0, 1]; ``None`` where there is none: one sample, or an image that cannot be segmented.
        self.scores: dict[Path, float | None] = {}

    def find_unscored(self) -> Path | None:
        """An image whose disagreement is not known yet."""
        return next((path for path in self.paths if path not in self.done and path not in self.scores), None)

    def choose(self, current: Path | None = None) -> Path | None:
        """The next image, not the current one; ``None`` if no other lacks a label.

        Those whose disagreement is known come first, then the unknown ones, then those without one.
        """
        waiting = [path for path in self.paths if path not in self.done and path != current]
        known = [path for path in waiting if self.scores.get(path) is not None]
        if known:
            return max(known, key=lambda path: self.scores[path] or 0.0)
        return next((path for path in waiting if path not in self.scores), waiting[0] if waiting else None)

    def describe(self) -> str:
        """How far it is: ``"3/12 labelled, 5 ranked"``."""
        ranked = sum(path not in self.done for path, score in self.scores.items() if score is not None)
        return f"{len(self.done)}/{len(self.paths)} labelled, {ranked} ranked"
