"""An ensemble of masks for one image in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, SpatialPadd
from monai.transforms.utils import convert_applied_interp_mode

from ..bundle.segmenter import Segmenter
from ..ensemble.fusion import fuse_ensemble
from ..errors import InputError, unwrapped_errors
from ..io.prepared import LoadCased
from ..io.reading import RasterInput, VolumeInput
from ..networks.baselines.one_to_one import OneToOneSegmenter
from ..networks.codecs import CodecBase

__all__ = ["Prediction", "PredictionRun", "predict_image"]

# Samples are brought back so many pixels at a time.
PIXELS_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Prediction:
    """An ensemble on the grid of the image that was given.

    Attributes:
        samples: (N, H, W) bool.
        confidence: (H, W) float32 in [0, 1].
        consensus: (H, W) bool.
        entropy: (H, W) float32 in [0, 1] bit.
        seen: (top, left, bottom, right) of the part of the image that the network saw; outside it all is background.
    """

    samples: np.ndarray
    confidence: np.ndarray
    consensus: np.ndarray
    entropy: np.ndarray
    seen: tuple[int, int, int, int]


def predict_image(image: MetaTensor, segmenter: Segmenter) -> Prediction:
    """Draw an ensemble for an image in memory.

    An image smaller than the network's input is padded with its minimum, if the bundle crops and does not resize.

    Args:
        image: (C, H, W) grey values as a file of the bundle's kind holds them.
        segmenter: the loaded bundle.

    Raises:
        InputError: the network cannot take the image.
        ValueError: a sample is not finite, see :func:`~medseglatdiff_monai.ensemble.summary.summarize_ensemble`.
    """
    steps: list[Any] = [step for step in _steps(segmenter) if not isinstance(step, LoadCased)]
    if segmenter.crop_size is not None:
        steps.insert(0, SpatialPadd("image", segmenter.image_size, mode="constant", value=float(image.min())))
    preprocessing = Compose(steps)
    with unwrapped_errors():
        item = preprocessing({"image": image})
    # One-to-one networks have no codec and know themselves what they can halve.
    network = segmenter.network
    halving: CodecBase | OneToOneSegmenter = network if isinstance(network, OneToOneSegmenter) else network.mask_codec
    halving.check_size(item["image"].shape[1:])
    inferer = segmenter.inferer
    ensemble = inferer(item["image"][None].to(segmenter.device), segmenter.network)

    # Whatever mode an image was resized by, masks go back by linear interpolation, which gives smooth edges.
    source = item["image"].clone()
    source.applied_operations = convert_applied_interp_mode(source.applied_operations, "bilinear", align_corners=False)
    invert = Invertd("maps", preprocessing, orig_keys="image", nearest_interp=False)
    step = max(1, PIXELS_AT_ONCE // (image.shape[1] * image.shape[2]))

    def bring_back(maps: torch.Tensor) -> torch.Tensor:
        """(N, h, w) on the network's grid → (N, H, W) on the image's, in bool or float32 as before."""
        kind = torch.bool if maps.dtype == torch.bool else torch.float32
        back = torch.empty((len(maps), *image.shape[1:]), dtype=kind)
        for start in range(0, len(maps), step):
            part = MetaTensor(maps[start : start + step].float().cpu())
            part = invert({"image": source, "maps": part})["maps"].as_tensor()
            back[start : start + step] = part >= 0.5 if kind == torch.bool else part
        return back

    samples = bring_back(ensemble["samples"][0])
    if inferer.confidence == "samples":
        confidence = samples.sum(0).float() / len(samples)
    else:
        confidence = bring_back(ensemble["confidence_map"][0])[0].clamp(0.0, 1.0)
    entropy = (torch.special.entr(confidence) + torch.special.entr(1.0 - confidence)) / float(np.log(2.0))
    seen = bring_back(torch.ones_like(ensemble["samples"][0, :1]))[0].nonzero()
    (top, left), (bottom, right) = seen.min(0).values.tolist(), (seen.max(0).values + 1).tolist()
    fused = fuse_ensemble(samples[None], confidence[None, None], inferer.threshold, inferer.fusion)
    return Prediction(
        samples=samples.numpy(),
        confidence=confidence.numpy(),
        consensus=fused["consensus_mask"][0, 0].numpy(),
        entropy=entropy.numpy(),
        seen=(top, left, bottom, right),
    )


def _steps(segmenter: Segmenter) -> Sequence[Any]:
    preprocessing = segmenter.preprocessing
    return preprocessing.transforms if isinstance(preprocessing, Compose) else [preprocessing]


@dataclass(frozen=True)
class PredictionRun:
    """What all inputs of a call share."""

    segmenter: Segmenter
    record: dict[str, Any]
    output_dir: Path
    slices: int | None
    reach_mm: float

    def draw(self, source: RasterInput | VolumeInput, plane: MetaTensor) -> Prediction:
        """Ensemble of a plane; an error names the source."""
        try:
            return predict_image(plane, self.segmenter)
        except ValueError as error:
            raise InputError(f"{source.path}: {error}") from error
