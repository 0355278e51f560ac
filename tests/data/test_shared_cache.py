"""Cases that are loaded once for all data sets of a process."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from monai.transforms import Compose, Lambdad, Transform
from PIL import Image

from medseglatdiff_monai.data import shared_cache
from medseglatdiff_monai.data.shared_cache import SharedCacheDataset

LOADED: list[str] = []


class Load(Transform):
    """Notes what it reads."""

    def __call__(self, data: dict) -> dict:
        LOADED.append(data["case"])
        return {**data, "image": np.asarray(Image.open(data["image"]), dtype=np.float32)[None]}


@pytest.fixture
def items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    monkeypatch.setattr(shared_cache, "_CACHES", type(shared_cache._CACHES)())
    LOADED.clear()
    found = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        Image.new("L", (4, 4), number).save(path)
        found.append({"image": str(path), "case": f"case-{number}"})
    return found


class Add(Transform):
    """Adds a number to the image."""

    def __init__(self, number: float) -> None:
        self.number = number

    def __call__(self, data: dict) -> dict:
        return {**data, "image": data["image"] + self.number}


def make(items: list[dict], *more: Transform, **options) -> SharedCacheDataset:
    return SharedCacheDataset(
        data=items, transform=Compose([Load(), *more]), copy_cache=False, progress=False, **options
    )


def values(dataset: SharedCacheDataset) -> list[float]:
    return [float(dataset[number]["image"].max()) for number in range(len(dataset))]


def test_a_second_data_set_loads_only_what_is_new(items: list[dict]) -> None:
    assert values(make(items[:3])) == [0, 1, 2]
    assert values(make(items[::-1])) == [3, 2, 1, 0]
    assert sorted(LOADED) == [f"case-{number}" for number in range(4)]


def test_other_transforms_and_changed_files_are_loaded_again(items: list[dict]) -> None:
    make(items)
    assert values(make(items, Add(10))) == [10, 11, 12, 13]
    assert len(LOADED) == 8
    Image.new("L", (4, 4), 77).save(items[0]["image"])
    assert values(make(items))[0] == 77
    assert len(LOADED) == 9


def test_what_cannot_be_compared_is_not_shared(items: list[dict]) -> None:
    doubled = [values(make(items, Lambdad("image", lambda image, factor=factor: image * factor))) for factor in (2, 3)]
    assert doubled == [[0, 2, 4, 6], [0, 3, 6, 9]]


def test_past_the_deadline_cases_are_loaded_when_they_are_asked_for(items: list[dict]) -> None:
    dataset = make(items, deadline=time.monotonic() - 1.0)
    assert LOADED == []
    assert dataset[2]["image"].max() == 2
    assert LOADED == ["case-2"]
    assert values(dataset) == [0, 1, 2, 3]
    assert len(LOADED) == 4


def test_few_preprocessings_are_kept(items: list[dict]) -> None:
    kept = shared_cache.KEPT_PREPROCESSINGS
    for number in range(kept + 1):
        make(items, Add(number))
    assert len(shared_cache._CACHES) == kept
    # The ones that were used last are still there.
    for number in range(1, kept + 1):
        make(items, Add(number))
    assert len(LOADED) == 4 * (kept + 1)
