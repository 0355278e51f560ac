"""The MONAI inferer that draws an ensemble of masks; it owns samples, steps, sampler, seed and fusion.

The n samples of all images of a batch go through the denoiser together, in chunks that bound memory. Noise comes from
one generator for each (seed, case, sample), so that the masks are the same at any batch, chunk and world size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from monai.inferers import Inferer
from torch import nn

from ..errors import InputError
from ..networks.segmenter import LatentDiffusionSegmenter
from .summary import check_summary_arguments, summarize_ensemble

__all__ = ["EnsembleInferer", "drawing_settings"]


class EnsembleInferer(Inferer):
    """Draw ``num_samples`` masks of each image and fuse them.

    Args:
        num_samples: n of Eq. 13.
        num_inference_steps: denoiser calls a sample; ``None`` takes the network's own.
        sampler: ``"dpm++"``, ``"ddim"``, ``"ddpm"``, ``"pndm"``, or ``"rflow"`` of a rectified flow; ``None`` takes the
            network's own.
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

    def __init__(
        self,
        num_samples: int = 5,
        num_inference_steps: int | None = None,
        sampler: str | None = None,
        seed: int = 0,
        threshold: float = 0.5,
        confidence: str = "samples",
        chunk_size: int = 64,
        fusion: str = "mean",
        postprocess: str | None = None,
    ) -> None:
        super().__init__()
        check_summary_arguments(threshold, confidence, fusion, postprocess)
        if num_samples < 1 or chunk_size < 1:
            raise InputError(f"num_samples and chunk_size must be at least 1, found {num_samples} and {chunk_size}.")
        self.num_samples = num_samples
        self.num_inference_steps = num_inference_steps
        self.sampler = sampler
        self.seed = seed
        self.threshold = threshold
        self.confidence = confidence
        self.chunk_size = chunk_size
        self.fusion = fusion
        self.postprocess = postprocess

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self, inputs: torch.Tensor, network: nn.Module, cases: Sequence[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """Draw and fuse.

        Args:
            inputs: images (B, C, H, W[, D]).
            network: anything with the ``ensemble_logits`` of a
                :class:`~medseglatdiff_monai.networks.LatentDiffusionSegmenter`, in a distributed wrapper or not.
            cases: B case ids that the noise belongs to; without them every image gets the noise of (seed, sample).

        Returns:
            The dictionary of :func:`~medseglatdiff_monai.ensemble.summary.summarize_ensemble`.

        Raises:
            InputError: ``cases`` has another length than the batch; a sample is not finite, the message names its case.
        """
        net = cast(LatentDiffusionSegmenter, getattr(network, "module", network))
        image = inputs.as_tensor() if hasattr(inputs, "as_tensor") else inputs
        if cases is not None and len(cases) != len(image):
            raise InputError(f"cases must name each of the {len(image)} images of the batch, found {len(cases)} names.")
        ensemble = net.ensemble_logits(
            image, self.num_samples, self.seed, cases, self.num_inference_steps, self.sampler, self.chunk_size
        )
        return summarize_ensemble(ensemble, self.threshold, self.confidence, self.fusion, self.postprocess, cases)


def drawing_settings(inferer: EnsembleInferer, network: nn.Module) -> dict[str, Any]:
    """How masks are drawn, for the record of a result: the network's own words where the inferer leaves it to them.

    ``None`` stands for what the network does not have, as one-to-one networks have no sampler.
    """
    own = {
        name: getattr(network, name, None)
        for name in ("num_inference_steps", "sampler", "guidance_scale", "test_time_augmentation", "noise_scale")
    }
    process = getattr(network, "process", None)
    own |= {name: getattr(process, name, None) for name in ("timestep_power", "last_timestep")}
    chosen = {"num_inference_steps": inferer.num_inference_steps, "sampler": inferer.sampler}
    return {**own, **{name: value for name, value in chosen.items() if value is not None}}
