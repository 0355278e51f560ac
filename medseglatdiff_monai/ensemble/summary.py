"""Summarising an ensemble of masks: confidence, the share of samples that contain a pixel; consensus; entropy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..errors import InputError
from .arguments import check_summary_arguments
from .fusion import fuse_ensemble
from .morphology import refine_masks


def summarize_ensemble(
    logits: torch.Tensor,
    threshold: float = 0.5,
    confidence: str = "samples",
    fusion: str = "mean",
    postprocess: str | None = None,
    cases: Sequence[str] | None = None,
) -> dict[str, torch.Tensor]:
    """Fuse sampled masks.

    Args:
        logits: (B, N, H, W[, D]), logits of N samples.
        threshold: confidence from which a pixel belongs to the consensus.
        confidence: ``"samples"``: mean of the binary samples; ``"probabilities"``: mean of their probabilities.
        fusion: a name in :data:`~medseglatdiff_monai.ensemble.arguments.FUSIONS`.
        postprocess: ``"morphology"``: opening, closing and hole filling of each sample; ``None``: none of it.
        cases: B case ids, for the error message.

    Returns:
        ``samples`` (B, N, H, W[, D]) bool, ``confidence_map`` (B, 1, H, W[, D]) float32 in [0, 1], ``consensus_mask``
        (same shape) bool, ``entropy`` (same shape) float32 in [0, 1] bit; with ``staple`` also ``staple_probability``
        (same shape) float32 in [0, 1]. Whatever the fusion, the confidence map is a mean.

    Raises:
        InputError: a logit is not finite, the message names the case; an argument is out of range; post-processing with
            probabilities as confidence.
    """
    check_summary_arguments(threshold, confidence, fusion, postprocess)
    samples, confidence_map = binarize(logits, confidence, postprocess, cases)
    fused = fuse_ensemble(samples, confidence_map, threshold, fusion)
    entropy = measure_entropy(confidence_map)
    return {"samples": samples, "confidence_map": confidence_map, "entropy": entropy, **fused}


def binarize(
    logits: torch.Tensor,
    confidence: str = "samples",
    postprocess: str | None = None,
    cases: Sequence[str] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples and confidence map of :func:`summarize_ensemble`, which says what the arguments are."""
    finite = torch.isfinite(logits).flatten(2).all(2)
    if not bool(finite.all()):
        image, sample = (~finite).nonzero()[0].tolist()
        name = f"image {image} of the batch" if cases is None else f"case {cases[image]!r}"
        raise InputError(
            f"Sample {sample} of {name} is not finite: the weights are damaged or do not belong to this configuration. "
            "Check the loss of the training run, or give other weights."
        )
    samples = logits > 0
    if postprocess is not None:
        samples = refine_masks(samples)
    source = samples if confidence == "samples" else logits.sigmoid()
    return samples, source.float().mean(dim=1, keepdim=True)


def measure_entropy(share: torch.Tensor) -> torch.Tensor:
    """-p log2 p - (1 - p) log2 (1 - p) of shares p in [0, 1], in bit, with 0 log 0 = 0; any shape, [0, 1]."""
    # entr works in nats.
    return (torch.special.entr(share) + torch.special.entr(1.0 - share)) / math.log(2.0)
