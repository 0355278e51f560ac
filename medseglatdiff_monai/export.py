"""TorchScript of a bundle: (image, noise) → confidence map, with sampling unrolled over the bundle's steps.

MONAI's ``ckpt_export`` traces the same network on the image alone, with the noise of the bundle's seed inside.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from .bundle import load_segmenter
from .checkpoints import save_bytes
from .errors import InputError

__all__ = ["export_torchscript"]


def export_torchscript(
    bundle: str | Path, output_file: str | Path, weights: str | Path | None = None, **overrides: Any
) -> Path:
    """Trace a bundle's network.

    Args:
        bundle: folder, or name under ``bundles/``.
        output_file: receives the TorchScript. Called with image (B, C, H, W) in the range of the bundle's
            preprocessing and standard normal noise (B, N, d, H/f, W/f), it returns (B, 1, H, W) in [0, 1]. B is free;
            N, H and W are those of the trace.
        weights: other weights than the bundle's own.
        overrides: configuration keys.

    Raises:
        InputError: see :func:`~medseglatdiff_monai.bundle.load_segmenter`, or a sampler that draws noise at each step.
    """
    segmenter = load_segmenter(bundle, weights, device="cpu", **overrides)
    network = segmenter.network
    if network.sampler == "ddpm":
        raise InputError(
            "The sampler 'ddpm' draws noise at every step and cannot be traced: use --sampler ddim or pndm."
        )
    image = torch.rand(2, segmenter.in_channels, *segmenter.image_size)
    noise = network.draw_noise(image, network.num_samples, network.seed, ["a", "b"])
    with warnings.catch_warnings(), torch.no_grad():
        # The tracer warns of every Python number; sizes are meant to be fixed.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, (image, noise), check_trace=False)
    path = Path(output_file)
    save_bytes(lambda handle: torch.jit.save(traced, handle), path)
    return path
