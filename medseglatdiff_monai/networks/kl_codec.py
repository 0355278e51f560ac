"""KL-VAE codec of images or masks (Rombach et al., arXiv 2112.10752) on MONAI's ``AutoencoderKL``.

The encoder gives a normal posterior q(z|x) = N(mu, sigma^2) of each latent value; training draws z from it and adds
``kl_weight`` times KL(q || N(0, 1)) = (mu^2 + sigma^2 - log sigma^2 - 1) / 2 to the loss. LSegDiff does so.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import AutoencoderKL

from ..errors import InputError
from .codecs import CodecBase, share_without


def kl_divergence(mu: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)), summed over a case's latent values (B, d, h, w[, e]), mean over cases: scalar."""
    return 0.5 * (mu.pow(2) + sigma.pow(2) - sigma.pow(2).log() - 1.0).flatten(1).sum(1).mean()


class KLCodec(CodecBase):
    """KL-VAE of images or masks: f = 2 ** len(channels), as with :class:`~medseglatdiff_monai.networks.VQVAECodec`.

    :meth:`encode` returns the posterior's mean, not a draw, so a mask always has the same latent. Latents can therefore
    be stored, codec figures are repeatable, and the spread of the diffusion model's samples is that of the raters. With
    the small ``kl_weight`` in use, sigma is far below the latent's own deviation. The statistics by which latents are
    standardised are those of the mean.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image, 1 for masks.
        channels: feature channels of each halving; the full-resolution level before them has half of the first.
        num_res_layers: residual units per level.
        embedding_dim: d, channels of the latent.
        kl_weight: factor on :func:`kl_divergence`.
        norm_num_groups: groups of the group normalisation; divides every number of channels.
        latent_noise: see :class:`~medseglatdiff_monai.networks.VQVAECodec`; added to the posterior's own noise.
        positive_weight: w, see :class:`CodecBase`.
        correct_logits: see :class:`CodecBase`.

    Raises:
        InputError: channels that the groups do not divide, or a negative weight or noise.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        channels: Sequence[int] = (64, 128),
        num_res_layers: int = 2,
        embedding_dim: int = 4,
        kl_weight: float = 1e-6,
        norm_num_groups: int = 4,
        latent_noise: float = 0.0,
        positive_weight: float | str = 1.0,
        correct_logits: bool = True,
    ) -> None:
        super().__init__(embedding_dim, 2 ** len(channels), positive_weight, correct_logits)
        if kl_weight < 0 or latent_noise < 0:
            raise InputError(f"kl_weight and latent_noise must be at least 0, found {kl_weight} and {latent_noise}.")
        levels = (channels[0] // 2, *channels)
        if any(number % norm_num_groups or not number for number in levels):
            raise InputError(
                f"norm_num_groups = {norm_num_groups} must divide the channels of every level, found {levels} (the "
                "first is half of the first of channels): choose other channels or fewer groups."
            )
        self.kl_weight = kl_weight
        self.latent_noise = latent_noise
        self.autoencoder = AutoencoderKL(
            spatial_dims, in_channels, in_channels, num_res_layers, levels, (False,) * len(levels), embedding_dim,
            norm_num_groups, with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False,
        )  # fmt: skip

    def encoder_only(self) -> KLCodec:
        """A codec that shares this one's encoder and has no decoder."""
        part = share_without(self)
        part.autoencoder = share_without(self.autoencoder, "quant_conv_log_sigma", "post_quant_conv", "decoder")
        return part

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Image or mask (B, C, H, W[, D]) → mean latent (B, d, H/f, W/f[, D/f])."""
        self.check_size(x.shape[2:])
        return self.autoencoder.quant_conv_mu(self.autoencoder.encoder(x))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Latent (B, d, h, w[, e]) → image in its own range, or mask logits (B, 1, H, W[, D]) corrected by log w."""
        return self.correction(self.autoencoder.decode(z))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Training pass over ``x`` (B, C, H, W[, D]); draws z from the posterior in train mode, else takes its mean.

        Returns:
            ``reconstruction`` as the loss needs it (logits not corrected by log w), and as ``quantizer_loss`` the
            weighted KL term, under the name by which :class:`~medseglatdiff_monai.training.losses.CodecLoss` adds it.
        """
        self.check_size(x.shape[2:])
        mu, sigma = self.autoencoder.encode(x)
        mu, sigma = mu.float(), sigma.float()
        z = mu
        if self.training:
            self.update_latent_statistics(mu.detach())
            z = self.autoencoder.sampling(mu, sigma)
            if self.latent_noise > 0:
                z = self.add_latent_noise(z, self.latent_noise)
        return {
            "reconstruction": self.autoencoder.decode(z),
            "quantizer_loss": self.kl_weight * kl_divergence(mu, sigma),
        }
