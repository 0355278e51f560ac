"""TorchScript of a bundle's network."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from ...bundle.segmenter import Segmenter, load_segmenter
from ...diffusion.samplers import find_sampler
from ...errors import InputError
from ...files import save_with
from ...networks.segmenter import LatentDiffusionSegmenter


def check_exportable(segmenter: Segmenter) -> LatentDiffusionSegmenter:
    """The network that is to be exported; refuses what an export would silently leave out.

    Raises:
        InputError: a one-to-one network, or a fusion or post-processing that only the inferer applies.
    """
    if not isinstance(segmenter.network, LatentDiffusionSegmenter):
        raise InputError(
            f"{segmenter.bundle_dir} holds a {type(segmenter.network).__name__}, which does not sample. Only "
            "diffusion models are exported; of a one-to-one network trace the network itself."
        )
    inferer = segmenter.inferer
    if inferer.fusion != "mean" or inferer.postprocess is not None:
        raise InputError(
            f"fusion = {inferer.fusion!r} and postprocess = {inferer.postprocess!r} belong to the inferer and are not "
            "exported. Give --fusion mean and --postprocess None, and apply them to the samples yourself."
        )
    return segmenter.network


def export_torchscript(
    bundle: str | Path,
    output_file: str | Path,
    weights: str | Path | None = None,
    device: str = "cpu",
    **overrides: Any,
) -> Path:
    """Trace a bundle's network.

    Args:
        bundle: folder or name.
        output_file: receives the TorchScript. Called with image (B, C, H, W) in the range of the bundle's
            preprocessing and standard normal noise (B, N, d, H/f, W/f), for k passes of the sampler ``direct``
            (B, N, k · d, H/f, W/f), it returns (B, 1, H, W) in [0, 1]. B is free; N, H and W are those of the trace.
        weights: other weights than the bundle's own.
        device: where the file will run: the trace keeps the device of tensors made inside.
        overrides: configuration keys.

    Raises:
        InputError: see :func:`~medseglatdiff_monai.bundle.segmenter.load_segmenter` and :func:`check_exportable`; a
            sampler that adds noise at each step; a confidence that is not the mean of the samples.
    """
    segmenter = load_segmenter(bundle, weights, device=device, **overrides)
    network, inferer = check_exportable(segmenter), segmenter.inferer
    if inferer.confidence != "samples":
        raise InputError(
            f"The traced network returns the mean of the binary samples, found confidence = {inferer.confidence!r}: "
            "use --confidence samples."
        )
    if find_sampler(network.sampler).adds_noise:
        raise InputError(
            f"The sampler {network.sampler!r} adds noise at every step and cannot be traced: use --sampler dpm++ or "
            "ddim."
        )
    image = torch.rand(2, segmenter.in_channels, *segmenter.image_size, device=segmenter.device)
    noise = network.draw_noise(image, network.num_samples, network.seed, ["a", "b"], network.count_passes())
    with warnings.catch_warnings(), torch.no_grad():
        # The tracer warns of every Python number; sizes are meant to be fixed.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, (image, noise), check_trace=False)
    path = Path(output_file)
    save_with(lambda handle: torch.jit.save(traced, handle), path)
    return path
