"""Fusing the samples of an ensemble into one consensus mask, by one of several named rules.

``mean``: the confidence map reaches the threshold (Section III-C of arXiv 2512.01292). ``majority``: more than half of
the samples contain the pixel. ``staple``: the probability that STAPLE (Warfield et al. 2004, SimpleITK's
implementation) gives the pixel, weighing each sample by its estimated sensitivity and specificity, reaches the
threshold. ``size_preserving``: the confidence map reaches a threshold that is chosen for each case so that the size of
the consensus is nearest to the mean size of the samples; a fixed threshold shrinks objects whose position varies.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

from ..metrics.masks import fuse_masks
from .arguments import check_fusion_name

Array = TypeVar("Array", torch.Tensor, np.ndarray)

# Samples that overlap converge within ten iterations; without a limit unrelated masks take thousands.
STAPLE_ITERATIONS = 100


def reaches(shares: Array, threshold: float) -> Array:
    """Where shares of samples reach a threshold, bool; 3/6 reaches 0.5 whatever the rounding of the mean."""
    return shares >= threshold - 1e-6


def fuse_ensemble(
    samples: torch.Tensor, confidence_map: torch.Tensor, threshold: float = 0.5, fusion: str = "mean"
) -> dict[str, torch.Tensor]:
    """Fuse the samples of each image.

    Args:
        samples: (B, N, H, W[, D]) bool.
        confidence_map: (B, 1, H, W[, D]) in [0, 1], the mean of the samples or of their probabilities.
        threshold: confidence, or STAPLE's probability, from which a pixel belongs to the consensus; ``majority`` and
            ``size_preserving`` have their own thresholds.
        fusion: a name in :data:`~medseglatdiff_monai.ensemble.arguments.FUSIONS`.

    Returns:
        ``consensus_mask`` (B, 1, H, W[, D]) bool, and with ``staple`` ``staple_probability``, the same shape, float32
        in [0, 1]. Where all samples agree, every rule returns their mask.

    Raises:
        InputError: another fusion.
    """
    check_fusion_name(fusion)
    if fusion == "majority":
        return {"consensus_mask": fuse_masks(samples, 0.5, tie="background")}
    if fusion == "size_preserving":
        return {"consensus_mask": _preserve_size(samples, confidence_map)}
    if fusion == "staple":
        probability = torch.stack([_run_staple(case) for case in samples.cpu()])[:, None].to(samples.device)
        return {"consensus_mask": reaches(probability, threshold), "staple_probability": probability}
    return {"consensus_mask": reaches(confidence_map, threshold)}


def _run_staple(samples: torch.Tensor) -> torch.Tensor:
    """STAPLE's probability (H, W[, D]) float32 of the samples (N, H, W[, D]) bool of one image."""
    # Imported here: only one fusion of four needs it, and otherwise every start of the program would load it.
    import SimpleITK as sitk

    # STAPLE's prior is the share of foreground: where it is 0 or 1, SimpleITK returns NaN. All samples agree there.
    if bool(samples.all()) or not bool(samples.any()):
        return samples[0].float()
    staple = sitk.STAPLEImageFilter()
    staple.SetForegroundValue(1.0)
    staple.SetMaximumIterations(STAPLE_ITERATIONS)
    images = [sitk.GetImageFromArray(sample) for sample in samples.to(torch.uint8).numpy()]
    return torch.from_numpy(sitk.GetArrayFromImage(staple.Execute(images))).float()


def _preserve_size(samples: torch.Tensor, confidence_map: torch.Tensor) -> torch.Tensor:
    """Consensus (B, 1, H, W[, D]) of the threshold whose size is nearest to the samples' mean; of two, the smaller."""
    size = samples.flatten(2).sum(2).double().mean(1, keepdim=True)
    confidence = confidence_map.flatten(1)
    ordered = confidence.sort(dim=1, descending=True).values
    # The threshold ordered[k - 1] gives k pixels if the next pixel is below it: equal ones cannot be separated.
    below = torch.cat([ordered[:, 1:], torch.full_like(ordered[:, :1], -1.0)], dim=1)
    possible = (ordered > below) & (ordered > 0)
    sizes = torch.arange(1, ordered.shape[1] + 1, device=ordered.device, dtype=torch.float64)
    error = torch.where(possible, (sizes - size).abs(), torch.inf)
    # The empty consensus is possible too; argmin takes the first, that is the smallest, of several.
    best, index = error.min(dim=1, keepdim=True)
    threshold = torch.where(best < size, ordered.gather(1, index), torch.inf)
    return (confidence >= threshold).reshape(confidence_map.shape)
