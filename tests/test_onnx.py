"""ONNX exports draw the bundle's own masks, in a process that has neither torch nor MONAI."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import onnx_export
from small_runs import LUNG, write_small_bundle

from medseglatdiff_monai.bundle.segmenter import load_segmenter
from medseglatdiff_monai.diffusion import DiffusionProcess, sample
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.integrations.export.onnx_runner import (
    OnnxSegmenter,
    direct_timesteps,
    draw_noise,
    sampling_timesteps,
    solve,
    solve_directly,
    torch_normal,
)
from medseglatdiff_monai.networks import draw_sample_noise

# Runs the copy that lies in the export's folder, under an import system that refuses the package and its libraries.
ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "monai", "medseglatdiff_monai"):
            raise ImportError(f"{name} was imported")
sys.meta_path.insert(0, Refuse())
folder, images, output = sys.argv[1:]
sys.path.insert(0, folder)
import numpy as np
from onnx_runner import OnnxSegmenter
result = OnnxSegmenter(folder, threads=1)(np.load(images), num_samples=6, seed=3, cases=["a", "b"])
np.savez(output, **result)
"""


def export(*arguments, **overrides) -> Path:
    pytest.importorskip("onnxscript", reason="the extra [onnx] is not installed")
    pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    from medseglatdiff_monai.integrations.export.onnx import export_onnx

    return export_onnx(*arguments, **overrides)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("bundle") / "lung")


@pytest.fixture(scope="module")
def exported(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(bundle, tmp_path_factory.mktemp("exported"), num_samples=3)


@pytest.mark.parametrize("size", [16, 17, 31, 32, 100, 2048])
@pytest.mark.parametrize("seed", [0, 5, 2**40 + 7, 2**62 + 1])
def test_noise_without_torch_is_that_of_torch(seed: int, size: int) -> None:
    expected = torch.randn(size, generator=torch.Generator().manual_seed(seed)).numpy()
    np.testing.assert_allclose(torch_normal(seed, size), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", [(4, 8, 8), (3, 4, 6)])
def test_noise_belongs_to_seed_case_and_sample(shape: tuple[int, ...]) -> None:
    found = draw_noise(shape, 5, seed=7, case="scan-1")
    for number in range(5):
        expected = draw_sample_noise(shape, 7, "scan-1", number).numpy()
        np.testing.assert_allclose(found[number], expected, rtol=0, atol=2e-6)
    with pytest.raises(ValueError, match="at least 16"):
        torch_normal(0, 15)


def test_noise_of_several_passes() -> None:
    found = draw_noise((4, 8, 8), 2, seed=7, case="scan-1", passes=3)
    assert found.shape == (2, 12, 8, 8)
    for sample_index in range(2):
        expected = torch.cat([draw_sample_noise((4, 8, 8), 7, "scan-1", sample_index, p) for p in range(3)])
        np.testing.assert_allclose(found[sample_index], expected.numpy(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
@pytest.mark.parametrize("passes", [1, 3])
def test_direct_passes_are_those_of_the_bundle(prediction_type: str, passes: int) -> None:
    process = DiffusionProcess(prediction_type=prediction_type)
    noise = np.random.default_rng(0).standard_normal((2, 3 * passes, 4, 4)).astype(np.float32)
    expected = sample(
        lambda z, t: 0.3 * z + t.view(-1, 1, 1, 1) / 1000, torch.from_numpy(noise), process, passes, "direct",
        noise_scale=0.7, common_noise=True,
    )  # fmt: skip
    timesteps = direct_timesteps(1000, passes)
    assert timesteps == process.direct_timesteps(passes)
    found = solve_directly(
        lambda z, t: 0.3 * z + t[0] / 1000,
        noise,
        process.alpha_bar.double().numpy(),
        timesteps,
        prediction_type,
        0.7,
        True,
    )
    np.testing.assert_allclose(found, expected.numpy(), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("sampler", ["dpm++", "ddim"])
@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
@pytest.mark.parametrize(("power", "last"), [(1.0, 0), (2.0, 250)])
def test_steps_are_those_of_the_bundle(prediction_type: str, sampler: str, power: float, last: int) -> None:
    """With a linear stand-in for the network."""
    process = DiffusionProcess(
        schedule="linear_beta", prediction_type=prediction_type, timestep_power=power, last_timestep=last
    )
    noise = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    expected = sample(lambda z, t: 0.3 * z + t.view(-1, 1, 1, 1) / 1000, torch.from_numpy(noise), process, 7, sampler)
    timesteps = sampling_timesteps(1000, 7, power, last)
    assert timesteps == process.sampling_timesteps(7)
    found = solve(
        lambda z, t: 0.3 * z + t[0] / 1000, noise, process.alpha_bar.double().numpy(), timesteps, prediction_type,
        second_order=sampler == "dpm++",
    )  # fmt: skip
    np.testing.assert_allclose(found, expected.numpy(), rtol=2e-4, atol=2e-4)


def test_monais_own_export_gives_the_bundles_confidence_map(bundle: Path, tmp_path: Path) -> None:
    """One file of image → confidence map: the noise of the bundle's seed is a constant in it."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    pytest.importorskip("onnxscript", reason="the extra [onnx] is not installed")
    files = {"ckpt_file": bundle / "models" / "model.pt", "meta_file": bundle / "configs" / "metadata.json"}
    files |= {"config_file": bundle / "configs" / "inference.json", "filepath": tmp_path / "model.onnx"}
    segmenter = load_segmenter(bundle, device="cpu", num_samples=3)
    shape = [1, segmenter.in_channels, *segmenter.image_size]
    onnx_export("network_def", **{key: str(file) for key, file in files.items()}, input_shape=shape, num_samples=3)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = segmenter.network(image)
    for _ in range(2):
        (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        # A pixel whose logit is almost 0 may fall on the other side.
        assert (np.abs(found - expected.numpy()) > 1e-6).mean() < 1e-3
    assert expected.unique().numel() > 2


@pytest.mark.parametrize("steps", [0, 1001])
def test_steps_out_of_range_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=r"\[1, 1000\]"):
        sampling_timesteps(1000, steps, 1.0, 0)


@pytest.mark.integration
def test_runs_without_torch_and_gives_the_same_confidence(bundle: Path, exported: Path, tmp_path: Path) -> None:
    image = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "image.npy", image.numpy())
    subprocess.run(
        [sys.executable, "-c", ALONE, exported, tmp_path / "image.npy", tmp_path / "result.npz"],
        check=True, cwd=tmp_path, timeout=120,
    )  # fmt: skip
    segmenter = load_segmenter(bundle, device="cpu", num_samples=6, seed=3)
    expected = segmenter.inferer(image, segmenter.network, cases=["a", "b"])
    with np.load(tmp_path / "result.npz") as found:
        for name in ("confidence_map", "consensus_mask", "samples"):
            assert found[name].dtype == expected[name].numpy().dtype
            np.testing.assert_allclose(found[name], expected[name].numpy(), rtol=0, atol=1e-3)
        assert len(np.unique(found["confidence_map"])) > 2
        assert not np.array_equal(found["samples"][0], found["samples"][1])


@pytest.mark.integration
def test_shipped_bundle_gives_the_same_confidence(tmp_path: Path) -> None:
    folder = export(LUNG, tmp_path / "onnx")
    rows, columns = np.mgrid[:64, :64]
    image = np.random.default_rng(0).normal(0.2, 0.03, (3, 1, 64, 64))
    for number, radius in enumerate((5, 9, 14)):
        image[number, 0] += 0.5 / (1 + np.exp(np.hypot(rows - 32, columns - 30) - radius))
    image = image.clip(0, 1).astype(np.float32)
    segmenter = load_segmenter(LUNG, device="cpu", num_samples=8)
    noise = torch.randn(3, 8, *segmenter.network.latent_shape(torch.from_numpy(image)))
    with torch.no_grad():
        expected = segmenter.network(torch.from_numpy(image), noise).numpy()
    found = OnnxSegmenter(folder, threads=1)(image, noise=noise.numpy())
    assert 0 < expected.mean() < 1
    np.testing.assert_allclose(found["confidence_map"], expected, rtol=0, atol=1e-3)
    # The same masks without noise from torch.
    expected_ensemble = segmenter.inferer(torch.from_numpy(image), segmenter.network)
    drawn = OnnxSegmenter(folder, threads=1)(image, num_samples=8)
    np.testing.assert_allclose(drawn["confidence_map"], expected_ensemble["confidence_map"].numpy(), rtol=0, atol=1e-3)
    assert json.loads((folder / "sampling.json").read_text())["weights_sha256"] == segmenter.weights_sha256


def test_defaults_of_an_export_are_the_bundles(exported: Path) -> None:
    assert OnnxSegmenter(exported)(np.zeros((1, 1, 64, 64), np.float32))["samples"].shape == (1, 3, 64, 64)


def test_input_that_does_not_fit_is_named(exported: Path, tmp_path: Path) -> None:
    segmenter = OnnxSegmenter(exported)
    image = np.zeros((2, 1, 64, 64), np.float32)
    with pytest.raises(ValueError, match=r"uint8 .*expected float32 \(B, 1, 64, 64\)"):
        segmenter(image.astype(np.uint8))
    with pytest.raises(ValueError, match=r"\(2, 1, 32, 64\); expected"):
        segmenter(image[:, :, :32])
    with pytest.raises(ValueError, match="2 images, found 1 names"):
        segmenter(image, cases=["a"])
    with pytest.raises(ValueError, match="The noise is"):
        segmenter(image, noise=np.zeros((2, 3, 4, 4, 4)))
    with pytest.raises(ValueError, match=r"no sampling\.json"):
        OnnxSegmenter(tmp_path)


def test_sampler_that_the_runner_has_not_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--sampler ddim"):
        export(bundle, tmp_path / "onnx", sampler="pndm")
    assert not (tmp_path / "onnx").exists()
