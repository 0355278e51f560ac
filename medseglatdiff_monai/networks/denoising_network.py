"""Training views of a segmenter, each one forward pass, as a distributed wrapper requires: images and masks → loss."""

from __future__ import annotations

import torch
from torch import nn

from ..diffusion.process import check_one_pass
from ..diffusion.samplers import sample
from ..errors import InputError
from .noise import spread_first_channel
from .segmenter import LatentDiffusionSegmenter


class DenoisingNetwork(nn.Module):
    """Training view of a segmenter: what Eq. 4 compares, for several draws of noise and rater per image.

    The condition is computed once per image and shared by its draws.
    """

    def __init__(self, segmenter: LatentDiffusionSegmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(
        self, image: torch.Tensor, masks: torch.Tensor, latents: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Draw noise and timesteps and predict.

        Args:
            image: (B, C, H, W[, D]).
            masks: (B, M, H, W[, D]) in {0, 1}, one target per draw.
            latents: scaled latents of the masks (B, M, d, h, w[, e]), if they are known already.

        Returns:
            ``prediction`` and ``target`` (B * M, d, h, w[, e]) and ``weight`` (B * M,); for a conditioner with context
            also ``mean_mask_logits`` and ``mean_mask`` (B, 1, H, W[, D]), the latter in [0, 1].
        """
        net = self.segmenter
        x_0 = net.encode_masks(masks.flatten(0, 1)[:, None]) if latents is None else latents.flatten(0, 1)
        condition, mean_mask_logits = net.conditioner.condition_and_mean_mask(image)
        condition = condition.repeat_interleave(masks.shape[1], dim=0)
        if self.training:
            condition = net.drop_condition(condition)
        result = _denoise_draws(net, x_0.float(), condition)
        if mean_mask_logits is not None:
            # The mean of the draws is that of the raters if each is drawn equally often, else an unbiased estimate.
            result |= {"mean_mask_logits": mean_mask_logits.float(), "mean_mask": masks.mean(dim=1, keepdim=True)}
        return result


def _denoise_draws(
    net: LatentDiffusionSegmenter, x_0: torch.Tensor, condition: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Prediction, target and weight of Eq. 4 for latents x_0 (M, d, h, w[, e]), each with its noise and timestep."""
    eps = torch.randn_like(x_0)
    timesteps = net.process.draw_timesteps(len(x_0), x_0.device)
    output = net.denoise(net.process.add_noise(x_0, eps, timesteps), timesteps, condition)
    return {
        "prediction": output.float(),
        "target": net.process.target(x_0, eps, timesteps),
        "weight": net.process.loss_weight(timesteps),
    }


class ScoringNetwork(nn.Module):
    """Training view of a segmenter as a generator: samples that start from pure noise, to be scored against all raters.

    At the first timestep nothing of a mask is left in z_T: the network is a function of noise and image alone, and
    several of its values for one image are an ensemble. A score of that ensemble
    (:class:`~medseglatdiff_monai.training.losses.ScoringLoss`) makes them spread as the raters do, where the squared
    error of :class:`DenoisingNetwork` would make them ignore their noise. Some draws at other timesteps keep the
    samplers with many steps valid.

    Args:
        segmenter: the network that is trained.
        num_samples: m, samples for each image.
        denoising_draws: draws of a rater, noise and timestep for each image; 0 for none.

    Raises:
        InputError: fewer than two samples, a negative number of draws, or a network that predicts noise.
    """

    def __init__(self, segmenter: LatentDiffusionSegmenter, num_samples: int = 4, denoising_draws: int = 1) -> None:
        super().__init__()
        if num_samples < 2 or denoising_draws < 0:
            raise InputError(
                "Scoring needs at least 2 samples, because it compares them, and 0 or more draws of the denoising "
                f"loss; found {num_samples} and {denoising_draws}."
            )
        check_one_pass("The scoring stage", segmenter.process.prediction_type)
        self.segmenter = segmenter
        self.num_samples = num_samples
        self.denoising_draws = denoising_draws

    def forward(self, image: torch.Tensor, raters: torch.Tensor) -> dict[str, torch.Tensor]:
        """Sample, and denoise.

        Args:
            image: (B, C, H, W[, D]).
            raters: (B, R, H, W[, D]) in {0, 1}.

        Returns:
            ``sample_latents`` (B, m, d, h, w[, e]), ``sample_logits`` (B, m, H, W[, D]), ``rater_latents``
            (B, R, d, h, w[, e]), ``raters``; with draws of the denoising loss, or with a conditioner with context,
            also what :class:`DenoisingNetwork` returns.
        """
        net, batch, m = self.segmenter, len(image), self.num_samples
        rater_latents = net.encode_masks(raters.flatten(0, 1)[:, None]).float().unflatten(0, (batch, -1))
        condition, mean_mask_logits = net.conditioner.condition_and_mean_mask(image)
        own = condition.repeat_interleave(m, dim=0)
        noise = torch.randn(batch, m, *rater_latents.shape[2:], device=image.device)
        if net.common_noise:
            noise = spread_first_channel(noise)
        x_0 = sample(
            lambda z_t, t: net.denoise(z_t, t, own), noise.flatten(0, 1), net.process, 1, "direct",
            common_noise=net.common_noise,
        ).float()  # fmt: skip
        result = {
            "sample_latents": x_0.unflatten(0, (batch, m)),
            "sample_logits": net.decode_latents(x_0).float().squeeze(1).unflatten(0, (batch, m)),
            "rater_latents": rater_latents,
            "raters": raters,
        }
        if self.denoising_draws:
            # Raters in random order, each as often as any other.
            order = torch.stack([torch.randperm(raters.shape[1], device=image.device) for _ in range(batch)])
            chosen = order.repeat(1, -(-self.denoising_draws // raters.shape[1]))[:, : self.denoising_draws]
            rows = torch.arange(batch, device=image.device)[:, None]
            own = condition.repeat_interleave(self.denoising_draws, dim=0)
            if self.training:
                own = net.drop_condition(own)
            result |= _denoise_draws(net, rater_latents[rows, chosen].flatten(0, 1), own)
        if mean_mask_logits is not None:
            result |= {"mean_mask_logits": mean_mask_logits.float(), "mean_mask": raters.mean(dim=1, keepdim=True)}
        return result
