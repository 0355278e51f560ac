"""The bundles pass the steps of the model zoo's CI, in processes that do not have this package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import BUNDLES

from medseglatdiff_monai.bundle.folders import bundles_dir
from medseglatdiff_monai.bundle.pack import pack
from medseglatdiff_monai.bundle.zoo import OF_TRAINING

pytestmark = pytest.mark.integration

HERE = Path(__file__).parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLES)
def test_zoo_steps_pass(name: str, tmp_path: Path) -> None:
    models = tmp_path / "models"
    pack(name, models / name, format="zoo")
    steps = [sys.executable, HERE / "zoo_steps.py", models, name, HERE.parent / "metadata_schema.json"]
    done = subprocess.run([str(word) for word in steps], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 7: run_unit_test passed" in done.stdout


@pytest.mark.parametrize("python", PYTHONS)
def test_requirements_resolve(python: str, tmp_path: Path) -> None:
    """As ``ci/get_bundle_requirements.py`` of the zoo writes them down; pip asks the package index."""
    if os.environ.get("MEDSEGLATDIFF_ENVIRONMENTS") != "1":
        pytest.skip("asks the package index: set MEDSEGLATDIFF_ENVIRONMENTS=1")
    requirements = set()
    for name in BUNDLES:
        metadata = json.loads((bundles_dir() / name / "configs" / "metadata.json").read_text())
        required = {
            key: value for key, value in metadata["required_packages_version"].items() if key not in OF_TRAINING
        }
        own = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
        required |= {package: metadata[key] for package, key in own.items()}
        requirements |= {f"{package}=={version}" for package, version in required.items()}
    platforms = [f"--platform=manylinux{tag}_x86_64" for tag in ("_2_28", "_2_17", "2014")]
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed",
            "--only-binary=:all:", f"--python-version={python}", *platforms, f"--target={tmp_path}", *requirements,
        ],
        check=True, timeout=1200,
    )  # fmt: skip
