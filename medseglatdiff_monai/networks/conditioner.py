"""The condition of the denoiser: the image codec's latent, and optionally context from the whole image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import UNet
from monai.networks.utils import pixelshuffle
from torch import nn

from ..errors import InputError
from .codecs import CodecBase, check_divisible
from .encoders import EncoderContext


class CodecConditioner(nn.Module):
    """The image as the denoiser sees it: the standardised latent of the image codec's encoder.

    Frozen and quantised it is the paper's conditioner (z_X-bar of Eq. 11). If it is trainable, the image codec's
    encoder is only the starting point and is fitted together with the denoiser.

    The encoder sees only some pixels around each place. With ``context_channels`` a U-Net over the latent adds context
    from the whole image, computed once per image instead of once per denoising step. A head on the same features
    predicts the mean of the raters' masks. :class:`~medseglatdiff_monai.training.losses.DenoisingLoss` trains the U-Net
    through it, which takes minutes where the noisy denoising loss takes hours. With ``image_encoder`` an encoder with
    ImageNet weights does the same from the image itself, see
    :class:`~medseglatdiff_monai.networks.encoders.EncoderContext`. With both, their additions and logits are summed.
    The last layers that add to the condition start at zero, so that training can continue from a network without them.

    Args:
        codec: image codec; only its encoder (and codebook, if it quantises) are kept.
        trainable: fit the encoder with the denoiser.
        context_channels: channels of the U-Net's levels, each at half the resolution of the one before; () for none.
        spatial_dims: of the U-Net, 2 or 3.
        image_encoder: a key of :data:`~medseglatdiff_monai.networks.encoders.ENCODERS`, or ``None``.
        image_encoder_channels: channels of the decoder that brings its features to the latent's grid.
        image_encoder_depth: how many of its strides 2, 4, 8, 16, 32 it has.

    Raises:
        InputError: a trainable codec that quantises; context or an image encoder with a frozen codec; an image encoder
            that does not fit.
    """

    def __init__(
        self,
        codec: CodecBase,
        trainable: bool = True,
        context_channels: Sequence[int] = (),
        spatial_dims: int = 2,
        image_encoder: str | None = None,
        image_encoder_channels: int = 64,
        image_encoder_depth: int = 5,
    ) -> None:
        super().__init__()
        if trainable and getattr(codec, "quantize_latents", False):
            raise InputError("A quantised condition has no gradient: train the conditioner or quantise, not both.")
        if (context_channels or image_encoder) and not trainable:
            raise InputError(
                f"context_channels is {list(context_channels)} and image_encoder {image_encoder!r}, and the "
                "conditioner is frozen: they would never be trained. Set trainable_conditioner to true, or "
                "context_channels to [] and image_encoder to null."
            )
        if image_encoder and spatial_dims != 2:
            raise InputError(
                f"image_encoder {image_encoder!r} is for 2D images, and spatial_dims is {spatial_dims}: set it to null."
            )
        self.codec = codec.encoder_only()
        self.trainable = trainable
        self.context: nn.Module | None = None
        self.size_multiple = codec.downsampling * 2 ** max(0, len(context_channels) - 1)
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
        self.image_encoder: EncoderContext | None = None
        if image_encoder:
            self.image_encoder = EncoderContext(
                image_encoder, codec.latent_channels, codec.downsampling, image_encoder_channels, image_encoder_depth
            )
            self.size_multiple = max(self.size_multiple, self.image_encoder.size_multiple)
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

        The logits are ``None`` where there is neither context nor an image encoder.

        Raises:
            InputError: an image that cannot be halved often enough.
        """
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            z = self.codec.standardize(self.codec.encode(image))
            if self.context is None and self.image_encoder is None:
                return z, None
            check_divisible(
                image.shape[2:], self.size_multiple, f"{self.size_multiple}, by which codec and context reduce it"
            )
            logits: list[torch.Tensor] = []
            condition = z
            if self.context is not None:
                features = self.context(z)
                condition = condition + self.to_condition(features)
                logits.append(pixelshuffle(self.to_mean_mask(features), z.ndim - 2, self.codec.downsampling))
            if self.image_encoder is not None:
                addition, mean_mask = self.image_encoder(image)
                condition = condition + addition
                logits.append(mean_mask)
            return condition, torch.stack(logits).sum(0)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image (B, C, H, W[, D]) → condition (B, d_X, H/f, W/f[, D/f])."""
        return self.condition_and_mean_mask(image)[0]
