"""Bundles, runs, prepared folders, archives and weights of somebody else: used as they are, or refused by name."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import bad_inputs
import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from bad_inputs import Input, json_texts, mutations
from judge import Reading, try_all
from small_runs import LUNG, write_prepared

from medseglatdiff_monai.bundle import Bundle
from medseglatdiff_monai.bundle.check import check_bundle
from medseglatdiff_monai.bundle.segmenter import load_segmenter
from medseglatdiff_monai.data.datalist import load_datalist, load_dataset_info
from medseglatdiff_monai.data.prepare import prepare
from medseglatdiff_monai.data.splits import SPLITS
from medseglatdiff_monai.io.prepared import LoadCase
from medseglatdiff_monai.networks.weights import load_tensors
from medseglatdiff_monai.training.record import TrainingRecord


def write_beside(folder: Path, content: bytes, whole: Path, name: str) -> Path:
    """A folder like `whole`, in which one file has other content."""
    shutil.copytree(whole, folder, dirs_exist_ok=True, copy_function=os.link)
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def json_inputs(whole: Path, name: str, number: int) -> Iterator[Input]:
    for what, content in json_texts(json.loads((whole / name).read_text()), number):
        yield Input(f"{name}: {what}", partial(write_beside, content=content, whole=whole, name=name))


def as_text(value: object) -> Reading:
    return [np.array([json.dumps(value, sort_keys=True)])]


# -- prepared folders --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("prepared") / "data", LUNG, training=2, validation=1)


def read_lists(path: Path) -> Reading:
    """Cases and images of all parts."""
    info = load_dataset_info(path.parent)
    items = [item for part in SPLITS if info.get(part) for item in load_datalist(path.parent, part)]
    return as_text([[item["case"], item["image"]] for item in items])


def read_lists_by_json(path: Path) -> Reading:
    info = json.loads(path.read_bytes())
    items = [item for part in SPLITS for item in info.get(part, [])]
    return as_text([[item["case"], str(path.parent / item["image"])] for item in items])


def try_lists(prepared: Path, tmp_path: Path, number: int) -> None:
    inputs = json_inputs(prepared, "dataset.json", number)
    try_all("dataset", inputs, tmp_path, read_lists, read_lists_by_json, "dataset.json: values, case ids, bytes")


def test_datalists(prepared: Path, tmp_path: Path) -> None:
    try_lists(prepared, tmp_path, 100)


@pytest.mark.slow
def test_all_datalists(prepared: Path, tmp_path: Path) -> None:
    try_lists(prepared, tmp_path, 3000)


def read_prepared(path: Path) -> Reading:
    return [LoadCase(is_label=path.name.endswith(".gz"))(path).numpy()]


def read_prepared_otherwise(path: Path) -> Reading:
    if path.name.endswith(".gz"):
        image = nibabel.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes()))
        return [np.moveaxis(np.asarray(image.dataobj).astype(np.uint8), -1, 0)]
    return [SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[None].astype(np.float32)]


def try_prepared(prepared: Path, tmp_path: Path, number: int) -> None:
    inputs = [
        entry
        for name in ("images/case-0.png", "masks/case-0.nii.gz")
        for entry in mutations(Path(name).name, (prepared / name).read_bytes(), number)
    ]
    title = "images and masks of a prepared folder: bytes"
    try_all("prepared", inputs, tmp_path, read_prepared, read_prepared_otherwise, title)


def test_prepared_files(prepared: Path, tmp_path: Path) -> None:
    try_prepared(prepared, tmp_path, 60)


@pytest.mark.slow
def test_all_prepared_files(prepared: Path, tmp_path: Path) -> None:
    try_prepared(prepared, tmp_path, 2000)


# -- archives ----------------------------------------------------------------------------------------------------------


def read_archive(path: Path) -> Reading:
    prepare("folder", path, output_dir=path.parent / "out", group_pattern=".+", ratios="1:1:1", workers=1)
    evil = [name for name in ("evil.png", "tmp/medseglatdiff-evil.png") if (Path("/") / name).exists()]
    assert not evil
    images = sorted((path.parent / "out" / "images").iterdir())
    return [np.stack([SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(image))) for image in images])]


def read_archive_by_hand(path: Path) -> Reading:
    """All that an archive can hold are the three pictures of `archive_inputs`."""
    expected = bad_inputs.make_picture(channels=1)[..., 0]
    number = len(list((path.parent / "out" / "images").iterdir()))
    return [np.stack([expected] * number)]


def try_archives(tmp_path: Path, step: int, number: int) -> None:
    inputs = islice(bad_inputs.archive_inputs(number), 0, None, step)
    title = "archives given to prepare: members that leave the folder, bytes"
    try_all("archives", inputs, tmp_path, read_archive, read_archive_by_hand, title)


def test_archives(tmp_path: Path) -> None:
    try_archives(tmp_path, step=1, number=10)


@pytest.mark.slow
def test_all_archives(tmp_path: Path) -> None:
    try_archives(tmp_path, step=1, number=300)


# -- bundles and runs --------------------------------------------------------------------------------------------------


def read_bundle(path: Path) -> Reading:
    """Whatever a bundle's or run's JSON files are read for, until masks could be sampled."""
    root = path.parent if path.name == "training.json" else path.parent.parent
    check_bundle(root)
    Bundle(root).training_command  # noqa: B018
    TrainingRecord(root, None, root).add("train", 1, 0.1)
    load_segmenter(root)
    return []


def nothing(path: Path) -> Reading:
    """A configuration of other values is another configuration: there is nothing to compare."""
    return []


@pytest.fixture(scope="module")
def run(lung: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle with what a training leaves."""
    root = shutil.copytree(lung, tmp_path_factory.mktemp("runs") / "run")
    (root / "dataset.json").write_text("{}")
    TrainingRecord(root, 1.0, root).add("train", 10, 0.5)
    return root


def try_bundles(run: Path, tmp_path: Path, number: int) -> None:
    inputs = [
        entry
        for name in ("configs/inference.json", "configs/metadata.json", "training.json")
        for entry in json_inputs(run, name, number)
    ]
    keys = json.loads((run / "configs" / "inference.json").read_text()).keys()
    title = "configurations, metadata and records of bundles and runs"
    try_all("bundles", inputs, tmp_path, read_bundle, nothing, title, keys)


def test_bundles(run: Path, tmp_path: Path) -> None:
    try_bundles(run, tmp_path, 15)


@pytest.mark.slow
def test_all_bundles(run: Path, tmp_path: Path) -> None:
    try_bundles(run, tmp_path, 400)


# -- weights -----------------------------------------------------------------------------------------------------------


def read_weights(path: Path) -> Reading:
    return [value.float().numpy() for _, value in sorted(load_tensors(path).items())]


def try_weights(lung: Path, tmp_path: Path, number: int) -> None:
    whole = lung / "models" / "model.pt"
    expected = [value.float().numpy() for _, value in sorted(torch.load(whole, weights_only=True).items())]
    inputs = mutations("model.pt", whole.read_bytes(), number)
    try_all("weights", inputs, tmp_path, read_weights, lambda path: expected, "weights: bytes")


def test_weights(lung: Path, tmp_path: Path) -> None:
    try_weights(lung, tmp_path, 40)


@pytest.mark.slow
def test_all_weights(lung: Path, tmp_path: Path) -> None:
    try_weights(lung, tmp_path, 1000)
