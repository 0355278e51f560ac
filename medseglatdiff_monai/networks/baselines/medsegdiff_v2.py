"""MedSegDiff-V2 (Wu et al., arXiv 2301.11798): an anchor of the mask, and a transformer between two U-Nets' features.

A segmentation network on the image gives features and a mask, the anchor. Its features are smoothed and added to the
denoiser's first ones (anchor condition); at the denoiser's coarsest level a transformer on their spectra exchanges
what both networks know (SS-Former).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.blocks import Convolution, MLPBlock
from monai.networks.nets import BasicUNet, DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import nn

from ..codecs import CodecBase
from ..conditioner import CodecConditioner


class AnchorEncoder(CodecBase):
    """The segmentation network: image → [image, features, logits of the mask]. An image codec without decoder."""

    def __init__(self, in_channels: int, channels: int = 16) -> None:
        super().__init__(in_channels + channels + 1, downsampling=1)
        self.network = BasicUNet(2, in_channels, channels, (channels, channels, 32, 64, 128, channels))
        self.to_mask = nn.Conv2d(channels, 1, 1)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Image (B, C, H, W), sides a multiple of 16 → (B, C + channels + 1, H, W)."""
        features = self.network(x)
        return torch.cat([x, features, self.to_mask(features)], dim=1)


class AnchorConditioner(CodecConditioner):
    """Condition of :class:`MedSegDiffV2Denoiser`; the anchor is taught the mean mask, as our context is."""

    def condition_and_mean_mask(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Image (B, C, H, W) → condition (B, C + channels + 1, H, W) and logits (B, 1, H, W) of the mean mask."""
        condition = self.codec.encode(image)
        return condition, condition[:, -1:]


class AnchorSmoothing(nn.Module):
    """max(blurred, features): the anchor's features with a margin, as wide as training makes it (U-SA).

    Args:
        channels: channels of the features.
        radius: of the Gaussian's window, in pixels; its standard deviation is learned and starts at 1.
    """

    def __init__(self, channels: int, radius: int = 4) -> None:
        super().__init__()
        self.channels = channels
        self.radius = radius
        self.log_std = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (B, channels, H, W) → same shape."""
        offsets = torch.arange(-self.radius, self.radius + 1, device=x.device, dtype=x.dtype)
        line = (-0.5 * (offsets / self.log_std.exp()) ** 2).exp()
        kernel = torch.outer(line, line)
        kernel = (kernel / kernel.sum()).to(x.dtype).expand(self.channels, 1, -1, -1)
        return torch.maximum(F.conv2d(x, kernel, padding=self.radius, groups=self.channels), x)


class _SpectralAttention(nn.Module):
    """Cross-attention whose affinities are filtered in the spectrum of the queries, depending on the timestep (NBP).

    M = (F(x) W_q)(F(y) W_k)ᵀ; a network of each pair's frequencies and the timestep weighs M; F⁻¹(M) W_v y is added.
    """

    def __init__(self, channels: int, embedding_channels: int) -> None:
        super().__init__()
        self.norm_x = nn.LayerNorm(channels)
        self.norm_y = nn.LayerNorm(channels)
        # Real and imaginary parts beside each other.
        self.to_query = nn.Linear(2 * channels, channels)
        self.to_key = nn.Linear(2 * channels, channels)
        self.to_value = nn.Linear(channels, channels)
        self.pair = nn.Sequential(nn.Linear(4, 32), nn.SiLU())
        self.modulate = nn.Linear(embedding_channels, 64)
        self.to_weight = nn.Linear(32, 1)
        self.feed_forward = nn.Sequential(nn.LayerNorm(channels), MLPBlock(channels, 2 * channels))

    def forward(self, x: torch.Tensor, y: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Queries x and keys y (B, h, w, C), embedding of the timestep (B, E) → x with what y adds, same shape."""
        height, width = x.shape[1:3]
        queries = self.to_query(_spectrum(self.norm_x(x)))
        keys = self.to_key(_spectrum(self.norm_y(y)))
        affinity = queries @ keys.transpose(1, 2) / math.sqrt(x.shape[-1])
        axes = [torch.fft.fftfreq(side, device=x.device, dtype=x.dtype) for side in (height, width)]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)
        tokens = len(grid)
        pairs = torch.cat([grid[:, None].expand(-1, tokens, -1), grid[None].expand(tokens, -1, -1)], dim=-1)
        scale, shift = self.modulate(F.silu(embedding))[:, None, None].chunk(2, dim=-1)
        affinity = affinity * self.to_weight(self.pair(pairs) * (1 + scale) + shift)[..., 0]
        affinity = affinity.unflatten(1, (height, width))
        attention = torch.fft.ifft2(affinity.float(), dim=(1, 2), norm="ortho").real.flatten(1, 2).to(x.dtype)
        values = self.to_value(y.flatten(1, 2))
        x = x + (attention @ values / tokens**0.5).unflatten(1, (height, width))
        return x + self.feed_forward(x)


def _spectrum(x: torch.Tensor) -> torch.Tensor:
    """(B, h, w, C) → real and imaginary parts of its spectrum as tokens (B, h · w, 2 C)."""
    spectrum = torch.fft.fft2(x.float(), dim=(1, 2), norm="ortho")
    return torch.cat([spectrum.real, spectrum.imag], dim=-1).flatten(1, 2).to(x.dtype)


class MedSegDiffV2Denoiser(DiffusionModelUNet):
    """MedSegDiff-V2's denoiser on x_t and the condition of an :class:`AnchorConditioner`.

    Args:
        image_channels: C.
        anchor_channels: channels of the anchor's features.
        num_blocks: of the SS-Former; each attends from the condition to x_t and back.
        mask_channels: channels of x_t.
        **unet: arguments of MONAI's ``DiffusionModelUNet`` except dimensions and channels of input and output.
    """

    def __init__(
        self, image_channels: int, anchor_channels: int = 16, num_blocks: int = 2, mask_channels: int = 1, **unet: Any
    ) -> None:
        super().__init__(spatial_dims=2, in_channels=mask_channels + image_channels, out_channels=mask_channels, **unet)
        channels = unet["channels"]
        self.split_sizes = [mask_channels + image_channels, anchor_channels, 1]
        self.smoothing = AnchorSmoothing(anchor_channels)
        self.add_anchor = nn.Conv2d(anchor_channels, channels[0], 1)
        # The condition's features at the coarsest level: as many halvings as the denoiser has.
        widths = [anchor_channels, *channels]
        self.to_tokens = nn.Sequential(
            *(
                Convolution(2, before, width, strides=1 if level == 0 else 2, norm="instance", act="relu")
                for level, (before, width) in enumerate(pairwise(widths))
            )
        )
        self.attend_to_mask = nn.ModuleList(
            _SpectralAttention(channels[-1], 4 * channels[0]) for _ in range(num_blocks)
        )
        self.attend_to_image = nn.ModuleList(
            _SpectralAttention(channels[-1], 4 * channels[0]) for _ in range(num_blocks)
        )

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """[x_t, image, features, anchor] (B, C, H, W) at timesteps (B,) → (B, mask_channels, H, W)."""
        embedding = self.time_embed(get_timestep_embedding(timesteps, self.block_out_channels[0]).to(x.dtype))
        mask_and_image, features, anchor = x.split(self.split_sizes, dim=1)
        features = features * anchor.sigmoid()
        h = self.conv_in(mask_and_image) + self.add_anchor(self.smoothing(features))
        skips = [h]
        for down in self.down_blocks:
            h, residuals = down(hidden_states=h, temb=embedding)
            skips.extend(residuals)
        tokens, condition = h.movedim(1, -1), self.to_tokens(features).movedim(1, -1)
        for to_mask, to_image in zip(self.attend_to_mask, self.attend_to_image, strict=True):
            condition = to_mask(condition, tokens, embedding)
            tokens = to_image(tokens, condition, embedding)
        h = self.middle_block(hidden_states=tokens.movedim(-1, 1), temb=embedding, context=None)
        for up in self.up_blocks:
            number = len(up.resnets)  # type: ignore[arg-type]
            skips, residuals = skips[:-number], skips[-number:]
            h = up(hidden_states=h, res_hidden_states_list=residuals, temb=embedding)
        return self.out(h)
