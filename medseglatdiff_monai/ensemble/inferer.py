"""The MONAI inferer that samples an ensemble of masks, and the settings by which it does.

The n samples of all images of a batch go through the denoiser together, in chunks that bound memory. Noise comes from
one generator for each (seed, case, sample), so that the masks are the same at any batch, chunk and world size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from monai.inferers import Inferer
from torch import nn

from ..errors import InputError
from ..networks.segmenter import LatentDiffusionSegmenter
from .arguments import check_settings
from .fusion import fuse_ensemble
from .summary import binarize, measure_entropy

CONVS = (nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class SamplingSettings:
    """How an ensemble is sampled and fused; ``dataclasses.replace`` gives a copy with other values.

    Args:
        num_samples: n of Eq. 13.
        num_inference_steps: denoiser calls per sample; ``None`` takes the network's own.
        sampler: ``"direct"``, ``"dpm++"``, ``"ddim"``, ``"ddpm"``, ``"pndm"``, or ``"rflow"`` for a rectified flow;
            ``None`` takes the network's own.
        seed: seed of the noise.
        threshold: confidence from which a pixel belongs to the consensus mask.
        confidence: ``"samples"`` or ``"probabilities"``, see
            :func:`~medseglatdiff_monai.ensemble.summary.summarize_ensemble`.
        chunk_size: how many samples go through the network at once.
        fusion: ``"mean"``, ``"majority"``, ``"staple"`` or ``"size_preserving"``: how the samples become one mask.
        postprocess: ``"morphology"`` cleans each sample before they are fused; ``None`` does not.

    Raises:
        InputError: an argument is out of range.
    """

    num_samples: int = 5
    num_inference_steps: int | None = None
    sampler: str | None = None
    seed: int = 0
    threshold: float = 0.5
    confidence: str = "samples"
    chunk_size: int = 64
    fusion: str = "mean"
    postprocess: str | None = None

    def __post_init__(self) -> None:
        """Refuse arguments out of range."""
        check_settings(vars(self))


@dataclass(frozen=True)
class EnsembleInferer(SamplingSettings, Inferer):
    """Samples masks of each image and fuses them, as its :class:`SamplingSettings` say."""

    @torch.no_grad()
    def sample(
        self, inputs: torch.Tensor, network: nn.Module, cases: Sequence[str] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples (B, N, H, W[, D]) bool and confidence map (B, 1, H, W[, D]), not fused yet; see :meth:`__call__`."""
        net = cast(LatentDiffusionSegmenter, getattr(network, "module", network))
        _check_images(inputs, net)
        image = inputs.as_tensor() if hasattr(inputs, "as_tensor") else inputs
        if cases is not None and len(cases) != len(image):
            raise InputError(f"cases must name each of the {len(image)} images of the batch, found {len(cases)} names.")
        logits = net.ensemble_logits(
            image, self.num_samples, self.seed, cases, self.num_inference_steps, self.sampler, self.chunk_size
        )
        return binarize(logits, self.confidence, self.postprocess, cases)

    def __call__(  # type: ignore[override]
        self, inputs: torch.Tensor, network: nn.Module, cases: Sequence[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """Sample and fuse.

        Args:
            inputs: images (B, C, H, W[, D]).
            network: anything with the ``ensemble_logits`` of a
                :class:`~medseglatdiff_monai.networks.LatentDiffusionSegmenter`, in a distributed wrapper or not.
            cases: B case ids that the noise belongs to; without them every image gets the noise of (seed, sample).

        Returns:
            The dictionary of :func:`~medseglatdiff_monai.ensemble.summary.summarize_ensemble`.

        Raises:
            InputError: ``inputs`` is no batch of images; ``cases`` has another length than the batch; a sample is not
                finite, the message names its case.
        """
        samples, confidence_map = self.sample(inputs, network, cases)
        fused = fuse_ensemble(samples, confidence_map, self.threshold, self.fusion)
        return {
            "samples": samples, "confidence_map": confidence_map, "entropy": measure_entropy(confidence_map), **fused,
        }  # fmt: skip


def _check_images(inputs: Any, network: nn.Module) -> None:
    """Refuse what is no batch of images; a convolution would take an image without a batch axis as a batch."""
    dims = next((3 if isinstance(part, nn.Conv3d) else 2 for part in network.modules() if isinstance(part, CONVS)), 2)
    expected = "(B, C, H, W, D)" if dims == 3 else "(B, C, H, W)"
    if not isinstance(inputs, torch.Tensor):
        raise InputError(
            f"inputs is a {type(inputs).__name__}; expected a tensor of images {expected} from the bundle's "
            "preprocessing. Make one with torch.as_tensor, or take the image from its dictionary."
        )
    if inputs.ndim != dims + 2:
        hint = " Add the batch axis: image[None]." if inputs.ndim == dims + 1 else ""
        raise InputError(f"inputs has the shape {tuple(inputs.shape)}; expected images {expected}.{hint}")
    if not inputs.is_floating_point():
        raise InputError(
            f"inputs is of type {inputs.dtype}; expected images in [0, 1], from the bundle's preprocessing."
        )


def sampling_settings(inferer: SamplingSettings, network: nn.Module) -> dict[str, Any]:
    """How masks are sampled, for the record of a result; the network's own values where the settings are ``None``.

    ``None`` in the result means that the network has no such setting. A network without a process, such as a one-to-one
    network, takes neither sampler nor steps from the settings.
    """
    names = (
        "num_inference_steps", "sampler", "guidance_scale", "test_time_augmentation", "noise_scale",
        "common_noise", "sample_noise",
    )  # fmt: skip
    own = {name: getattr(network, name, None) for name in names}
    process = getattr(network, "process", None)
    own |= {name: getattr(process, name, None) for name in ("timestep_power", "last_timestep")}
    if process is None:
        return own
    chosen = {"num_inference_steps": inferer.num_inference_steps, "sampler": inferer.sampler}
    return {**own, **{name: value for name, value in chosen.items() if value is not None}}
