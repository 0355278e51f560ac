"""Requirements by use: what the extras have, and that inference does without them."""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image
from small_runs import LUNG, write_prepared, write_small_bundle

from medseglatdiff_monai import extras
from medseglatdiff_monai.bundle.config import Bundle
from medseglatdiff_monai.data.prepare import prepare
from medseglatdiff_monai.ensemble.arguments import check_fusion_name
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.extras import EXTRAS, Extra, install_command, require
from medseglatdiff_monai.integrations.export.export import export
from medseglatdiff_monai.integrations.mlflow.register import register
from medseglatdiff_monai.suites.command import run_suite
from medseglatdiff_monai.training.run import check_tracking, train

ROOT = Path(__file__).resolve().parents[1]
# Those that are no user's, and the one that joins the others.
OTHERS = {"all", "docs", "test"}
# Runs commands where some top-level modules cannot be found; in one process, since a start takes seconds.
ALONE = """
import json, sys
from importlib.machinery import PathFinder
hidden, commands = map(json.loads, sys.argv[1:3])
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name.partition(".")[0] in hidden else find(name, *more)
from medseglatdiff_monai.cli import main
for sys.argv[1:] in commands:
    main()
"""


def read_setup() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """What the package requires, and its extras."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")

    def read(text: str) -> list[Requirement]:
        return [Requirement(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]

    return read(setup["options"]["install_requires"]), {
        name: read(text) for name, text in setup["options.extras_require"].items()
    }


def closure(requirements: list[Requirement]) -> set[str]:
    """Names of the distributions that are installed with these."""
    found: set[str] = set()
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        if canonicalize_name(requirement.name) in found:
            continue
        try:
            inner = importlib.metadata.requires(requirement.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(canonicalize_name(requirement.name))
        markers = [{"extra": extra} for extra in ("", *requirement.extras)]
        waiting += [
            one for one in map(Requirement, inner)
            if one.marker is None or any(one.marker.evaluate(marker) for marker in markers)
        ]  # fmt: skip
    return found


def test_table_is_that_of_the_packaging_metadata() -> None:
    required, listed = read_setup()
    assert set(EXTRAS) == set(listed) - OTHERS
    joined = next(one for one in listed["all"] if one.name == "medseglatdiff_monai")
    assert joined.extras == set(EXTRAS)
    base = {canonicalize_name(one.name) for one in required}
    distributions = importlib.metadata.packages_distributions()
    for name, extra in EXTRAS.items():
        own = {canonicalize_name(one.name) for one in listed[name]}
        assert not own & base
        for module in extra.modules:
            found = {canonicalize_name(one) for one in distributions.get(module, [])}
            assert not found or found & own, f"{module} is not of the extra {name!r}"


def test_inference_needs_few_packages() -> None:
    """70 at most, of which torch's CUDA build has some 20."""
    names = closure(read_setup()[0])
    assert {"torch", "monai", "itk-core"} <= names
    assert len(names) <= 50
    assert not {"mlflow", "pylidc", "statsmodels", "pandas", "simpleitk", "scikit-image", "sqlalchemy"} & names


@pytest.mark.integration
def test_predict_and_report_without_the_extras(series: Path, tmp_path: Path) -> None:
    """On a picture and on a DICOM series, where all other distributions of this environment are hidden."""
    bundle = write_small_bundle(tmp_path / LUNG, num_samples=3)
    picture = tmp_path / "one.png"
    Image.new("L", (64, 64), 90).save(picture)
    kept = closure(read_setup()[0]) | {"medseglatdiff-monai", "pip", "setuptools"}
    hidden = [
        module for module, owners in importlib.metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & kept
    ]  # fmt: skip
    assert {"mlflow", "pandas", "pylidc"} & set(hidden)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    output = tmp_path / "out"
    commands = [
        ["predict", bundle, picture, "--output-dir", output],
        ["predict", bundle, series, "--index=30,30,3", "--slices=1", "--output-dir", output],
        ["report", output],
    ]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, json.dumps(hidden), json.dumps(commands, default=str)],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {"one_consensus.png", "series_consensus.nii.gz", "report.html"} <= {path.name for path in output.iterdir()}


@pytest.fixture
def no_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Extra, "is_installed", lambda self: False)


@pytest.mark.usefixtures("no_extras")
def test_a_command_names_the_extra_that_it_misses(tmp_path: Path) -> None:
    data = write_prepared(tmp_path / "data", LUNG, training=1, validation=1)
    calls = {
        "train": lambda: train(LUNG, data, output_dir=tmp_path / "run"),
        "benchmark": lambda: run_suite("ambiguity", data, tmp_path / "suite", bundle=LUNG),
        "lidc": lambda: prepare("phantom", output_dir=tmp_path / "phantom"),
        "onnx": lambda: export(LUNG, "onnx", output_dir=tmp_path / "onnx"),
        "staple": lambda: check_fusion_name("staple"),
    }
    for extra, call in calls.items():
        with pytest.raises(InputError, match=re.escape(install_command(extra))) as caught:
            call()
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(InputError, match=re.escape(install_command("train"))):
        register(LUNG, f"sqlite:///{tmp_path}/m.db")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    check_fusion_name("mean")


@pytest.mark.usefixtures("no_extras")
def test_training_without_a_record_needs_no_mlflow() -> None:
    opened = Bundle(LUNG)
    with pytest.raises(InputError, match="--tracking_uri false"):
        check_tracking(opened, {})
    check_tracking(opened, {"tracking_uri": False})


def test_require(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras.EXTRAS, "mine", Extra("mine", ("json", "no_such_module_1")))
    with pytest.raises(InputError) as caught:
        require("mine", "It", "Or leave it.")
    assert str(caught.value) == (
        "It needs json and no_such_module_1, expected with the extra 'mine': "
        "pip install 'medseglatdiff_monai[mine]'. Or leave it."
    )
    monkeypatch.setitem(extras.EXTRAS, "mine", Extra("mine", ("json",)))
    require("mine", "It")


def test_the_page_lists_every_extra() -> None:
    page = (ROOT / "docs" / "how-to" / "install.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == {*EXTRAS, "all"}
