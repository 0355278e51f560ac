"""Losses of the codecs (Eq. 7-10 of arXiv 2512.01292), of the denoiser (Eq. 4), and of samples as a distribution.

The mask codec's reconstruction loss is a cross-entropy whose foreground pixels weigh w; it may be scaled up, since the
mean over a mask of which 1% is foreground is small beside the quantiser's loss. Each loss takes the dictionary that
its network returns in training, so that it fits MONAI's ``SupervisedTrainer``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss, FocalLoss
from torch import nn
from torch.utils.data import Dataset

from ..errors import InputError
from ..networks.codecs import CodecBase

MAX_POSITIVE_WEIGHT = 50.0

CodecT = TypeVar("CodecT", bound=CodecBase)


def weighted_cross_entropy(logits: torch.Tensor, target: torch.Tensor, positive_weight: float) -> torch.Tensor:
    """Binary cross-entropy with foreground weight w, mean over all pixels; ``target`` (B, 1, H, W[, D]) in {0, 1}."""
    weight = torch.as_tensor(positive_weight, dtype=logits.dtype, device=logits.device)
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), pos_weight=weight)


def automatic_positive_weight(masks: Iterable[torch.Tensor]) -> float:
    """Positive weight w = sqrt(background pixels / foreground pixels) of training masks in {0, 1}, from 1 to 50.

    ``masks`` are tensors of any shapes, taken one by one, so that a data set need not be in memory at once.

    The full ratio balances the classes but, at the 1% of a lung nodule, makes false positives nearly free; its root
    lies between the paper's hand-picked weights for large and tiny structures. No foreground at all → 50.
    """
    foreground = pixels = 0
    for part in masks:
        foreground += int(part.sum())
        pixels += part.numel()
    if foreground == 0:
        return MAX_POSITIVE_WEIGHT
    return min(MAX_POSITIVE_WEIGHT, max(1.0, ((pixels - foreground) / foreground) ** 0.5))


def settle_positive_weight(codec: CodecT, dataset: Dataset) -> CodecT:
    """Set an ``"automatic"`` ``positive_weight`` of a codec from its training masks, and return the codec.

    The weight is :func:`automatic_positive_weight` of all raters' non-empty masks of the data set, as preprocessing
    leaves them: training rarely uses empty masks. It stays in the codec's checkpoint. A codec that has a weight is
    returned as it is, and no data are read.

    Args:
        codec: mask codec.
        dataset: training set whose items have ``label`` (R, H, W[, D]).
    """
    if bool(torch.isnan(codec.positive_weight)):
        labels = (torch.as_tensor(dataset[i]["label"]) > 0 for i in range(len(dataset)))  # type: ignore[arg-type]
        marked = (label[label.flatten(1).any(1)] for label in labels)
        codec.positive_weight.fill_(automatic_positive_weight(marked))
    return codec


# Reconstruction, target (B, C, H, W[, D]) and w → loss; see :class:`CodecLoss`.
RECONSTRUCTIONS: dict[str, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    "mse": lambda x, target, _: F.mse_loss(x, target),
    "mask_mse": lambda x, target, _: F.mse_loss(x.sigmoid(), target),
    "wce": weighted_cross_entropy,
    "focal": lambda x, target, _: FocalLoss(gamma=2.0)(x, target),
    "dice": lambda x, target, _: DiceLoss(sigmoid=True, batch=True)(x, target),
}


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

    def forward(self, output: dict[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """Scalar loss of a codec's training output and its input ``target`` (B, C, H, W[, D])."""
        loss = RECONSTRUCTIONS[self.reconstruction](
            output["reconstruction"].float(), target.float(), self.positive_weight
        )
        return self.scale * loss + output["quantizer_loss"]


class DenoisingLoss(nn.Module):
    """Weighted mean squared error between prediction and target (Eq. 4, with a weight per timestep).

    The cross-entropy of the mean mask that a conditioner with context predicts is added.
    """

    def forward(self, output: dict[str, torch.Tensor], target: torch.Tensor | None = None) -> torch.Tensor:
        """Scalar loss of :class:`~medseglatdiff_monai.networks.DenoisingNetwork`'s output; ``target`` is unused."""
        loss = _squared_error(output)
        if "mean_mask" in output:
            loss = loss + _mean_mask_cross_entropy(output)
        return loss


def energy_score(to_raters: torch.Tensor, among_samples: torch.Tensor, fairness: float = 0.95) -> torch.Tensor:
    """Energy score of m samples against R raters: mean d(s, y) - 1/2 mean d(s, s'); lower is better.

    A proper score (Gneiting and Raftery, JASA 102, 2007) of independent samples for a distance of negative type: the
    expected score is lowest where samples are distributed as the raters. With self-pairs among the m² (``fairness`` 0)
    a small ensemble is penalised for its size. Without them (1) it is not, but then a single stray sample in an
    ensemble costs nothing. A fairness slightly below 1 is the "almost fair" score of Lang et al. (arXiv 2412.15832, Eq.
    4).

    Args:
        to_raters: (B, m, R), the distances d(s, y).
        among_samples: (B, m, m), the distances d(s, s'), 0 on the diagonal; m is at least 2.
        fairness: share of the fair normalisation, in [0, 1].

    Returns:
        (B,).
    """
    m = among_samples.shape[1]
    within = among_samples.sum((1, 2))
    spread = fairness * within / (m * (m - 1)) + (1.0 - fairness) * within / m**2
    return to_raters.mean((1, 2)) - 0.5 * spread


def ruzicka_distance(a: torch.Tensor, b: torch.Tensor, smoothing: float = 1.0) -> torch.Tensor:
    """1 - (sum min + smoothing) / (sum max + smoothing) of soft masks, for all pairs: 1 - IoU where they are binary.

    A metric of negative type (Ruzicka 1958; the smoothing is a pixel of that value in both), so that
    :func:`energy_score` stays proper. Without smoothing a nearly empty mask would be at distance 1 from an empty one.

    Args:
        a: (B, N, P) in [0, 1], flattened masks.
        b: (B, M, P) likewise.
        smoothing: in pixels.

    Returns:
        (B, N, M) in [0, 1); both masks empty → 0.
    """
    # |a - b| adds up to max - min, and a + b to max + min. torch.cdist needs less memory, but is slow on CUDA for few
    # rows that are as long as an image.
    difference = (a[:, :, None] - b[:, None]).abs().sum(-1)
    total = a.sum(2)[:, :, None] + b.sum(2)[:, None, :]
    return difference / (0.5 * (total + difference) + smoothing)


def latent_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Distance of latents for all pairs: half the root mean square difference, half its mean over the positions.

    Both are Euclidean norms of the difference, not their squares, as the energy score requires. The mean over positions
    gives a sample as many targets as there are positions; the whole also makes it coherent.

    Args:
        a: (B, N, d, h, w[, e]).
        b: (B, M, d, h, w[, e]).

    Returns:
        (B, N, M), at least 0.
    """
    squared = (a[:, :, None] - b[:, None]).pow(2).mean(3).flatten(3)
    # The root of 0 has no gradient.
    return 0.5 * (squared.mean(3) + 1e-10).sqrt() + 0.5 * (squared + 1e-10).sqrt().mean(3)


class ScoringLoss(nn.Module):
    """Energy score of samples against all raters, on masks and latents, beside the losses of denoising and mean mask.

    Decoded logits are far from 0, where their sigmoid is flat, so sigmoid(2 asinh(logit)) is used instead. On latents
    the score has a gradient even where a mask is empty.

    Args:
        fairness: see :func:`energy_score`.
        latent_weight: factor on the score of the latents.
        denoising_weight: factor on :class:`DenoisingLoss`'s squared error.
        overlap_weight: factor on the Ruzicka distance of the mean mask. It shows an image encoder missed structures
            sooner than the cross-entropy, in which the many easy pixels hide them.
    """

    def __init__(
        self,
        fairness: float = 0.95,
        latent_weight: float = 1.0,
        denoising_weight: float = 1.0,
        overlap_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= fairness <= 1.0:
            raise InputError(f"fairness must be in [0, 1], found {fairness}.")
        self.fairness = fairness
        self.latent_weight = latent_weight
        self.denoising_weight = denoising_weight
        self.overlap_weight = overlap_weight

    def forward(self, output: dict[str, torch.Tensor], target: torch.Tensor | None = None) -> torch.Tensor:
        """Scalar loss of :class:`~medseglatdiff_monai.networks.ScoringNetwork`'s output; ``target`` is unused."""
        samples = torch.sigmoid(2.0 * torch.asinh(output["sample_logits"])).flatten(2)
        raters = output["raters"].float().flatten(2)
        score = energy_score(ruzicka_distance(samples, raters), ruzicka_distance(samples, samples), self.fairness)
        if self.latent_weight > 0:
            x_0, y_0 = output["sample_latents"], output["rater_latents"]
            latent_score = energy_score(latent_distance(x_0, y_0), latent_distance(x_0, x_0), self.fairness)
            score = score + self.latent_weight * latent_score
        loss = score.mean()
        if "prediction" in output:
            loss = loss + self.denoising_weight * _squared_error(output)
        if "mean_mask" in output:
            loss = loss + _mean_mask_cross_entropy(output)
            if self.overlap_weight > 0:
                predicted, mean = output["mean_mask_logits"].sigmoid().flatten(2), output["mean_mask"].flatten(2)
                loss = loss + self.overlap_weight * ruzicka_distance(predicted, mean).mean()
        return loss


def _squared_error(output: dict[str, torch.Tensor]) -> torch.Tensor:
    error = (output["prediction"] - output["target"]).pow(2).flatten(1).mean(1)
    return (output["weight"] * error).mean()


def _mean_mask_cross_entropy(output: dict[str, torch.Tensor]) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(output["mean_mask_logits"], output["mean_mask"])
