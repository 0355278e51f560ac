"""Losses of the codecs (Eq. 7-10 of arXiv 2512.01292) and of the denoiser (Eq. 4).

The mask codec's reconstruction loss is a cross-entropy whose foreground pixels weigh w; it may be scaled up, since the
mean over a mask of which 1% is foreground is small beside the quantiser's loss. Each loss takes the dictionary that
its network returns in training, so that it fits MONAI's ``SupervisedTrainer``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss, FocalLoss
from torch import nn
from torch.utils.data import Dataset

from .errors import InputError
from .networks.codecs import CodecBase

__all__ = [
    "RECONSTRUCTIONS",
    "CodecLoss",
    "DenoisingLoss",
    "automatic_positive_weight",
    "settle_positive_weight",
    "weighted_cross_entropy",
]

RECONSTRUCTIONS = ("mse", "mask_mse", "wce", "focal", "dice")

CodecT = TypeVar("CodecT", bound=CodecBase)


def weighted_cross_entropy(logits: torch.Tensor, target: torch.Tensor, positive_weight: float) -> torch.Tensor:
    """Binary cross-entropy with foreground weight w, mean over all pixels.

    Args:
        logits: (B, 1, H, W[, D]).
        target: same shape, in {0, 1}.
        positive_weight: w.
    """
    weight = torch.as_tensor(positive_weight, dtype=logits.dtype, device=logits.device)
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), pos_weight=weight)


def automatic_positive_weight(masks: torch.Tensor | Iterable[torch.Tensor], maximum: float = 50.0) -> float:
    """Positive weight w = sqrt(background pixels / foreground pixels) of training masks in {0, 1}, at most ``maximum``.

    ``masks`` is one tensor or a sequence of them, of any shapes, so that a data set need not be in memory at once.

    The full ratio balances the classes but, at the 1% of a lung nodule, makes false positives nearly free; its root
    lies between the paper's hand-picked weights for large and tiny structures. No foreground at all → ``maximum``.
    """
    foreground = pixels = 0
    for part in [masks] if isinstance(masks, torch.Tensor) else masks:
        foreground += int(part.sum())
        pixels += part.numel()
    if foreground == 0:
        return maximum
    return min(maximum, max(1.0, ((pixels - foreground) / foreground) ** 0.5))


def settle_positive_weight(codec: CodecT, dataset: Dataset) -> CodecT:
    """Give a codec whose ``positive_weight`` is ``"automatic"`` the weight of its training masks, and return it.

    The weight is :func:`automatic_positive_weight` of all readers' non-empty masks of the data set, as preprocessing
    leaves them: empty masks are hardly drawn in training. It depends on nothing but the data, is the same on every
    rank, and stays in the codec's checkpoint. A codec that has a weight is returned as it is, and no data are read.

    Args:
        codec: mask codec.
        dataset: training set whose items have ``label`` (R, H, W[, D]).
    """
    if bool(torch.isnan(codec.positive_weight)):
        codec.positive_weight.fill_(automatic_positive_weight(_marked_masks(dataset)))
    return codec


def _marked_masks(dataset: Dataset) -> Iterator[torch.Tensor]:
    for i in range(len(dataset)):  # type: ignore[arg-type]
        label = torch.as_tensor(dataset[i]["label"]) > 0
        yield label[label.flatten(1).any(1)]


class CodecLoss(nn.Module):
    """Reconstruction plus quantiser loss (Eq. 10).

    Args:
        reconstruction: ``"mse"`` for images (Eq. 7); for masks ``"wce"`` (weighted cross-entropy), ``"mask_mse"``
            (squared error of the probability, the comparison of Table I), ``"focal"`` (Lin et al., arXiv 1708.02002,
            gamma = 2, without class weight) or ``"dice"`` (soft Dice over all pixels of the batch, since that of a
            single empty mask is flat).
        positive_weight: w, for ``"wce"``; must be the codec's own.
        scale: factor on the reconstruction loss.

    Raises:
        InputError: unknown ``reconstruction``, or a w other than 1 for a loss that weighs nothing: the codec would
            subtract a log w that its training never added.
    """

    def __init__(self, reconstruction: str = "mse", positive_weight: float = 1.0, scale: float = 1.0) -> None:
        super().__init__()
        if reconstruction not in RECONSTRUCTIONS:
            raise InputError(f"reconstruction must be one of {', '.join(RECONSTRUCTIONS)}, found {reconstruction!r}.")
        if reconstruction != "wce" and positive_weight != 1.0:
            raise InputError(
                f"The reconstruction loss {reconstruction!r} has no positive weight, found {positive_weight}: set "
                "positive_weight to 1, or take 'wce'."
            )
        self.reconstruction = reconstruction
        self.positive_weight = positive_weight
        self.scale = scale
        self.focal = FocalLoss(gamma=2.0)
        self.dice = DiceLoss(sigmoid=True, batch=True)

    def forward(self, output: dict[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """Scalar loss of a codec's training output and its input ``target`` (B, C, H, W[, D])."""
        x = output["reconstruction"].float()
        if self.reconstruction == "wce":
            loss = weighted_cross_entropy(x, target, self.positive_weight)
        elif self.reconstruction == "mask_mse":
            loss = F.mse_loss(x.sigmoid(), target.float())
        elif self.reconstruction == "focal":
            loss = self.focal(x, target.float())
        elif self.reconstruction == "dice":
            loss = self.dice(x, target.float())
        else:
            loss = F.mse_loss(x, target.float())
        return self.scale * loss + output["quantizer_loss"]


class DenoisingLoss(nn.Module):
    """Weighted mean squared error between prediction and target (Eq. 4, with a weight per timestep).

    Args:
        mean_mask_weight: factor on the cross-entropy of the mean mask that a conditioner with context predicts.
    """

    def __init__(self, mean_mask_weight: float = 1.0) -> None:
        super().__init__()
        self.mean_mask_weight = mean_mask_weight

    def forward(self, output: dict[str, torch.Tensor], target: torch.Tensor | None = None) -> torch.Tensor:
        """Scalar loss of :class:`~medseglatdiff_monai.networks.DenoisingNetwork`'s output; ``target`` is unused."""
        error = (output["prediction"] - output["target"]).pow(2).flatten(1).mean(1)
        loss = (output["weight"] * error).mean()
        if "mean_mask" in output:
            cross_entropy = F.binary_cross_entropy_with_logits(output["mean_mask_logits"], output["mean_mask"])
            loss = loss + self.mean_mask_weight * cross_entropy
        return loss
