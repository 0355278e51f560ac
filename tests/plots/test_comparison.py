"""The comparison shows what it names: raters in the raters' columns, samples in the samples'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseglatdiff_monai.plots import ComparedCase, plot_comparison
from medseglatdiff_monai.plots.comparison import COLUMNS, RATER_COLOURS


def disc(radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:32, :32]
    return np.hypot(rows - 16, columns - 16) < radius


def picture(raters: np.ndarray, samples: np.ndarray, path: Path) -> np.ndarray:
    image = np.zeros((32, 32), np.float32)
    image[0, 0] = 1.0
    plot_comparison([ComparedCase("case", image, raters, samples)], path)
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize(("changed", "columns"), [("raters", (1, 3)), ("samples", (2, 4))])
def test_masks_change_their_own_columns_alone(changed: str, columns: tuple[int, int], tmp_path: Path) -> None:
    masks = {"raters": np.stack([disc(6)] * 4), "samples": np.stack([disc(9)] * 16)}
    first = picture(**masks, path=tmp_path / "first.png")
    masks[changed] = np.zeros_like(masks[changed])
    second = picture(**masks, path=tmp_path / "second.png")
    differs = (first != second).any(axis=(0, 2)).nonzero()[0] / first.shape[1]
    # The columns share the width but for margins at both ends.
    touched = {int((place - 0.025) / 0.94 * len(COLUMNS)) for place in differs}
    assert touched == set(columns)


def test_raters_are_named_in_the_colours_of_their_outlines(tmp_path: Path) -> None:
    masks = {"raters": np.zeros((2, 32, 32), bool), "samples": np.zeros((4, 32, 32), bool)}
    case = ComparedCase("case", np.zeros((32, 32)), **masks)
    heads = []
    for names in ((), ("Anna", "Ben")):
        plot_comparison([case], tmp_path / "named.png", "t", "s", names)
        heads.append(np.asarray(Image.open(tmp_path / "named.png").convert("RGB"))[:60])
    for colour in RATER_COLOURS[:2]:
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        counts = [int((np.abs(head.astype(int) - rgb).max(-1) < 3).sum()) for head in heads]
        assert counts[0] == 0
        assert counts[1] > 20
