"""The package's distributions, built from a copy of the clone as pip would build them, and installed by themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from medseglatdiff_monai.bundle.folders import BUNDLES_VARIABLE

ROOT = Path(__file__).resolve().parents[1]
UNTRACKED = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist")


def call(*words: object, cwd: Path | None = None) -> str:
    """Standard output of Python with these arguments."""
    done = subprocess.run([sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(kind: str, source: Path, output: Path) -> Path:
    """Build an ``sdist`` or a ``wheel`` with the setuptools that is installed here; returns the file."""
    output.mkdir(parents=True, exist_ok=True)
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(output)!r}))"
    return output / call("-c", code, cwd=source).splitlines()[-1]


def copy_source(folder: Path) -> Path:
    """Copy what the wheels are built from: setuptools leaves files beside it."""
    for name in ("medseglatdiff_monai", "configs", "bundles"):
        shutil.copytree(ROOT / name, folder / name, ignore=UNTRACKED)
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, folder / name)
    return folder


def build_wheels(source: Path) -> list[Path]:
    """The package's wheel and that of its bundles, from :func:`copy_source`."""
    return [build("wheel", folder, source / "dist") for folder in (source, source / "bundles")]


def clean_environment() -> dict[str, str]:
    """The variables of this process without those that lead to the clone."""
    return {name: text for name, text in os.environ.items() if name not in ("PYTHONPATH", BUNDLES_VARIABLE)}


def install(wheels: list[Path], folder: Path) -> dict[str, str]:
    """Install wheels into a new virtual environment, which finds other packages in this one; returns its variables."""
    call("-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    call("-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", *wheels)
    place = sysconfig.get_path("purelib", vars={"base": str(folder)})
    # Only what lies there, and none of its .pth files: one of them may lead to the clone.
    Path(place, "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return {**clean_environment(), "PATH": os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])}
