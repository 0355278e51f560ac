"""ONNX of a bundle's networks: conditioner, denoiser and mask decoder, and the settings for sampling with them.

The loop over timesteps stays outside the networks, in :mod:`~medseglatdiff_monai.integrations.export.onnx_runner`,
which needs neither torch nor MONAI: samples, steps and seed are chosen when masks are sampled, not when the bundle is
exported.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ...bundle.segmenter import Segmenter, load_segmenter
from ...diffusion.samplers import find_sampler
from ...ensemble.inferer import sampling_settings
from ...errors import InputError
from ...files import save_bytes, save_json
from ...networks.segmenter import LatentDiffusionSegmenter
from . import onnx_runner
from .torchscript import check_exportable

OPSET = 18
# Entries of sampling_settings that the runner uses.
SAMPLING = (
    "num_inference_steps", "sampler", "timestep_power", "last_timestep", "noise_scale", "common_noise",
    "test_time_augmentation",
)  # fmt: skip


class _Part(nn.Module):
    """A part of the network whose ``forward`` is one of its methods."""

    def __init__(self, network: LatentDiffusionSegmenter) -> None:
        super().__init__()
        self.network = network


class _Denoiser(_Part):
    def forward(self, z_t: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return self.network.denoise_guided(z_t, timesteps, condition)


class _MaskDecoder(_Part):
    def forward(self, x_0: torch.Tensor) -> torch.Tensor:
        return self.network.decode_latents(x_0)


def export_onnx(
    bundle: str | Path, output_dir: str | Path, weights: str | Path | None = None, **overrides: Any
) -> Path:
    """Write a bundle's networks as ONNX.

    The folder receives ``conditioner.onnx`` (image (B, C, H, W) → condition (B, d_X, h, w)), ``denoiser.onnx`` (z_t
    (B, d, h, w), timesteps (B,) int64, condition → network output (B, d, h, w)), ``mask_decoder.onnx`` (x_0
    (B, d, h, w) → mask logits (B, 1, H, W)), ``sampling.json`` (schedule, sizes and defaults) and ``onnx_runner.py``.
    B is free; H and W are the bundle's. All in float32.

    Args:
        bundle: folder or name.
        output_dir: receives the files.
        weights: other weights than the bundle's own.
        overrides: configuration keys; ``num_samples``, ``num_inference_steps``, ``seed`` become the runner's defaults.

    Raises:
        InputError: see :func:`~medseglatdiff_monai.bundle.segmenter.load_segmenter`; another sampler than those that
            the runner has: direct, DPM++ and DDIM.
    """
    segmenter = load_segmenter(bundle, weights, device="cpu", **overrides)
    network = check_exportable(segmenter)
    if len(segmenter.image_size) != 2:
        raise InputError("The runner of ONNX exports works on images, not on volumes: use --format torchscript.")
    sampling = sampling_settings(segmenter.inferer, network)
    if not find_sampler(sampling["sampler"]).in_onnx_runner:
        raise InputError(
            "The runner of ONNX exports samples with direct, dpm++ or ddim, found "
            f"{sampling['sampler']!r}: use --sampler ddim."
        )
    image = torch.rand(2, segmenter.in_channels, *segmenter.image_size)
    network.mask_codec.check_size(image.shape[2:])
    latent_shape = network.latent_shape(image)
    z_t = torch.randn(2, *latent_shape)
    with torch.no_grad():
        condition = network.conditioner(image)
    network.requires_grad_(False)
    folder = Path(output_dir)
    _write(network.conditioner, (image,), ["image"], "condition", folder / "conditioner.onnx")
    inputs = (z_t, torch.tensor([999, 9]) % network.process.num_train_timesteps, condition)
    _write(_Denoiser(network), inputs, ["z_t", "timesteps", "condition"], "output", folder / "denoiser.onnx")
    _write(_MaskDecoder(network), (z_t,), ["x_0"], "logits", folder / "mask_decoder.onnx")
    shutil.copyfile(Path(onnx_runner.__file__), folder / "onnx_runner.py")
    # Last, since its presence says that the folder is complete.
    save_json(_describe(segmenter, network, latent_shape, sampling), folder / "sampling.json")
    return folder


def _describe(
    segmenter: Segmenter, network: LatentDiffusionSegmenter, latent_shape: Sequence[int], sampling: Mapping[str, Any]
) -> dict[str, Any]:
    """What the runner reads from ``sampling.json``."""
    inferer, metadata = segmenter.inferer, segmenter.metadata
    return {
        "format_version": onnx_runner.FORMAT_VERSION,
        "bundle": segmenter.bundle_dir.name,
        "bundle_version": metadata.get("version"),
        "weights_sha256": segmenter.weights_sha256,
        "intended_use": metadata.get("intended_use"),
        "image_channels": segmenter.in_channels,
        "image_size": list(segmenter.image_size),
        "image_description": metadata.get("image_classes", "see the bundle's docs/README.md"),
        "latent_shape": list(latent_shape),
        "prediction_type": network.process.prediction_type,
        "num_samples": inferer.num_samples,
        "seed": inferer.seed,
        **{name: sampling[name] for name in SAMPLING},
        "threshold": inferer.threshold,
        "confidence": inferer.confidence,
        "alpha_bar": cast(torch.Tensor, network.process.alpha_bar).double().tolist(),
    }


def _write(module: nn.Module, inputs: tuple[torch.Tensor, ...], names: list[str], output: str, path: Path) -> None:
    """Export one network with a free first dimension, which all its inputs share."""
    batch = torch.export.Dim("batch", min=1, max=65536)
    logger, level = logging.getLogger("torch.onnx"), logging.getLogger("torch.onnx").level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # The exporter reports its progress and its own deprecations, which tell a user nothing.
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                module.eval(), inputs, input_names=names, output_names=[output], opset_version=OPSET, dynamo=True,
                dynamic_shapes=tuple({0: batch} for _ in inputs), external_data=False, verbose=False,
            )  # fmt: skip
        finally:
            logger.setLevel(level)
    assert program is not None  # with dynamo=True and no file an ONNXProgram is returned
    save_bytes(program.model_proto.SerializeToString(), path)
