"""One-to-one segmenters: one mask per image, behind the interface of the one-to-many ones, and their training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceCELoss
from torch import nn

from ...errors import InputError
from ..codecs import check_divisible


class OneToOneSegmenter(nn.Module):
    """Any segmentation network (MONAI's UNet, DynUNet, SwinUNETR, ...) as an ensemble of equal samples.

    Args:
        network: image (B, C, H, W[, D]) → logits (B, 1, H, W[, D]). In training it may return several: a list of such
            maps, the finest last (MONAI's UNet++), or one tensor (B, K, 1, H, W[, D]), the finest first (DynUNet).
        downsampling: sides of the image must be multiples of it.
        num_samples: how often :class:`~medseglatdiff_monai.ensemble.inferer.EnsembleInferer` asks for the mask; kept
            for the record.
    """

    # What evaluation asks of every segmenter: there is no codec whose figures could be reported, and one network call.
    mask_codec = None
    num_inference_steps = 1
    sampler: str | None = None

    def __init__(self, network: nn.Module, downsampling: int = 1, num_samples: int = 1) -> None:
        super().__init__()
        self.network = network
        self.downsampling = downsampling
        self.num_samples = num_samples

    def check_size(self, spatial_shape: Sequence[int]) -> None:
        """Refuse an image that the network cannot halve often enough, see :func:`check_divisible`."""
        check_divisible(spatial_shape, self.downsampling, f"{self.downsampling}, by which the network reduces it")

    def head_logits(self, image: torch.Tensor) -> torch.Tensor:
        """Image (B, C, H, W[, D]) → logits of all heads (B, K, 1, H, W[, D]), the finest first; K = 1 without heads."""
        self.check_size(image.shape[2:])
        output = self.network(image)
        if isinstance(output, (list, tuple)):
            return torch.stack(list(output)[::-1], dim=1)
        return output if output.ndim > image.ndim else output[:, None]

    @torch.no_grad()
    def ensemble_logits(
        self,
        image: torch.Tensor,
        num_samples: int,
        seed: int = 0,
        cases: Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        sampler: str | None = None,
        chunk_size: int = 64,
    ) -> torch.Tensor:
        """Image (B, C, H, W[, D]) → its mask N times: logits (B, N, H, W[, D]) float32, views of one.

        ``chunk_size`` images go through the network at once. Nothing is random: the other arguments have no effect.
        """
        logits = torch.cat([self.head_logits(part)[:, 0] for part in image.split(chunk_size)])
        return logits.float().expand(-1, num_samples, *[-1] * (image.ndim - 2))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Probability map (B, 1, H, W[, D]) float32 in [0, 1] of an image (B, C, H, W[, D])."""
        return self.head_logits(image)[:, 0].float().sigmoid()


class SegmentingNetwork(nn.Module):
    """Training view of a one-to-one segmenter, called as :class:`~medseglatdiff_monai.networks.DenoisingNetwork` is."""

    def __init__(self, segmenter: OneToOneSegmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image: torch.Tensor, masks: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits and targets; the image passes through the network once, however many targets it has.

        Args:
            image: (B, C, H, W[, D]).
            masks: (B, M, H, W[, D]) in {0, 1}, M targets per image.

        Returns:
            ``logits`` (B * M, K, 1, H, W[, D]) of K heads, the finest first, and ``target`` (B * M, 1, H, W[, D]).
        """
        logits = self.segmenter.head_logits(image).float()
        return {
            "logits": logits.repeat_interleave(masks.shape[1], dim=0),
            "target": masks.flatten(0, 1)[:, None].float(),
        }


class SegmentationLoss(nn.Module):
    """Soft Dice plus cross-entropy, a weighted sum over the heads of deep supervision.

    Dice is that of all pixels of the batch together (nnU-Net's batch Dice in 2D), which is defined where single masks
    are empty. nnU-Net halves the weight from one resolution to the next and scales the sum to 1.

    Args:
        head_strides: ratio of each head's sides to the image's, the finest first, e.g. (1, 2, 4). Heads arrive enlarged
            to the image by repetition and are reduced again, and the target with them, so that each resolution is
            compared at its own, as in nnU-Net. Equal strides, e.g. (1, 1, 1, 1), for UNet++.
        halve_weights: weights 1, 1/2, 1/4, ...; else all heads weigh the same.
    """

    def __init__(self, head_strides: Sequence[int] = (1,), halve_weights: bool = True) -> None:
        super().__init__()
        self.head_strides = tuple(head_strides)
        weights = [0.5**i if halve_weights else 1.0 for i in range(len(self.head_strides))]
        self.weights = [weight / sum(weights) for weight in weights]
        self.dice_ce = DiceCELoss(sigmoid=True, batch=True)

    def forward(self, output: dict[str, torch.Tensor], target: torch.Tensor | None = None) -> torch.Tensor:
        """Scalar loss of :class:`SegmentingNetwork`'s output; ``target`` is unused.

        Raises:
            InputError: the network has another number of heads than ``head_strides``.
        """
        logits, masks = output["logits"], output["target"]
        if logits.shape[1] != len(self.head_strides):
            raise InputError(
                f"The network has {logits.shape[1]} heads, head_strides names {len(self.head_strides)}: "
                f"{self.head_strides}. Give one stride per head."
            )
        loss = logits.new_zeros(())
        for head, stride, weight in zip(logits.unbind(1), self.head_strides, self.weights, strict=True):
            every = (slice(None), slice(None), *[slice(None, None, stride)] * (masks.ndim - 2))
            loss = loss + weight * self.dice_ce(head[every], masks[every])
        return loss
