"""Codecs encode an image or a mask as a latent and decode it again.

A codec has ``encode``: x → z, ``decode``: z → x (for masks: logits), and a training ``forward`` that returns the
reconstruction with the quantiser's loss. :class:`VQVAECodec` is the paper's VQ-VAE (Eq. 7-10) on MONAI's encoder and
decoder. :class:`IdentityCodec` leaves pixels as they are, so that pixel-space diffusion needs no separate code. The
KL autoencoder is in :mod:`~medseglatdiff_monai.networks.kl_codec`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from monai.networks.nets.vqvae import Decoder, Encoder
from torch import nn

from ..errors import InputError
from .quantizer import VectorQuantizer


def check_divisible(spatial_shape: Sequence[int], factor: int, name: str) -> None:
    """Refuse an image whose sides are not multiples of ``factor``, called ``name`` in the message; not while tracing.

    Raises:
        InputError: names the sides, the factor and the nearest size that fits.
    """
    if torch.jit.is_tracing():
        return
    sides = tuple(int(side) for side in spatial_shape)
    if any(side % factor for side in sides):
        nearest = tuple(max(factor, math.ceil(side / factor) * factor) for side in sides)
        raise InputError(f"Image size {sides} is not a multiple of {name}. Pad or resize it to {nearest}.")


ModuleT = TypeVar("ModuleT", bound=nn.Module)


def share_without(module: ModuleT, *names: str) -> ModuleT:
    """A copy that shares the parts of ``module``, without those named."""
    part = copy.copy(module)
    part._modules = {**module._modules, **dict.fromkeys(names)}
    return part


class CodecBase(nn.Module):
    """Latent statistics and the positive weight w, which travel in every codec's checkpoint as buffers.

    Args:
        latent_channels: channels of the latent.
        downsampling: f, the ratio of the sides of image and latent.
        positive_weight: w of the weighted cross-entropy that the decoder was trained with; 1 for images.
            ``"automatic"`` leaves it open (NaN) until the training masks or a checkpoint set it, see
            :func:`~medseglatdiff_monai.training.losses.settle_positive_weight`.
        correct_logits: subtract log w from the decoder's logits. Training with weight w moves the decision threshold:
            a logit of 0 means a probability of 1 / (1 + w), not 1/2.
    """

    positive_weight: torch.Tensor
    latent_mean: torch.Tensor
    latent_std: torch.Tensor
    num_latent_updates: torch.Tensor

    def __init__(
        self, latent_channels: int, downsampling: int, positive_weight: float | str = 1.0, correct_logits: bool = True
    ) -> None:
        super().__init__()
        if positive_weight == "automatic":
            # Not a number, so that a decoder whose w nobody has set cannot yield a mask.
            positive_weight = math.nan
        elif isinstance(positive_weight, str) or positive_weight <= 0:
            raise InputError(f"positive_weight must be positive or 'automatic', found {positive_weight!r}.")
        self.latent_channels = latent_channels
        self.downsampling = downsampling
        self.correct_logits = correct_logits
        self.register_buffer("positive_weight", torch.tensor(float(positive_weight)))
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.ones(latent_channels))
        self.register_buffer("num_latent_updates", torch.zeros((), dtype=torch.long))

    def encoder_only(self) -> CodecBase:
        """A codec that shares this one's encoder and holds nothing else; by default this one, without a decoder."""
        return self

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Image or mask (B, C, H, W[, D]) → latent (B, d, H/f, W/f[, D/f])."""
        raise NotImplementedError

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Latent (B, d, h, w[, e]) → image in its own range, or mask logits (B, 1, H, W[, D])."""
        raise NotImplementedError

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        """``decode(encode(x))``: same shape as ``x``, logits for masks."""
        return self.decode(self.encode(x))

    def check_size(self, spatial_shape: Sequence[int]) -> None:
        """Refuse an image that the codec cannot halve often enough, see :func:`check_divisible`."""
        check_divisible(spatial_shape, self.downsampling, f"the codec's downsampling factor f = {self.downsampling}")

    @torch.no_grad()
    def update_latent_statistics(self, z: torch.Tensor) -> None:
        """Running mean and standard deviation per channel of ``z`` (B, d, h, w[, e]), the same on every rank.

        The first updates are a plain average, so that the statistics are right from the first batch on.
        """
        dims = [0, *range(2, z.ndim)]
        moments = torch.stack([z.mean(dims), z.pow(2).mean(dims)])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(moments)
            moments /= torch.distributed.get_world_size()
        self.num_latent_updates += 1
        rate = max(0.01, 1.0 / float(self.num_latent_updates))
        mean = torch.lerp(self.latent_mean, moments[0], rate)
        second = torch.lerp(self.latent_std.pow(2) + self.latent_mean.pow(2), moments[1], rate)
        self.latent_mean.copy_(mean)
        self.latent_std.copy_((second - mean.pow(2)).clamp_min(1e-8).sqrt())

    def standardize(self, z: torch.Tensor) -> torch.Tensor:
        """Latent with zero mean and unit deviation per channel over the training set: same shape as ``z``."""
        shape = (1, -1) + (1,) * (z.ndim - 2)
        return (z - self.latent_mean.view(shape)) / self.latent_std.view(shape)

    def unstandardize(self, z: torch.Tensor) -> torch.Tensor:
        """Inverse of :meth:`standardize`."""
        shape = (1, -1) + (1,) * (z.ndim - 2)
        return z * self.latent_std.view(shape) + self.latent_mean.view(shape)

    def correction(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (B, 1, H, W[, D]) minus log w if ``correct_logits`` is set, so that 0 means a probability of 1/2."""
        return logits - self.positive_weight.log() if self.correct_logits else logits

    def add_latent_noise(self, z: torch.Tensor, latent_noise: float) -> torch.Tensor:
        """``z`` (B, d, h, w[, e]) plus noise of ``latent_noise`` times the latent's own deviation in each channel."""
        shape = (1, -1) + (1,) * (z.ndim - 2)
        return z + latent_noise * self.latent_std.view(shape) * torch.randn_like(z)


class IdentityCodec(CodecBase):
    """The latent of a mask is the mask itself, mapped from {0, 1} to {-1, 1}: pixel-space diffusion."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__(channels, downsampling=1)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Mask in [0, 1] (B, C, H, W[, D]) → latent in [-1, 1], same shape."""
        return x * 2.0 - 1.0

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Latent (B, C, H, W[, D]) → logits, same shape: 10 for a latent value of 1."""
        return z * 10.0


class VQVAECodec(CodecBase):
    """VQ-VAE of images or masks: f = 2 ** len(channels), codebook of K entries of length d (Eq. 7-10).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image, 1 for masks.
        channels: feature channels of each level; every level halves the side.
        num_res_layers: residual units per level.
        embedding_dim: d.
        num_embeddings: K; 0 leaves the quantiser out (a plain autoencoder with continuous latents).
        commitment_cost: beta of Eq. 9.
        codebook_update: ``"ema"`` or ``"gradient"`` (Eq. 8).
        codebook_decay: decay of the moving averages of the codebook.
        quantize_latents: whether :meth:`encode` returns quantised latents (the paper's z-bar) or continuous ones.
        quantize_decoded: whether :meth:`decode` quantises the latent first. If not, the decoder makes nearly the same
            mask of a sampled latent in half the time.
        latent_noise: standard deviation, in units of the latent's own, of the noise added to continuous latents in
            training; it makes the decoder tolerant to the small errors of a diffusion model.
        trainable_encoder: ``False``: encoder, codebook and latent statistics stay as they are, and the decoder alone
            learns, from latents as :meth:`decode` gets them. The networks that sample such latents stay valid.
        positive_weight: w, see :class:`CodecBase`.
        correct_logits: see :class:`CodecBase`.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        channels: Sequence[int] = (64, 128),
        num_res_layers: int = 2,
        embedding_dim: int = 4,
        num_embeddings: int = 512,
        commitment_cost: float = 0.25,
        codebook_update: str = "ema",
        codebook_decay: float = 0.99,
        quantize_latents: bool = False,
        quantize_decoded: bool = True,
        latent_noise: float = 0.0,
        trainable_encoder: bool = True,
        positive_weight: float | str = 1.0,
        correct_logits: bool = True,
    ) -> None:
        super().__init__(embedding_dim, 2 ** len(channels), positive_weight, correct_logits)
        if latent_noise < 0:
            raise InputError(f"latent_noise must be at least 0, found {latent_noise}.")
        if latent_noise > 0 and num_embeddings:
            raise InputError(
                f"latent_noise = {latent_noise} is for continuous latents, and the codec has a codebook of "
                f"{num_embeddings} entries: leave the codebook out (mask_num_embeddings 0) or the noise."
            )
        channels = tuple(channels)
        self.quantize_latents = quantize_latents
        self.quantize_decoded = quantize_decoded
        self.latent_noise = latent_noise
        self.trainable_encoder = trainable_encoder
        levels = len(channels)
        self.encoder = Encoder(
            spatial_dims, in_channels, embedding_dim, channels, num_res_layers, channels,
            downsample_parameters=((2, 4, 1, 1),) * levels, dropout=0.0, act="RELU",
        )  # fmt: skip
        self.decoder = Decoder(
            spatial_dims, embedding_dim, in_channels, channels, num_res_layers, channels,
            upsample_parameters=((2, 4, 1, 1, 0),) * levels, dropout=0.0, act="RELU", output_act=None,
        )  # fmt: skip
        self.quantizer = (
            VectorQuantizer(num_embeddings, embedding_dim, commitment_cost, codebook_update, codebook_decay)
            if num_embeddings
            else None
        )
        if not trainable_encoder:
            self.requires_grad_(False)
            self.decoder.requires_grad_(True)

    def encoder_only(self) -> VQVAECodec:
        """A codec that shares this one's encoder and has no decoder, nor a codebook unless latents are quantised."""
        return share_without(self, "decoder") if self.quantize_latents else share_without(self, "decoder", "quantizer")

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Image or mask (B, C, H, W[, D]) → latent (B, d, H/f, W/f[, D/f])."""
        self.check_size(x.shape[2:])
        z = self.encoder(x)
        return self.quantizer.quantize(z) if self.quantizer is not None and self.quantize_latents else z

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Latent (B, d, h, w[, e]) → image in its own range, or mask logits (B, 1, H, W[, D]) corrected by log w."""
        if self.quantizer is not None and self.quantize_decoded:
            quantized = self.quantizer.quantize(z)
            # A loss on decoded masks reaches the latent as if it had not been quantised.
            z = z + (quantized - z).detach() if torch.is_grad_enabled() and z.requires_grad else quantized
        return self.correction(self.decoder(z))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Training pass over ``x`` (B, C, H, W[, D]).

        Returns:
            ``reconstruction`` as the loss needs it (logits not corrected by log w), the quantiser's ``quantizer_loss``
            (Eq. 8 + 9) and its ``perplexity``, both 0 where no codebook is trained.
        """
        self.check_size(x.shape[2:])
        z = self.encoder(x)
        loss = perplexity = z.new_zeros(())
        if self.trainable_encoder:
            if self.training:
                self.update_latent_statistics(z.detach().float())
            if self.quantizer is not None:
                z, _, loss, perplexity = self.quantizer(z)
        elif self.quantizer is not None and (self.quantize_latents or self.quantize_decoded):
            z = self.quantizer.quantize(z)
        if self.training and self.latent_noise > 0 and self.quantizer is None:
            z = self.add_latent_noise(z, self.latent_noise)
        return {"reconstruction": self.decoder(z), "quantizer_loss": loss, "perplexity": perplexity}
