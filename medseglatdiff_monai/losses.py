"""Losses of the codecs (Eq. 7-10 of arXiv 2512.01292) and of the denoiser (Eq. 4).

The mask codec's reconstruction loss is a cross-entropy whose foreground pixels weigh w; it may be scaled up, since the
mean over a mask of which 1% is foreground is small beside the quantiser's loss. Each loss takes the dictionary that
its network returns in training, so that it fits MONAI's ``SupervisedTrainer``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .errors import InputError

__all__ = ["CodecLoss", "DenoisingLoss", "automatic_positive_weight", "weighted_cross_entropy"]


def weighted_cross_entropy(logits: torch.Tensor, target: torch.Tensor, positive_weight: float) -> torch.Tensor:
    """Binary cross-entropy with foreground weight w, mean over all pixels.

    Args:
        logits: (B, 1, H, W[, D]).
        target: same shape, in {0, 1}.
        positive_weight: w.
    """
    weight = torch.as_tensor(positive_weight, dtype=logits.dtype, device=logits.device)
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), pos_weight=weight)


def automatic_positive_weight(masks: torch.Tensor, maximum: float = 50.0) -> float:
    """Positive weight w = sqrt(background pixels / foreground pixels) of training masks in {0, 1}, at most ``maximum``.

    The full ratio balances the classes but, at the 1% of a lung nodule, makes false positives nearly free; its root
    lies between the paper's hand-picked weights for large and tiny structures. No foreground at all → ``maximum``.
    """
    foreground = float(masks.sum())
    if foreground == 0:
        return maximum
    return min(maximum, max(1.0, ((masks.numel() - foreground) / foreground) ** 0.5))


class CodecLoss(nn.Module):
    """Reconstruction plus quantiser loss (Eq. 10).

    Args:
        reconstruction: ``"mse"`` for images (Eq. 7); for masks ``"wce"`` (weighted cross-entropy) or
            ``"mask_mse"`` (squared error of the probability, the comparison of Table I).
        positive_weight: w, for ``"wce"``; must be the codec's own.
        scale: factor on the reconstruction loss.

    Raises:
        InputError: unknown ``reconstruction``.
    """

    def __init__(self, reconstruction: str = "mse", positive_weight: float = 1.0, scale: float = 1.0) -> None:
        super().__init__()
        if reconstruction not in ("mse", "mask_mse", "wce"):
            raise InputError(f"reconstruction must be 'mse', 'mask_mse' or 'wce', found {reconstruction!r}.")
        self.reconstruction = reconstruction
        self.positive_weight = positive_weight
        self.scale = scale

    def forward(self, output: dict[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """Scalar loss of a codec's training output and its input ``target`` (B, C, H, W[, D])."""
        x = output["reconstruction"].float()
        if self.reconstruction == "wce":
            loss = weighted_cross_entropy(x, target, self.positive_weight)
        elif self.reconstruction == "mask_mse":
            loss = F.mse_loss(x.sigmoid(), target.float())
        else:
            loss = F.mse_loss(x, target.float())
        return self.scale * loss + output["quantizer_loss"]


class DenoisingLoss(nn.Module):
    """Weighted mean squared error between prediction and target (Eq. 4, with a weight per timestep)."""

    def forward(self, output: dict[str, torch.Tensor], target: torch.Tensor | None = None) -> torch.Tensor:
        """Scalar loss of :class:`~medseglatdiff_monai.networks.DenoisingNetwork`'s output; ``target`` is unused."""
        error = (output["prediction"] - output["target"]).pow(2).flatten(1).mean(1)
        return (output["weight"] * error).mean()
