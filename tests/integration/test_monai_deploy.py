"""MONAI Deploy's MonaiBundleInferenceOperator runs the lung bundle's folder, in an environment of its own.

The environment takes about 2.5 minutes and some GB: it is built where MEDSEGLATDIFF_ENVIRONMENTS=1, and removed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medseglatdiff_monai.bundle.folders import bundles_dir
from medseglatdiff_monai.bundle.segmenter import load_segmenter
from medseglatdiff_monai.predict.image import segment_image

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
LUNG = "lung_nodule_ct_latent_diffusion"
SDK = "monai-deploy-app-sdk==4.0.0"


@pytest.fixture(scope="module")
def deploy_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Interpreter with the SDK; MEDSEGLATDIFF_DEPLOY_PYTHON names one that is there already."""
    if given := os.environ.get("MEDSEGLATDIFF_DEPLOY_PYTHON"):
        yield Path(given)
        return
    if os.environ.get("MEDSEGLATDIFF_ENVIRONMENTS") != "1":
        pytest.skip(f"builds an environment of some GB with {SDK}: set MEDSEGLATDIFF_ENVIRONMENTS=1")
    folder = tmp_path_factory.mktemp("deploy") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    packages = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})["purelib"]
    # torch and the rest come from the tests' own environment; the SDK's own packages take precedence. The name sorts
    # before holoscan's .pth, which imports filelock from there.
    (Path(packages) / "_tests_environment.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    try:
        install = [python, "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, SDK], check=True, timeout=1200)
        # monai.deploy lies inside the folder of the package monai: both must be in one place.
        subprocess.run([*install, "--no-deps", "--ignore-installed", "monai==1.6.1"], check=True, timeout=300)
        yield python
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_operator_draws_the_masks_of_the_bundle(deploy_python: Path, tmp_path: Path) -> None:
    rows, columns = np.mgrid[:128, :128]
    image = np.random.default_rng(0).normal(60, 15, (1, 128, 128)).astype(np.float32)
    image += 120 * (np.hypot(rows - 62, columns - 66) < 12)
    np.save(tmp_path / "image.npy", image)
    bundle = shutil.copytree(bundles_dir() / LUNG, tmp_path / LUNG)
    application = Path(__file__).with_name("deploy_app.py")
    done = subprocess.run(
        # Holoscan wants a larger stack than Linux gives by default.
        f'ulimit -s 32768 && exec "{deploy_python}" "{application}" "{bundle}" image.npy mask.npy',
        shell=True, executable="/bin/bash", cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    segmenter = load_segmenter(LUNG, device="cpu")
    expected = segment_image(segmenter, MetaTensor(torch.from_numpy(image))).consensus()
    found = np.load(tmp_path / "mask.npy")
    assert expected.any()
    np.testing.assert_array_equal(found.astype(bool), expected)
