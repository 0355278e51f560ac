"""From an ensemble of masks to what a reader looks at: confidence map, consensus mask, entropy.

The confidence of a pixel is the share of samples that contain it; the consensus is where it reaches the threshold
(Section III-C of arXiv 2512.01292); the entropy of that share shows where the samples disagree.
"""

from __future__ import annotations

import math

import torch

from .errors import InputError

__all__ = ["summarize_ensemble"]


def summarize_ensemble(
    logits: torch.Tensor, threshold: float = 0.5, confidence: str = "samples"
) -> dict[str, torch.Tensor]:
    """Fuse sampled masks.

    Args:
        logits: (B, N, H, W[, D]), logits of N samples.
        threshold: confidence from which a pixel belongs to the consensus.
        confidence: ``"samples"``: mean of the binary samples; ``"probabilities"``: mean of their probabilities.

    Returns:
        ``samples`` (B, N, H, W[, D]) bool, ``confidence_map`` (B, 1, H, W[, D]) float32 in [0, 1], ``consensus_mask``
        (same shape) bool, ``entropy`` (same shape) float32 in [0, 1] bit.

    Raises:
        InputError: a logit is not finite, or an argument is out of range.
    """
    if confidence not in ("samples", "probabilities"):
        raise InputError(f"confidence must be 'samples' or 'probabilities', found {confidence!r}.")
    if not 0.0 < threshold <= 1.0:
        raise InputError(f"threshold must be in (0, 1], found {threshold}.")
    if not torch.isfinite(logits).all():
        raise InputError(
            "A sampled mask is not finite: the weights are damaged or do not belong to this configuration."
        )
    samples = logits > 0
    source = samples if confidence == "samples" else logits.sigmoid()
    confidence_map = source.float().mean(dim=1, keepdim=True)
    # Shares such as 3/6 must reach 0.5 whatever the rounding of their mean.
    consensus_mask = confidence_map >= threshold - 1e-6
    # -p log2 p - (1 - p) log2 (1 - p), with 0 log 0 = 0; entr works in nats.
    nats = torch.special.entr(confidence_map) + torch.special.entr(1.0 - confidence_map)
    entropy = nats / math.log(2.0)
    return {"samples": samples, "confidence_map": confidence_map, "consensus_mask": consensus_mask, "entropy": entropy}
