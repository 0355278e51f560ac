"""Independent loops over NumPy masks against which the metrics are checked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture
def loop_iou() -> Callable[[np.ndarray, np.ndarray], float]:
    def iou(a: np.ndarray, b: np.ndarray) -> float:
        union = np.logical_or(a, b).sum()
        return 1.0 if union == 0 else float(np.logical_and(a, b).sum() / union)

    return iou


@pytest.fixture
def random_case() -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """A batch of three cases with 1-6 samples, 1-4 raters, a third of all masks empty, in 2D or 3D."""

    def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        spatial = (5, 7) if seed % 2 else (3, 4, 5)
        stacks = []
        for count in (rng.integers(1, 7), rng.integers(1, 5)):
            masks = rng.random((3, count, *spatial)) < rng.random((3, count, *[1] * len(spatial)))
            masks[rng.random((3, count)) < 1 / 3] = False
            stacks.append(masks)
        return stacks[0], stacks[1]

    return draw
