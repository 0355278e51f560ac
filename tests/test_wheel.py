"""The distributions hold what they should, and their commands work where nothing is known of the clone."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from small_runs import BUNDLES

from medseglatdiff_monai import cli

pytestmark = pytest.mark.integration
pytest.importorskip("setuptools", reason="setuptools, which builds the distributions, is not installed")

from distributions import ROOT, build, build_wheels, clean_environment, copy_source, install  # noqa: E402

# One process for all: a start takes a third of a second.
SCRIPT = """
import contextlib, io, json, sys
from medseglatdiff_monai.cli import main
printed = {}
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    with contextlib.redirect_stdout(io.StringIO()) as text:
        main()
    printed[" ".join(words)] = text.getvalue()
print(json.dumps(printed))
"""


def files_of(folder: Path) -> set[str]:
    found = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {path.as_posix() for path in found if not {"__pycache__", "build"} & {*path.parts}}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def wheels(source: Path) -> list[Path]:
    return build_wheels(source)


@pytest.fixture(scope="module")
def site(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages with these two."""
    folder = tmp_path_factory.mktemp("site")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder


def run(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with nothing of the clone on its path."""
    environment = {**clean_environment(), "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_wheel_holds_the_package_and_its_configurations(site: Path) -> None:
    found = files_of(site / "medseglatdiff_monai")
    assert found == files_of(ROOT / "medseglatdiff_monai") | {f"configs/{name}" for name in files_of(ROOT / "configs")}
    for needed in ("configs/suites/ambiguity.json", "predict/report.html", "suites/report.html.j2", "io/__init__.pyi"):
        assert needed in found
    assert {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")} == {
        "medseglatdiff_monai", "medseglatdiff_monai_bundles",
    }  # fmt: skip


@pytest.mark.parametrize("name", BUNDLES)
def test_the_other_wheel_holds_the_bundles(name: str, site: Path) -> None:
    """Of the weights only those that are shipped; nothing of runs that were started in a bundle's folder."""
    here = files_of(ROOT / "bundles" / name)
    expected = {file for file in here if file == "LICENSE" or file.startswith(("configs/", "docs/"))}
    assert files_of(site / "medseglatdiff_monai_bundles" / name) == expected | ({"models/model.pt"} & here)


def test_a_second_build_leaves_nothing_of_the_first(source: Path, wheels: list[Path], tmp_path: Path) -> None:
    """A configuration that is gone is gone, though setuptools keeps its folder ``build``."""
    gone = source / "configs" / "suites" / "calibration.json"
    kept = gone.read_text()
    gone.unlink()
    try:
        with zipfile.ZipFile(build("wheel", source, tmp_path)) as archive:
            names = archive.namelist()
    finally:
        gone.write_text(kept)
    assert "medseglatdiff_monai/configs/suites/ambiguity.json" in names
    assert "medseglatdiff_monai/configs/suites/calibration.json" not in names


def test_commands_work_in_an_empty_folder(site: Path, tmp_path: Path) -> None:
    words = [["--help"], ["--version"], ["bundles"], ["bundles", BUNDLES[0]], ["experiments"], ["suites"]]
    words += [["info", "--json"], *([name, "--help"] for name in cli.COMMANDS)]
    done = run(site, tmp_path, "-c", SCRIPT, json.dumps(words))
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert {line.split()[0] for line in printed["bundles"].splitlines()} == set(BUNDLES)
    assert printed[f"bundles {BUNDLES[0]}"] == f"{site / 'medseglatdiff_monai_bundles' / BUNDLES[0]}\n"
    assert "nnunet " in printed["experiments"]
    assert "ambiguity " in printed["suites"]
    found = json.loads(printed["info --json"])
    assert found["folder"] == str(site / "medseglatdiff_monai")
    assert {name: bundle["folder"] for name, bundle in found["bundles"].items()} == {
        name: str(site / "medseglatdiff_monai_bundles" / name) for name in BUNDLES
    }
    assert {bundle["weights"] for bundle in found["bundles"].values()} <= {"weights", "no weights"}
    assert list(tmp_path.iterdir()) == []


def test_rebuilding_the_bundles_is_for_maintainers(site: Path, tmp_path: Path) -> None:
    done = run(site, tmp_path, "-m", "medseglatdiff_monai.bundle")
    assert done.returncode == 1
    assert "This is for maintainers" in done.stderr


def test_an_installation_knows_nothing_of_the_clone(wheels: list[Path], tmp_path: Path) -> None:
    """What the README's commands are run with in test_documented_commands.py."""
    environment = install(wheels, tmp_path / "environment")
    done = subprocess.run(
        ["medseglatdiff", "bundles", BUNDLES[0]], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "environment") in done.stdout


def test_source_distribution_is_the_repository(tmp_path: Path) -> None:
    """Every tracked file is in it."""
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("no git repository")
    tracked = {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    for name in tracked:
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).symlink_to(ROOT / name)
    with tarfile.open(build("sdist", tmp_path / "source", tmp_path / "dist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert tracked <= names
