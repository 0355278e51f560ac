"""The Probabilistic U-Net (Kohl et al., arXiv 1806.05034): a U-Net whose last layers see a latent of a few numbers.

A prior network gives the latent's distribution from the image, a posterior network from image and one rater's mask.
Training takes the posterior's latents and draws the prior towards it; a sample is one latent of the prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from monai.networks.blocks import Convolution
from monai.networks.nets import BasicUNet
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from ..noise import SAMPLE_NOISE, draw_sample_noise
from .one_to_one import OneToOneSegmenter


class _GaussianEncoder(nn.Module):
    """Image, and mask if there is one → an axis-aligned Gaussian over the latent."""

    def __init__(self, in_channels: int, channels: Sequence[int], latent_size: int) -> None:
        super().__init__()
        widths = [in_channels, *channels]
        self.convolutions = nn.Sequential(
            *(
                # No norm, as published: one of each image would take away what the mean over the image is to tell.
                Convolution(2, before, width, strides=2, norm=None, act="relu")
                for before, width in pairwise(widths)
            )
        )
        self.to_parameters = nn.Linear(channels[-1], 2 * latent_size)

    def forward(self, x: torch.Tensor) -> Independent:
        mean, log_std = self.to_parameters(self.convolutions(x).mean((2, 3))).float().chunk(2, dim=1)
        return Independent(Normal(mean, log_std.exp()), 1)


class ProbabilisticUNet(OneToOneSegmenter):
    """U-Net, prior and posterior behind the interface of the other segmenters.

    Args:
        in_channels: channels of the image.
        features: of MONAI's ``BasicUNet``, five levels and the last layers; 1/16 is the coarsest.
        channels: of the prior's and the posterior's levels.
        latent_size: numbers in the latent.
        num_samples: as in :class:`OneToOneSegmenter`.
    """

    # In the records: each sample is one pass.
    sampler = "direct"
    sample_noise = SAMPLE_NOISE

    def __init__(
        self,
        in_channels: int,
        features: Sequence[int] = (32, 32, 64, 128, 256, 32),
        channels: Sequence[int] = (32, 64, 128, 128),
        latent_size: int = 6,
        num_samples: int = 1,
    ) -> None:
        width = features[-1]
        super().__init__(BasicUNet(2, in_channels, width, features), downsampling=16, num_samples=num_samples)
        self.latent_size = latent_size
        self.prior = _GaussianEncoder(in_channels, channels, latent_size)
        self.posterior = _GaussianEncoder(in_channels + 1, channels, latent_size)
        self.combine = nn.Sequential(
            nn.Conv2d(width + latent_size, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(),
            nn.Conv2d(width, 1, 1),
        )  # fmt: skip

    def combine_logits(self, features: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        """Features (M, C, H, W) and latents (M, latent_size) → logits (M, 1, H, W)."""
        planes = latent.to(features.dtype)[:, :, None, None].expand(-1, -1, *features.shape[2:])
        return self.combine(torch.cat([features, planes], dim=1))

    @torch.no_grad()
    def ensemble_logits(
        self,
        image: torch.Tensor,
        num_samples: int,
        seed: int = 0,
        cases: Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        sampler: str | None = None,
        chunk_size: int = 64,
    ) -> torch.Tensor:
        """Image (B, C, H, W) → one mask for each of N latents of the prior: logits (B, N, H, W) float32.

        The latent's noise belongs to (seed, case, sample). There are neither steps nor other samplers.
        """
        self.check_size(image.shape[2:])
        prior = self.prior(image).base_dist
        names = list(cases or [""] * len(image))
        noise = torch.stack(
            [draw_sample_noise((self.latent_size,), seed, case, i) for case in names for i in range(num_samples)]
        ).to(image.device)
        owners = torch.arange(len(image), device=image.device).repeat_interleave(num_samples)
        latents = prior.loc[owners] + prior.scale[owners] * noise
        features = torch.cat([self.network(part) for part in image.split(chunk_size)])
        logits = [
            self.combine_logits(features[owner], latent)
            for owner, latent in zip(owners.split(chunk_size), latents.split(chunk_size), strict=True)
        ]
        return torch.cat(logits).float().squeeze(1).unflatten(0, (len(image), num_samples))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Confidence map (B, 1, H, W) float32 in [0, 1] of ``num_samples`` samples with seed 0."""
        return (self.ensemble_logits(image, self.num_samples) > 0).float().mean(1, keepdim=True)


class ProbabilisticNetwork(nn.Module):
    """Training view of a :class:`ProbabilisticUNet`: reconstructs raters' masks from the posterior's latents."""

    def __init__(self, segmenter: ProbabilisticUNet) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image: torch.Tensor, masks: torch.Tensor) -> dict[str, torch.Tensor]:
        """Image (B, C, H, W) and masks (B, M, H, W) in {0, 1}, one latent for each mask.

        Returns:
            ``logits`` and ``target`` (B * M, 1, H, W), and ``divergence`` (B * M,), that of posterior and prior in
            nats.
        """
        net = self.segmenter
        net.check_size(image.shape[2:])
        rows = torch.arange(len(image), device=image.device).repeat_interleave(masks.shape[1])
        target = masks.flatten(0, 1)[:, None].float()
        prior = net.prior(image).base_dist
        repeated = Independent(Normal(prior.loc[rows], prior.scale[rows]), 1)
        posterior = net.posterior(torch.cat([image[rows], target.to(image.dtype)], dim=1))
        logits = net.combine_logits(net.network(image)[rows], posterior.rsample())
        return {"logits": logits.float(), "target": target, "divergence": kl_divergence(posterior, repeated)}


class EvidenceLoss(nn.Module):
    """Cross-entropy plus β · divergence of a :class:`ProbabilisticNetwork`, per pixel (Eq. 4 of arXiv 1806.05034).

    The paper sums the cross-entropy over the pixels; both terms are divided by their number here. β is
    ``divergence_weight``.
    """

    def __init__(self, divergence_weight: float = 1.0) -> None:
        super().__init__()
        self.divergence_weight = divergence_weight

    def forward(self, output: dict[str, torch.Tensor], target: torch.Tensor | None = None) -> torch.Tensor:
        """Scalar loss; ``target`` is unused."""
        entropy = F.binary_cross_entropy_with_logits(output["logits"], output["target"])
        pixels = output["target"][0].numel()
        return entropy + self.divergence_weight * output["divergence"].mean() / pixels
