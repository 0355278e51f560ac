"""What the denoiser is told of the image: the image codec's latent, and on request its context in the whole image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import UNet
from monai.networks.utils import pixelshuffle
from torch import nn

from ..errors import InputError
from .codecs import CodecBase, check_divisible

__all__ = ["CodecConditioner"]


class CodecConditioner(nn.Module):
    """The image as the denoiser sees it: the standardised latent of the image codec's encoder.

    Frozen and quantised it is the paper's conditioner (z_X-bar of Eq. 11). Trainable, the image codec's encoder is only
    the starting point, and is fitted together with the denoiser.

    The encoder sees some pixels around each place. With ``context_channels`` a U-Net over the latent adds what the
    whole image says of it, computed once an image, not once a denoising step. A head on the same features predicts the
    mean of the readers' masks: :class:`~medseglatdiff_monai.losses.DenoisingLoss` teaches the U-Net by it, which takes
    minutes where the noisy denoising loss takes hours. The last layer that adds to the condition starts at zero, so
    that a network trained without context can be trained on with it.

    Args:
        codec: image codec; only its encoder (and codebook, if it quantises) are kept.
        trainable: fit the encoder with the denoiser.
        context_channels: channels of the U-Net's levels, each at half the resolution of the one before; none: no U-Net.
        spatial_dims: of the U-Net, 2 or 3.

    Raises:
        InputError: a codec that quantises is to be trained, or context is asked for with a frozen codec.
    """

    def __init__(
        self, codec: CodecBase, trainable: bool = True, context_channels: Sequence[int] = (), spatial_dims: int = 2
    ) -> None:
        super().__init__()
        if trainable and getattr(codec, "quantize_latents", False):
            raise InputError("A quantised condition has no gradient: train the conditioner or quantise, not both.")
        if context_channels and not trainable:
            raise InputError(
                f"context_channels is {list(context_channels)}, and the conditioner is frozen: its U-Net would never "
                "be trained. Set trainable_conditioner to true, or context_channels to []."
            )
        self.codec = codec.encoder_only()
        self.trainable = trainable
        self.context: nn.Module | None = None
        self.context_multiple = 2 ** (len(context_channels) - 1) if context_channels else 1
        if context_channels:
            features = context_channels[0]
            self.context = UNet(
                spatial_dims,
                codec.latent_channels,
                features,
                context_channels,
                strides=[2] * (len(context_channels) - 1),
                num_res_units=2,
                norm=("group", {"num_groups": 8}),
                act="swish",
            )
            convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
            self.to_condition = convolution(features, codec.latent_channels, 1)
            self.to_mean_mask = convolution(features, codec.downsampling**spatial_dims, 1)
            for parameter in self.to_condition.parameters():
                nn.init.zeros_(parameter)
        self.requires_grad_(trainable)
        self.codec.eval()

    def train(self, mode: bool = True) -> CodecConditioner:
        """Frozen codecs stay in eval mode: in train mode they would move their codebook and statistics."""
        super().train(mode)
        if not self.trainable:
            self.codec.eval()
        return self

    def condition_and_mean_mask(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Image (B, C, H, W[, D]) → condition (B, d_X, h, w[, e]) and logits (B, 1, H, W[, D]) of the mean mask.

        The logits are ``None`` where there is no context.

        Raises:
            InputError: the U-Net cannot halve the latent often enough.
        """
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            z = self.codec.standardize(self.codec.encode(image))
            if self.context is None:
                return z, None
            multiple = self.context_multiple * self.codec.downsampling
            check_divisible(image.shape[2:], multiple, f"{multiple}, by which codec and context reduce it")
            features = self.context(z)
            logits = pixelshuffle(self.to_mean_mask(features), z.ndim - 2, self.codec.downsampling)
            return z + self.to_condition(features), logits

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image (B, C, H, W[, D]) → condition (B, d_X, H/f, W/f[, D/f])."""
        return self.condition_and_mean_mask(image)[0]
