"""A network that is not of the package: dilated convolutions at full size, without a pyramid."""

from collections.abc import Sequence

from torch import nn


class DilatedNetwork(nn.Sequential):
    """Image (B, in_channels, H, W) → logits (B, 1, H, W)."""

    def __init__(self, in_channels: int, channels: int = 32, dilations: Sequence[int] = (1, 2, 4, 8)) -> None:
        layers: list[nn.Module] = []
        for dilation in dilations:
            convolution = nn.Conv2d(in_channels, channels, 3, padding=dilation, dilation=dilation)
            layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU()]
            in_channels = channels
        super().__init__(*layers, nn.Conv2d(channels, 1, 1))
