"""Denoisers of diffusion in pixel space: those of SegDiff and MedSegDiff.

SegDiff (Amit et al., arXiv 2112.00390) adds features of the image, F(x_t) + G(I), where G is a chain of
residual-in-residual dense blocks; G is the conditioner here and runs once per image. MedSegDiff (Wu et al., arXiv
2211.00611) lets an image encoder run beside the mask's at every step: dynamic conditional encoding, with a learned
frequency filter (FF-Parser) on the noisy mask's features.
"""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import get_down_block, get_timestep_embedding
from torch import nn

from ...errors import InputError
from ..codecs import CodecBase


class _DenseBlock(nn.Module):
    """Five convolutions, each on all features before it (ESRGAN, arXiv 1809.00219, without normalisation)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        widths = [channels + i * growth for i in range(5)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, channels if i == 4 else growth, 3, padding=1) for i, width in enumerate(widths)
        )
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = x
        for convolution in self.convolutions[:-1]:
            features = torch.cat([features, self.activation(convolution(features))], dim=1)
        return x + 0.2 * self.convolutions[-1](features)


class _ResidualDenseBlock(nn.Module):
    """Three dense blocks with a residual connection around them, scaled by 0.2 as in ESRGAN."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(_DenseBlock(channels, growth) for _ in range(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.2 * self.blocks(x)


class DenseImageEncoder(CodecBase):
    """SegDiff's G: features of the image at its full resolution. An image codec without decoder, to be trained fresh.

    Args:
        in_channels: channels of the image.
        channels: channels of the features, those that :class:`SegDiffDenoiser` adds.
        num_blocks: residual-in-residual dense blocks; the paper takes 10 to 12.
        growth: channels that each convolution of a dense block adds.
    """

    def __init__(self, in_channels: int, channels: int = 32, num_blocks: int = 4, growth: int = 16) -> None:
        super().__init__(channels, downsampling=1)
        self.first = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(_ResidualDenseBlock(channels, growth) for _ in range(num_blocks)))
        self.last = nn.Conv2d(channels, channels, 3, padding=1)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Image (B, C, H, W) → features (B, channels, H, W)."""
        x = self.first(x)
        return x + self.last(self.blocks(x))


class SegDiffDenoiser(nn.Module):
    """SegDiff's U-Net on F(x_t) + G(I); F is one convolution.

    Args:
        mask_channels: channels of x_t.
        condition_channels: channels of G(I).
        **unet: arguments of MONAI's ``DiffusionModelUNet`` except its input and output channels.
    """

    def __init__(self, mask_channels: int, condition_channels: int, **unet: Any) -> None:
        super().__init__()
        self.mask_channels = mask_channels
        self.embed_mask = nn.Conv2d(mask_channels, condition_channels, 3, padding=1)
        self.unet = DiffusionModelUNet(
            spatial_dims=2, in_channels=condition_channels, out_channels=mask_channels, **unet
        )

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """[x_t, G(I)] (B, mask_channels + condition_channels, H, W) at timesteps (B,) → (B, mask_channels, H, W)."""
        x_t, condition = x[:, : self.mask_channels], x[:, self.mask_channels :]
        return self.unet(self.embed_mask(x_t) + condition, timesteps)


class FrequencyParser(nn.Module):
    """FF-Parser: a learned complex weight for each channel and frequency, M' = IFFT(A ⊗ FFT(M)).

    It starts near the identity (1 plus a little noise), so that an untrained filter passes features on.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.side = side
        # Real and imaginary part of the weight of each frequency of a real signal.
        weight = 0.02 * torch.randn(channels, side, side // 2 + 1, 2)
        weight[..., 0] += 1.0
        self.weight = nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (B, channels, side, side) → filtered features, same shape.

        Raises:
            InputError: features of another size.
        """
        if not torch.jit.is_tracing() and x.shape[-2:] != (self.side, self.side):
            raise InputError(
                f"The frequency filter is learned for features of {self.side}×{self.side}, found "
                f"{x.shape[-2]}×{x.shape[-1]}. MedSegDiff takes images of the image_size it was trained with."
            )
        # In the memory format channels_last the real and imaginary parts would not be adjacent.
        weight = self.weight.float().contiguous()
        # In half precision some sizes have no FFT.
        spectrum = torch.fft.rfft2(x.float(), norm="ortho") * torch.view_as_complex(weight)
        return torch.fft.irfft2(spectrum, s=(self.side, self.side), norm="ortho").to(x.dtype)


class _AttentiveFusion(nn.Module):
    """m_I + A(m_I, m_x), A = (LN(m_I) ⊗ LN(P(m_x))) ⊗ m_I with the frequency parser P (MedSegDiff, Section 2.2)."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.parser = FrequencyParser(channels, side)
        # One group: the layer norm of a feature map.
        self.norm_image = nn.GroupNorm(1, channels)
        self.norm_mask = nn.GroupNorm(1, channels)

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return image + self.norm_image(image) * self.norm_mask(self.parser(mask)) * image


class MedSegDiffDenoiser(DiffusionModelUNet):
    """MedSegDiff's denoiser: D(E_x([x_t, I], t) + E_I(I, x_t, t), t).

    E_I has the levels of E_x. After each level its features are multiplied by attention that the frequency-filtered
    features of x_t give (dynamic conditional encoding); its last ones are added to those of x_t before the middle.

    Args:
        mask_channels: channels of x_t.
        condition_channels: channels of the image.
        image_size: side of the image, by which the filters are sized; a multiple of 2 ** (levels - 1).
        **unet: arguments of MONAI's ``DiffusionModelUNet`` except dimensions and channels of input and output. E_I
            takes ``channels``, ``num_res_blocks``, ``num_head_channels`` and ``norm_num_groups`` as well, which must
            be given.

    Raises:
        InputError: ``image_size`` cannot be halved at every level.
    """

    def __init__(self, mask_channels: int, condition_channels: int, image_size: int, **unet: Any) -> None:
        channels = unet["channels"]
        levels = len(channels)
        if image_size % 2 ** (levels - 1):
            raise InputError(f"image_size is {image_size}, and {levels} levels need a multiple of {2 ** (levels - 1)}.")
        super().__init__(
            spatial_dims=2, in_channels=mask_channels + condition_channels, out_channels=mask_channels, **unet
        )
        self.mask_channels = mask_channels
        self.image_in = nn.Conv2d(condition_channels, channels[0], 3, padding=1)
        self.image_blocks = nn.ModuleList()
        self.fusions = nn.ModuleList()
        before, side = channels[0], image_size
        for level, width in enumerate(channels):
            last = level == levels - 1
            self.image_blocks.append(
                get_down_block(
                    spatial_dims=2, in_channels=before, out_channels=width, temb_channels=channels[0] * 4,
                    num_res_blocks=unet["num_res_blocks"], norm_num_groups=unet["norm_num_groups"], norm_eps=1e-6,
                    add_downsample=not last, resblock_updown=False, with_attn=False, with_cross_attn=False,
                    num_head_channels=unet["num_head_channels"], transformer_num_layers=1, cross_attention_dim=None,
                    upcast_attention=False, dropout_cattn=0.0,
                )
            )  # fmt: skip
            side = side if last else side // 2
            self.fusions.append(_AttentiveFusion(width, side))
            before = width

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """[x_t, I] (B, mask_channels + condition_channels, H, W) at timesteps (B,) → (B, mask_channels, H, W)."""
        embedding = self.time_embed(get_timestep_embedding(timesteps, self.block_out_channels[0]).to(x.dtype))
        mask = self.conv_in(x)
        image = self.image_in(x[:, self.mask_channels :])
        skips = [mask]
        for mask_block, image_block, fusion in zip(self.down_blocks, self.image_blocks, self.fusions, strict=True):
            mask, residuals = mask_block(hidden_states=mask, temb=embedding)
            skips.extend(residuals)
            image, _ = image_block(hidden_states=image, temb=embedding)
            image = fusion(image, mask)
        h = self.middle_block(hidden_states=mask + image, temb=embedding, context=None)
        for block in self.up_blocks:
            number = len(block.resnets)  # type: ignore[arg-type]
            skips, residuals = skips[:-number], skips[-number:]
            h = block(hidden_states=h, res_hidden_states_list=residuals, temb=embedding)
        return self.out(h)
