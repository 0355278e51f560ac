"""Pictures of 8 to 1024 pixels a side, networks as large, and 1 to 500 samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from record import keep
from small_runs import SKIN, write_small_bundle

from medseglatdiff_monai.bundle.segmenter import load_segmenter
from medseglatdiff_monai.ensemble import SamplingSettings
from medseglatdiff_monai.io import open_input
from medseglatdiff_monai.predict.image import segment_image


@pytest.fixture(scope="module")
def skin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("sizes") / SKIN, SKIN)


def try_sizes(
    bundles: dict[int, Path], folder: Path, sides: list[tuple[int, int]], network: list[int], numbers: list[int]
) -> int:
    """Sample masks of pictures (C, rows, columns); returns how many."""
    count = 0
    for channels, bundle in bundles.items():
        for image_size in network:
            segmenter = load_segmenter(bundle, image_size=image_size)
            for rows, columns in sides:
                noise = np.random.default_rng(rows).integers(0, 256, (rows, columns, channels), dtype=np.uint8)
                path = folder / f"{channels}.png"
                Image.fromarray(noise if channels == 3 else noise[..., 0]).save(path)
                for number in numbers:
                    sampling = SamplingSettings(num_samples=number, num_inference_steps=1)
                    found = segment_image(segmenter, open_input(path, channels), sampling)
                    assert found.samples.shape == (number, rows, columns)
                    np.testing.assert_allclose(found.confidence, found.samples.mean(0), atol=1e-6)
                    count += 1
    return count


SIDES = [(8, 8), (9, 13), (64, 64), (1, 200), (128, 127)]


def test_sizes(lung: Path, skin: Path, tmp_path: Path) -> None:
    assert try_sizes({1: lung, 3: skin}, tmp_path, SIDES, [64], [1, 3]) == 20
    assert try_sizes({1: lung}, tmp_path, [(8, 8)], [16, 32], [1, 70]) == 4


@pytest.mark.slow
def test_all_sizes(lung: Path, skin: Path, tmp_path: Path) -> None:
    bundles = {1: lung, 3: skin}
    count = try_sizes(bundles, tmp_path, [*SIDES, (513, 300), (1024, 1024)], [64], [1, 2, 16])
    count += try_sizes(bundles, tmp_path, [(8, 8), (64, 64), (256, 256)], [64], [64, 65, 500])
    count += try_sizes(bundles, tmp_path, [(8, 8), (200, 300), (1024, 1024)], [16, 128, 512, 1024], [1, 3])
    keep(
        "sizes",
        "pictures of 8² to 1024² pixels, networks of 16² to 1024², 1 to 500 samples",
        {"masks of the picture's size": count},
    )
