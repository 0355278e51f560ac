"""Weights of every version that was ever released from this repository, and what half precision costs."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from record import keep
from small_runs import BUNDLES, LUNG

import medseglatdiff_monai
from medseglatdiff_monai.bundle.folders import bundles_dir
from medseglatdiff_monai.bundle.segmenter import Segmenter, load_segmenter
from medseglatdiff_monai.bundle.trust import TRUST_VARIABLE
from medseglatdiff_monai.predict.image import segment_image

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = "models/model.pt"


def git(*words: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=True).stdout


def find_versions() -> list[tuple[str, str]]:
    """Commit and bundle of the first appearance of every weights file in the history."""
    try:
        shallow = git("rev-parse", "--is-shallow-repository").strip() == b"true"
        commits = git("log", "--reverse", "--format=%H", "--", f"bundles/*/{WEIGHTS}").decode().split()
    except (OSError, subprocess.CalledProcessError):
        return []
    found: dict[str, tuple[str, str]] = {}
    for commit in [] if shallow else commits:
        for line in git("ls-tree", "-r", commit, "bundles").decode().splitlines():
            (_, _, blob), path = line.partition("\t")[0].split(), line.partition("\t")[2]
            if path.endswith(WEIGHTS):
                found.setdefault(blob, (commit, path.split("/")[1]))
    return list(found.values())


def make_image(segmenter: Segmenter) -> MetaTensor:
    """A bright disc, as large as a bundle's crop."""
    rows, columns = np.mgrid[:128, :128]
    disc = 40.0 + 150.0 * (np.hypot(rows - 60, columns - 70) < 14)
    return MetaTensor(torch.tensor(np.stack([disc] * segmenter.in_channels), dtype=torch.float32))


def find_homes() -> dict[str, str]:
    """Where each class and function of the package is now, by its name."""
    package = Path(medseglatdiff_monai.__file__).parent
    homes = {}
    for path in sorted(package.rglob("*.py")):
        module = ".".join((package.name, *path.relative_to(package).with_suffix("").parts))
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                homes[node.name] = f"{module}.{node.name}"
    return homes


@pytest.mark.slow
def test_every_version_in_the_history_loads_with_its_own_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = find_versions()
    if not versions:
        pytest.skip("no git history of the bundles' weights here: git is missing, or the clone is shallow")
    # Their configurations were this package's own, and are not listed any more.
    monkeypatch.setenv(TRUST_VARIABLE, "1")
    # Modules moved before the first release; all else of a configuration is as it was.
    homes, failed = find_homes(), {}
    for commit, name in versions:
        folder = tmp_path / commit[:10]
        with tarfile.open(fileobj=io.BytesIO(git("archive", commit, f"bundles/{name}"))) as tar:
            tar.extractall(folder, filter="data")
        for path in folder.rglob("*.json"):
            text = path.read_text(encoding="utf-8")
            moved = re.sub(r"medseglatdiff_monai(?:\.\w+)*\.(\w+)", lambda m: homes.get(m[1], m[0]), text)
            path.write_text(moved, encoding="utf-8")
        try:
            segmenter = load_segmenter(folder / "bundles" / name, device="cpu", num_samples=2)
            samples = segment_image(segmenter, make_image(segmenter)).samples
            assert samples.shape[0] == 2
            assert samples.any() or name != LUNG
        except Exception as error:
            failed[f"{name} {commit[:10]}"] = f"{type(error).__name__}: {error}"
    keep("versions", "weights of every version in the git history, with its configuration",
         {"loaded, masks sampled": len(versions) - len(failed)}, len(failed))  # fmt: skip
    assert not failed, "\n".join(f"{name}: {error}" for name, error in failed.items())


@torch.no_grad()
def compare_precisions(name: str) -> torch.Tensor:
    """How far each pixel's confidence is from that of float32 weights which round to the shipped ones."""
    segmenter = load_segmenter(name, device="cpu", num_samples=4)
    image = segmenter.preprocessing({"image": make_image(segmenter).numpy()})["image"].as_tensor()[None]
    network = segmenter.network

    def sample() -> torch.Tensor:
        return network.ensemble_logits(image, 16).sigmoid().mean(1)

    shipped = sample()
    generator = torch.Generator().manual_seed(0)
    for value in network.state_dict().values():
        if value.is_floating_point():
            half = value.half()
            step = (torch.nextafter(half.abs(), torch.tensor(torch.inf, dtype=torch.float16)) - half.abs()).float()
            moved = value + step * (torch.rand(value.shape, generator=generator) - 0.5) * 0.98
            value.copy_(torch.where(moved.half() == half, moved, value))
    return (sample() - shipped).abs().flatten()


def test_half_precision_of_a_bundle() -> None:
    assert 0.0 < compare_precisions(LUNG).max() < 5e-3


@pytest.mark.slow
def test_half_precision_of_all_bundles() -> None:
    """A pixel at a sharp edge may differ more, up to what one of sixteen samples weighs."""
    found = {name: compare_precisions(name) for name in BUNDLES if (bundles_dir() / name / WEIGHTS).is_file()}
    wrong = {
        name: (float(value.quantile(0.99)), float(value.max())) for name, value in found.items()
        if not (0.0 < value.quantile(0.99) < 5e-3 and value.max() < 1 / 16)
    }  # fmt: skip
    most, worst = (max(float(value.quantile(q)) for value in found.values()) for q in (0.99, 1.0))
    said = f"confidences differ by up to {most:.1e} in 99% of the pixels, {worst:.1e} at worst"
    title = "weights in half precision against float32 weights that round to them"
    keep("half", title, {said: len(found) - len(wrong)}, len(wrong))
    assert not wrong
