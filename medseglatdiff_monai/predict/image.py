"""Segment one image: through the bundle's preprocessing to an ensemble, and back to the image's own grid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Invertd
from monai.transforms.utils import convert_applied_interp_mode

from ..bundle.preprocessing import UnwrappedCompose
from ..bundle.segmenter import Segmenter
from ..data.transforms import PadWithMinimumd
from ..ensemble.fusion import fuse_ensemble
from ..ensemble.inferer import EnsembleInferer, SamplingSettings
from ..errors import InputError
from ..io.reading import RasterInput, VolumeInput
from ..networks.baselines.one_to_one import OneToOneSegmenter
from ..networks.codecs import CodecBase
from .ensemble import Ensemble

# Samples are brought back this many pixels at a time.
PIXELS_AT_ONCE = 1 << 24


def segment_image(
    segmenter: Segmenter, source: RasterInput | VolumeInput | MetaTensor, sampling: SamplingSettings | None = None
) -> Ensemble:
    """Sample an ensemble of masks of a single image.

    An image smaller than the network's input is padded with its minimum, if the bundle crops and does not resize.

    Args:
        segmenter: the loaded bundle.
        source: an opened picture or NIfTI slice, or an image (C, H, W), grey values as in a file of the bundle's kind.
        sampling: by default the bundle's own settings.

    Returns:
        The ensemble, (N, H, W).

    Raises:
        InputError: the file cannot be read, the network cannot take the image, or a sample is not finite.
    """
    if isinstance(source, MetaTensor):
        return _segment(segmenter, source, sampling, np.asarray(source.affine, dtype=float))
    plane = source.read_plane()
    affine = None if isinstance(source, RasterInput) else np.asarray(plane.affine, dtype=float)
    try:
        return _segment(segmenter, plane, sampling, affine)
    except ValueError as error:
        raise InputError(f"{source.path}: {error}") from error


def _segment(
    segmenter: Segmenter, image: MetaTensor, sampling: SamplingSettings | None, affine: np.ndarray | None
) -> Ensemble:
    # The first step, LoadCased, leaves an image that is loaded already as it is. MONAI's inverse looks for the
    # steps themselves: it does not open a Compose of a class of our own.
    steps: list[Callable] = list(segmenter.preprocessing.transforms)
    if segmenter.crop_size is not None:
        steps.insert(0, PadWithMinimumd("image", segmenter.image_size))
    preprocessing = UnwrappedCompose(steps)
    item = preprocessing({"image": image})["image"]
    # One-to-one networks have no codec and check themselves how often they can halve.
    network = segmenter.network
    halving: CodecBase | OneToOneSegmenter = network if isinstance(network, OneToOneSegmenter) else network.mask_codec
    halving.check_size(item.shape[1:])
    inferer = segmenter.inferer if sampling is None else EnsembleInferer(**vars(sampling))
    network_samples, network_confidence = inferer.sample(item[None].to(segmenter.device), network)

    # Whatever mode an image was resized by, masks go back by linear interpolation, which gives smooth edges.
    grid = item.clone()
    grid.applied_operations = convert_applied_interp_mode(grid.applied_operations, "bilinear", align_corners=False)
    invert = Invertd("maps", preprocessing, orig_keys="image", nearest_interp=False)
    step = max(1, PIXELS_AT_ONCE // (image.shape[1] * image.shape[2]))

    def bring_back(maps: torch.Tensor) -> torch.Tensor:
        """(N, h, w) on the network's grid → (N, H, W) on the image's, in bool or float32 as before."""
        kind = torch.bool if maps.dtype == torch.bool else torch.float32
        back = torch.empty((len(maps), *image.shape[1:]), dtype=kind)
        for start in range(0, len(maps), step):
            part = MetaTensor(maps[start : start + step].float().cpu())
            part = invert({"image": grid, "maps": part})["maps"].as_tensor()
            back[start : start + step] = part >= 0.5 if kind == torch.bool else part
        return back

    samples = bring_back(network_samples[0])
    if inferer.confidence == "samples":
        confidence = samples.sum(0).float() / len(samples)
    else:
        confidence = bring_back(network_confidence[0])[0].clamp(0.0, 1.0)
    seen = bring_back(torch.ones_like(network_samples[0, :1]))[0].nonzero()
    (top, left), (bottom, right) = seen.min(0).values.tolist(), (seen.max(0).values + 1).tolist()
    fused = fuse_ensemble(samples[None], confidence[None, None], inferer.threshold, inferer.fusion)["consensus_mask"]
    return Ensemble(
        samples=samples.numpy(),
        confidence=confidence.numpy(),
        fused=fused[0, 0].numpy(),
        seen=(top, left, bottom, right),
        affine=affine,
        planes=(image,),
    )
