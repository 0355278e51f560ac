"""One-to-one networks with transformers: TransUNet, Swin-Unet and SegFormer.

All take an image (B, C, H, W) to logits (B, 1, H, W) and are trained behind
:class:`~medseglatdiff_monai.networks.OneToOneSegmenter`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from monai.networks.blocks import Convolution, PatchEmbed, ResidualUnit, TransformerBlock, UpSample
from monai.networks.nets.swin_unetr import BasicLayer, PatchMergingV2
from monai.networks.utils import pixelshuffle
from torch import nn

from ...extras import require


class TransUNet(nn.Module):
    """A convolutional encoder, a transformer on its coarsest features, a decoder with skips (arXiv 2102.04306).

    Args:
        in_channels: channels of the image.
        image_size: side of the images that it is trained with; the embedding of positions is resampled for others.
        channels: of the encoder's levels, each at half the side of the one before.
        hidden_size: width of the transformer.
        mlp_dim: width of its feed-forward layers.
        num_layers: its blocks.
        num_heads: its attention heads.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        channels: Sequence[int] = (32, 64, 128, 256),
        hidden_size: int = 192,
        mlp_dim: int = 768,
        num_layers: int = 8,
        num_heads: int = 6,
    ) -> None:
        super().__init__()
        widths = [in_channels, *channels]
        self.encoder = nn.ModuleList(
            ResidualUnit(2, before, width, strides=2, subunits=2, norm="batch") for before, width in pairwise(widths)
        )
        side = image_size // 2 ** len(channels)
        self.embed = nn.Conv2d(channels[-1], hidden_size, 1)
        self.positions = nn.Parameter(0.02 * torch.randn(1, hidden_size, side, side))
        self.blocks = nn.Sequential(*(TransformerBlock(hidden_size, mlp_dim, num_heads) for _ in range(num_layers)))
        for block in self.blocks:
            # MONAI's norm of an attention that is switched off: distributed training wants no weight without a use.
            block.norm_cross_attn = nn.Identity()
        self.norm = nn.LayerNorm(hidden_size)
        # The skips' widths from coarse to fine; none at the image's own resolution, as in the paper.
        skips = [*channels[-2::-1], 0]
        outputs = [*channels[-2::-1], channels[0] // 2]
        self.decoder = nn.ModuleList(
            _UpBlock(before + skip, width)
            for before, skip, width in zip([hidden_size, *outputs[:-1]], skips, outputs, strict=True)
        )
        self.head = nn.Conv2d(outputs[-1], 1, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image (B, C, H, W), sides a multiple of 2 ** levels → logits (B, 1, H, W)."""
        levels = []
        x = image
        for unit in self.encoder:
            x = unit(x)
            levels.append(x)
        x = self.embed(x)
        size = x.shape[2:]
        x = x + F.interpolate(self.positions, size=size, mode="bilinear")
        x = self.norm(self.blocks(x.flatten(2).transpose(1, 2))).transpose(1, 2).unflatten(2, size)
        for block, skip in zip(self.decoder, [*levels[-2::-1], None], strict=True):
            x = block(x, skip)
        return self.head(x)


class _UpBlock(nn.Module):
    """Twice the side by bilinear interpolation, the skip beside it, two convolutions."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.upsample = UpSample(2, scale_factor=2, mode="nontrainable")
        self.convolutions = nn.Sequential(
            Convolution(2, in_channels, channels, norm="batch", act="relu", bias=False),
            Convolution(2, channels, channels, norm="batch", act="relu", bias=False),
        )

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None) -> torch.Tensor:
        x = self.upsample(x)
        return self.convolutions(x if skip is None else torch.cat([x, skip], dim=1))


class SwinUNet(nn.Module):
    """An encoder and a decoder of shifted windows alone (Swin-Unet, arXiv 2105.05537), on MONAI's Swin blocks.

    Args:
        in_channels: channels of the image.
        patch_size: side of a token in pixels.
        channels: of the first level; they double where the side halves.
        depths: blocks of each level, the bottleneck last. The decoder has those of the levels above it.
        num_heads: attention heads of each level.
        window_size: side of a window in tokens.
    """

    def __init__(
        self,
        in_channels: int,
        patch_size: int = 4,
        channels: int = 48,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
    ) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(len(depths))]
        self.embed = PatchEmbed(patch_size, in_channels, channels, nn.LayerNorm, spatial_dims=2)

        def layer(level: int) -> BasicLayer:
            return BasicLayer(
                widths[level], depths[level], num_heads[level], [window_size] * 2, [0.0] * depths[level], qkv_bias=True
            )

        levels = range(len(depths))
        self.encoder = nn.ModuleList(layer(level) for level in levels)
        self.merge = nn.ModuleList(PatchMergingV2(width, spatial_dims=2) for width in widths[:-1])
        self.expand = nn.ModuleList(_PatchExpanding(width, width // 2, 2) for width in widths[:0:-1])
        self.reduce = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for width in widths[-2::-1])
        self.decoder = nn.ModuleList(layer(level) for level in levels[-2::-1])
        self.norm = nn.GroupNorm(1, channels)
        self.expand_to_pixels = _PatchExpanding(channels, channels, patch_size)
        self.head = nn.Conv2d(channels, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image (B, C, H, W), sides a multiple of patch_size · 2 ** (levels - 1) → logits (B, 1, H, W)."""
        x = self.embed(image)
        skips = []
        for number, layer in enumerate(self.encoder):
            x = layer(x)
            if number < len(self.merge):
                skips.append(x)
                x = self.merge[number](x.movedim(1, -1)).movedim(-1, 1)
        for expand, reduce, layer, skip in zip(self.expand, self.reduce, self.decoder, skips[::-1], strict=True):
            x = layer(reduce(torch.cat([expand(x), skip], dim=1)))
        return self.head(self.expand_to_pixels(self.norm(x)))


class _PatchExpanding(nn.Module):
    """Each token becomes factor × factor tokens: a linear layer, a rearrangement, a layer norm."""

    def __init__(self, in_channels: int, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.linear = nn.Conv2d(in_channels, channels * factor**2, 1, bias=False)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = pixelshuffle(self.linear(x), 2, self.factor)
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class SegFormer(nn.Module):
    """SegFormer-B0 (arXiv 2105.15203), the network of the package ``transformers``, untrained.

    Args:
        in_channels: channels of the image.
        hidden_sizes: channels at the strides 4, 8, 16 and 32.
        depths: blocks at each stride.
        decoder_channels: of the decoder, whose logits at a quarter of the side are enlarged bilinearly.

    Raises:
        InputError: ``transformers`` is not installed.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_sizes: Sequence[int] = (32, 64, 160, 256),
        depths: Sequence[int] = (2, 2, 2, 2),
        decoder_channels: int = 256,
    ) -> None:
        super().__init__()
        require("baselines", "The experiment segformer")
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        self.network = SegformerForSemanticSegmentation(
            SegformerConfig(
                num_channels=in_channels,
                hidden_sizes=list(hidden_sizes),
                depths=list(depths),
                decoder_hidden_size=decoder_channels,
                num_labels=1,  # type: ignore[call-arg]
            )
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image (B, C, H, W), sides a multiple of 32 → logits (B, 1, H, W)."""
        logits = self.network(pixel_values=image).logits
        return F.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=False)
