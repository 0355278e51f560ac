"""Fixtures shared by all tests: where the real data is, a few members of its archives, a browser."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import DiffusionModelUNet
from PIL import Image
from small_runs import LUNG, write_small_bundle
from tiny_dicom import COLUMN, ROW, SLICE, make_ct, to_8_bits, write_series

from medseglatdiff_monai.diffusion import DiffusionProcess
from medseglatdiff_monai.networks import CodecConditioner, LatentDiffusionSegmenter, VQVAECodec

DEFAULT_DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data's archives; the test is skipped where it is absent."""
    folder = Path(os.environ.get("MEDSEGLATDIFF_DATA") or DEFAULT_DATA)
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist; point MEDSEGLATDIFF_DATA at the folder of the archives")
    return folder.resolve()


@pytest.fixture(scope="session")
def unpack(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Unpack a few members: ``unpack(archive name, regular expression of member names, stop_at=None) -> folder``.

    Reading ends at the first member whose name matches `stop_at`, so that the start of a large archive is cheap. Each
    selection is unpacked once a session.
    """
    folders: dict[tuple[str, str], Path] = {}

    def unpack_members(archive: str, pattern: str, stop_at: str | None = None) -> Path:
        if (archive, pattern) in folders:
            return folders[archive, pattern]
        if not (data_dir / archive).is_file():
            pytest.skip(f"no real data: {data_dir / archive} does not exist")
        folder = tmp_path_factory.mktemp("unpacked")
        with tarfile.open(data_dir / archive) as tar:
            for member in tar:
                if stop_at is not None and re.search(stop_at, member.name):
                    break
                if member.isfile() and re.search(pattern, member.name):
                    target = folder / member.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with tar.extractfile(member) as source, target.open("wb") as handle:  # type: ignore[union-attr]
                        shutil.copyfileobj(source, handle)
        assert any(folder.iterdir()), f"no member of {archive} matches {pattern}"
        folders[archive, pattern] = folder
        return folder

    return unpack_members


@pytest.fixture(scope="session")
def lung(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle of the lung's kind, untrained."""
    return write_small_bundle(tmp_path_factory.mktemp("bundles") / LUNG, num_samples=3)


@pytest.fixture(scope="session")
def ct() -> np.ndarray:
    return make_ct()


@pytest.fixture(scope="session")
def series(ct: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_series(tmp_path_factory.mktemp("dicom") / "series", ct)


@pytest.fixture(scope="session")
def crop_png(ct: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The public crops' rule, written out: 128 pixels around the nodule, 0 = minimum, 255 = maximum of the crop."""
    crop = ct[SLICE, ROW - 64 : ROW + 64, COLUMN - 64 : COLUMN + 64].astype(float)
    assert crop.shape == (128, 128)
    path = tmp_path_factory.mktemp("png") / "nodule.png"
    Image.fromarray(to_8_bits(crop)).save(path)
    return path


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; a module's own, since its event loop runs in this thread meanwhile."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium: install it, or point CHROMIUM at it")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@torch.no_grad()
def _balance(mask_codec: VQVAECodec) -> None:
    """Scale an untrained decoder so that about half of what it decodes is foreground.

    Its logits are near zero and the correction by log w would push all below it: every mask would be empty, and tests
    that compare masks would pass whatever the code does.
    """
    logits = mask_codec.decoder(mask_codec.quantizer.quantize(torch.randn(64, mask_codec.latent_channels, 8, 8)))
    last = [module for module in mask_codec.decoder.modules() if isinstance(module, torch.nn.ConvTranspose2d)][-1]
    last.weight.div_(logits.std())
    last.bias.sub_(logits.mean()).div_(logits.std()).add_(mask_codec.positive_weight.log())


@pytest.fixture
def make_segmenter():
    """Factory of a segmenter of about 100,000 weights; keyword arguments go to the segmenter."""

    def make(trainable: bool = True, **arguments) -> LatentDiffusionSegmenter:
        torch.manual_seed(0)
        image_codec = VQVAECodec(2, 1, (8, 16), 1, embedding_dim=4, num_embeddings=16)
        mask_codec = VQVAECodec(2, 1, (8, 16), 1, embedding_dim=3, num_embeddings=16, positive_weight=5.0)
        denoiser = DiffusionModelUNet(
            spatial_dims=2, in_channels=7, out_channels=3, channels=(16, 16), attention_levels=(False, True),
            num_res_blocks=1, num_head_channels=8, norm_num_groups=8,
        )  # fmt: skip
        # MONAI starts the last convolution at zero, which would make every untrained prediction the same.
        for parameter in denoiser.out.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        _balance(mask_codec)
        conditioner = CodecConditioner(image_codec, trainable)
        arguments = {"num_samples": 3, "num_inference_steps": 2, **arguments}
        return LatentDiffusionSegmenter(mask_codec, conditioner, denoiser, DiffusionProcess(), **arguments).eval()

    return make
