"""HyperSeg (Nirkin et al., arXiv 2012.11582): a decoder whose weights differ from patch to patch of the image.

An encoder's coarsest features pass through a context head. From each of its cells the weights of a patch's
convolutions are computed, in every level of the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from monai.networks.blocks import Convolution, ResidualUnit
from torch import nn


class HyperSeg(nn.Module):
    """A network image → logits, with the published design at a size that a CPU trains.

    Args:
        in_channels: channels of the image.
        channels: of the encoder's levels, each at half the side of the one before. The coarsest level's cells are the
            patches: sides of the image must be a multiple of 2 ** levels.
        signal_channels: channels of the signal that the weights are computed from.
        decoder_channels: of every level of the decoder.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int] = (24, 48, 96, 128, 192),
        signal_channels: int = 64,
        decoder_channels: int = 16,
    ) -> None:
        super().__init__()
        widths = [in_channels, *channels]
        self.encoder = nn.ModuleList(
            ResidualUnit(2, before, width, strides=2, subunits=2, norm="batch") for before, width in pairwise(widths)
        )
        # The context head sees all cells: 1 × 1 and 3 × 3 convolutions and their mean.
        self.context = Convolution(2, channels[-1], signal_channels, norm="batch", act="relu")
        self.blend = Convolution(2, 2 * signal_channels, signal_channels, norm="batch", act="relu")
        # Positions, two channels, are added to every level (Section 3.3).
        inputs = [channels[-1] + 2, *(decoder_channels + width + 2 for width in [*channels[-2::-1], in_channels])]
        self.decoder = nn.ModuleList(_DynamicBlock(number, decoder_channels, signal_channels) for number in inputs)
        self.head = nn.Conv2d(decoder_channels, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image (B, C, H, W) → logits (B, 1, H, W)."""
        levels = [image]
        for unit in self.encoder:
            levels.append(unit(levels[-1]))
        signal = self.context(levels[-1])
        signal = self.blend(torch.cat([signal, signal.mean((2, 3), keepdim=True).expand_as(signal)], dim=1))
        x: torch.Tensor | None = None
        for block, level in zip(self.decoder, levels[::-1], strict=True):
            parts = [level, _positions(level)]
            if x is not None:
                parts.append(F.interpolate(x, size=level.shape[2:], mode="bilinear", align_corners=False))
            x = block(torch.cat(parts, dim=1), signal)
        return self.head(x)


def _positions(x: torch.Tensor) -> torch.Tensor:
    """Row and column (B, 2, H, W) in [-1, 1]."""
    axes = [torch.linspace(-1, 1, side, device=x.device, dtype=x.dtype) for side in x.shape[2:]]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(len(x), -1, -1, -1)


class _DynamicBlock(nn.Module):
    """An inverted residual block, 1 × 1, depthwise 3 × 3, 1 × 1, with weights of its own in each patch."""

    def __init__(self, in_channels: int, channels: int, signal_channels: int) -> None:
        super().__init__()
        inner = 2 * channels
        # Outputs and inputs of the two 1 × 1 convolutions; the depthwise one has nine weights a channel.
        self.shapes = ((inner, in_channels), (inner, 9), (channels, inner))
        self.to_weights = nn.Conv2d(signal_channels, sum(a * b for a, b in self.shapes), 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(number) for number in (inner, inner, channels))

    def forward(self, x: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
        """Features (B, C, H, W) and signal (B, S, h, w), H a multiple of h → (B, channels, H, W)."""
        sizes = [a * b for a, b in self.shapes]
        first, depthwise, last = (
            weights.unflatten(1, shape)
            for weights, shape in zip(self.to_weights(signal).split(sizes, dim=1), self.shapes, strict=True)
        )
        x = F.relu(self.norms[0](_mix_channels(x, first)))
        x = F.relu(self.norms[1](_mix_neighbours(x, depthwise)))
        return F.relu(self.norms[2](_mix_channels(x, last)))


def _mix_channels(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """1 × 1 convolution of x (B, C, H, W) with a patch's own weights (B, O, C, h, w) → (B, O, H, W)."""
    rows, columns = weights.shape[3:]
    patches = x.unflatten(3, (columns, -1)).unflatten(2, (rows, -1))
    mixed = torch.einsum("bcipjq,bocij->boipjq", patches, weights) / weights.shape[2] ** 0.5
    return mixed.flatten(4, 5).flatten(2, 3)


def _mix_neighbours(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Depthwise 3 × 3 convolution of x (B, C, H, W) with a patch's own weights (B, C, 9, h, w).

    A pixel at a patch's edge sees its neighbours across it.
    """
    height, width = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1))
    mixed = torch.zeros_like(x)
    for number in range(9):
        row, column = divmod(number, 3)
        own = F.interpolate(weights[:, :, number], size=(height, width), mode="nearest")
        mixed = mixed + own * padded[:, :, row : row + height, column : column + width]
    return mixed / 3
