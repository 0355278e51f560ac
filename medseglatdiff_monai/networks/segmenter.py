"""The composite network: image → condition, noise + condition → mask latent, mask latent → mask (Eq. 11-13).

:class:`LatentDiffusionSegmenter` is the one module that the bundles call ``network_def`` and whose flat state dict is
``models/model.pt``. Training wraps it, see :mod:`~medseglatdiff_monai.networks.denoising_network`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import nn

from ..diffusion.process import DiffusionProcess
from ..diffusion.rectified_flow import RectifiedFlow
from ..diffusion.samplers import find_sampler, sample
from ..errors import InputError
from .codecs import CodecBase
from .conditioner import CodecConditioner
from .noise import SAMPLE_NOISE, draw_sample_noise, noise_generator
from .symmetries import SYMMETRIES, apply_symmetry, count_symmetries, undo_symmetry


class LatentDiffusionSegmenter(nn.Module):
    """Samples plausible masks of an image by diffusion in the latent space of the mask codec.

    Args:
        mask_codec: codec of the masks, frozen.
        conditioner: image → condition with the mask latent's spatial size.
        denoiser: network on [z_t, condition] with MONAI's signature ``denoiser(x, timesteps)`` (Eq. 11).
        process: the diffusion process, or a rectified flow.
        num_samples: n of Eq. 13, used by :meth:`forward`.
        num_inference_steps: denoiser calls per sample.
        sampler: ``"direct"``, ``"dpm++"``, ``"ddim"``, ``"ddpm"``, ``"pndm"``, or ``"rflow"`` for a rectified flow; see
            :func:`~medseglatdiff_monai.diffusion.sample`.
        seed: seed of the noise that :meth:`forward` draws.
        condition_dropout: share of the training draws whose condition is withheld, so that the network also learns
            masks without an image. The condition is replaced by zeros, the mean of a standardised latent: no weight is
            added, so checkpoints have the same tensors either way.
        guidance_scale: g of classifier-free guidance (Ho and Salimans, arXiv 2207.12598, where it is w), see
            :meth:`denoise_guided`. 0 is off; any other value doubles the denoiser's work.
        test_time_augmentation: each sample sees image and noise in another of their symmetries (the first as they
            are), and its mask is flipped and rotated back. The network's errors differ between symmetries and cancel in
            the consensus. The denoiser does no extra work; the conditioner runs once for each symmetry that is used.
        noise_scale: factor on the noise of the sampler ``"direct"``, except a common channel. Below 1 samples lie
            closer to what is likeliest, which makes up for a network that spreads them too far.
        common_noise: the first channel of the noise of ``"direct"`` is one number for the whole image. In the scoring
            stage the network can learn to decide by it whether there is a mask and how large it is.

    Raises:
        InputError: codecs whose downsampling differs, a dropout outside [0, 1), a negative guidance scale, guidance
            for a network that was never trained without condition, or a noise scale that is not positive.
    """

    # In the records.
    sample_noise = SAMPLE_NOISE

    def __init__(
        self,
        mask_codec: CodecBase,
        conditioner: CodecConditioner,
        denoiser: nn.Module,
        process: DiffusionProcess | RectifiedFlow,
        num_samples: int = 5,
        num_inference_steps: int = 10,
        sampler: str = "dpm++",
        seed: int = 0,
        condition_dropout: float = 0.0,
        guidance_scale: float = 0.0,
        test_time_augmentation: bool = False,
        noise_scale: float = 1.0,
        common_noise: bool = False,
    ) -> None:
        super().__init__()
        if mask_codec.downsampling != conditioner.codec.downsampling:
            raise InputError(
                f"Mask codec and image codec must downsample alike, found f = {mask_codec.downsampling} and "
                f"f = {conditioner.codec.downsampling}: give both the same number of levels."
            )
        if not 0.0 <= condition_dropout < 1.0:
            raise InputError(f"condition_dropout must be in [0, 1), found {condition_dropout}.")
        if guidance_scale < 0.0:
            raise InputError(f"guidance_scale must be at least 0, found {guidance_scale}.")
        if guidance_scale > 0.0 and condition_dropout == 0.0:
            raise InputError(
                f"guidance_scale = {guidance_scale} needs a network that was trained with condition_dropout above 0 "
                "(experiment ablations/guidance), since it subtracts what the network says without an image."
            )
        if noise_scale <= 0.0:
            raise InputError(f"noise_scale must be positive, found {noise_scale}.")
        self.noise_scale = noise_scale
        self.common_noise = common_noise
        self.condition_dropout = condition_dropout
        self.guidance_scale = guidance_scale
        self.test_time_augmentation = test_time_augmentation
        self.mask_codec = mask_codec
        self.conditioner = conditioner
        self.denoiser = denoiser
        self.process = process
        self.num_samples = num_samples
        self.num_inference_steps = num_inference_steps
        self.sampler = sampler
        self.seed = seed
        self.mask_codec.requires_grad_(False)
        self.mask_codec.eval()

    def __prepare_scriptable__(self) -> NoReturn:
        """What ``torch.jit.script`` asks first, and so MONAI's ``ckpt_export``: say what works in its place.

        Raises:
            InputError: always.
        """
        raise InputError(
            "This network cannot be scripted, since MONAI's VQVAE and DiffusionModelUNet cannot; it can be traced. "
            "Give ckpt_export --use_trace True (in Python use_trace=True), or call 'medseglatdiff export', whose file "
            "takes the noise as well."
        )

    def train(self, mode: bool = True) -> LatentDiffusionSegmenter:
        """Set the train mode of denoiser and conditioner; the frozen mask codec stays in eval mode."""
        super().train(mode)
        self.mask_codec.eval()
        return self

    def latent_shape(self, image: torch.Tensor) -> tuple[int, ...]:
        """Shape (d, h, w[, e]) of one mask latent of ``image`` (B, C, H, W[, D])."""
        f = self.mask_codec.downsampling
        return (self.mask_codec.latent_channels, *(side // f for side in image.shape[2:]))

    def draw_noise(
        self, image: torch.Tensor, num_samples: int, seed: int, cases: Sequence[str], passes: int = 1
    ) -> torch.Tensor:
        """:func:`draw_sample_noise` of each case and sample (B, N, passes · d, h, w[, e]), on the image's device.

        One entry in ``cases`` for each image, or a single one whose noise all images share. More than one pass is for
        the sampler ``"direct"``, each of whose passes has its own noise.
        """
        shape = self.latent_shape(image)
        drawn = torch.stack(
            [
                torch.cat([draw_sample_noise(shape, seed, case, i, p) for p in range(passes)])
                for case in cases
                for i in range(num_samples)
            ]
        ).unflatten(0, (len(cases), num_samples))
        return drawn.to(image.device).expand(image.shape[0], *[-1] * (len(shape) + 1))

    def count_passes(self, num_inference_steps: int | None = None, sampler: str | None = None) -> int:
        """How many noise tensors a sample needs: one for each pass of the sampler ``"direct"``, otherwise one."""
        return (num_inference_steps or self.num_inference_steps) if (sampler or self.sampler) == "direct" else 1

    def encode_masks(self, masks: torch.Tensor) -> torch.Tensor:
        """Masks in {0, 1} (B, 1, H, W[, D]) → latents x_0 as the process sees them: standardised and scaled."""
        with torch.no_grad():
            z = self.mask_codec.encode(masks.float())
            return self.mask_codec.standardize(z) * self.process.input_scale

    def decode_latents(self, x_0: torch.Tensor) -> torch.Tensor:
        """Scaled latents x_0 (B, d, h, w[, e]) → mask logits (B, 1, H, W[, D]) (Eq. 13); NaN where not finite."""
        logits = self.mask_codec.decode(self.mask_codec.unstandardize(x_0 / self.process.input_scale))
        # A quantising codec would map a latent that is not finite to some entry of its codebook and decode a mask.
        finite = torch.isfinite(x_0).flatten(1).all(dim=1)
        return torch.where(finite.reshape(-1, *[1] * (logits.ndim - 1)), logits, torch.nan)

    def denoise(self, z_t: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Network output for z_t (B, d, h, w[, e]) ⊕ condition (B, d_X, h, w[, e]) (Eq. 11) at timesteps (B,)."""
        return self.denoiser(torch.cat([z_t, condition], dim=1), timesteps)

    def denoise_guided(self, z_t: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """(1 + g) · output with condition - g · output without, both in one pass; :meth:`denoise` itself if g = 0.

        The coefficients add up to 1, so that it is the same whether the network predicts noise, x0 or velocity.
        """
        g = self.guidance_scale
        if g == 0.0:
            return self.denoise(z_t, timesteps, condition)
        both = self.denoise(
            torch.cat([z_t, z_t]),
            torch.cat([timesteps, timesteps]),
            torch.cat([condition, torch.zeros_like(condition)]),
        )
        conditional, unconditional = both.chunk(2)
        return (1.0 + g) * conditional - g * unconditional

    def drop_condition(self, condition: torch.Tensor) -> torch.Tensor:
        """Condition (M, d_X, h, w[, e]) with zeros in a share of ``condition_dropout`` of the rows, drawn at random."""
        if self.condition_dropout == 0.0:
            # No draw either, so that a run without dropout keeps its sequence of random numbers.
            return condition
        keep = torch.rand(len(condition), device=condition.device) >= self.condition_dropout
        return condition * keep.view(-1, *([1] * (condition.ndim - 1))).to(condition.dtype)

    def sample_logits(
        self,
        condition: torch.Tensor,
        noise: torch.Tensor,
        num_inference_steps: int | None = None,
        sampler: str | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> torch.Tensor:
        """One mask per row: condition (M, d_X, h, w[, e]) and noise (M, d, h, w[, e]) → logits (M, 1, H, W[, D])."""
        x_0 = sample(
            lambda z_t, t: self.denoise_guided(z_t, t, condition),
            noise,
            self.process,
            num_inference_steps or self.num_inference_steps,
            sampler or self.sampler,
            generators,
            self.noise_scale,
            self.common_noise,
        )
        return self.decode_latents(x_0)

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
        """Sample ``num_samples`` masks of each image, ``chunk_size`` of them at once.

        Args:
            image: (B, C, H, W[, D]).
            num_samples: N.
            seed: seed of the noise.
            cases: B case ids that the noise belongs to; without them every image gets the noise of (seed, sample).
            num_inference_steps: denoiser calls per sample; ``None`` takes the network's own.
            sampler: see :func:`~medseglatdiff_monai.diffusion.sample`; ``None`` takes the network's own.
            chunk_size: how many samples go through the denoiser at once.

        Returns:
            Mask logits (B, N, H, W[, D]) float32.
        """
        cases = list(cases or [""])
        noise = self.draw_noise(image, num_samples, seed, cases, self.count_passes(num_inference_steps, sampler))
        return self._sample(image, noise, seed, cases, num_inference_steps, sampler, chunk_size)

    def forward(self, image: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Confidence map with the network's own samples, steps and seed; what an export traces.

        Args:
            image: (B, C, H, W[, D]) in the range of the bundle's preprocessing.
            noise: (B, N, d, h, w[, e]) standard normal, for the sampler ``"direct"`` (B, N, passes · d, h, w[, e]);
                drawn from (seed, sample index) if left out.

        Returns:
            (B, 1, H, W[, D]) float32 in [0, 1]: the mean of the binary samples.
        """
        if noise is None:
            noise = self.draw_noise(image, self.num_samples, self.seed, [""], self.count_passes())
        return (self._sample(image, noise, self.seed, [""]) > 0).float().mean(dim=1, keepdim=True)

    def _sample(
        self,
        image: torch.Tensor,
        noise: torch.Tensor,
        seed: int,
        cases: Sequence[str],
        num_inference_steps: int | None = None,
        sampler: str | None = None,
        chunk_size: int | None = None,
    ) -> torch.Tensor:
        """Mask logits (B, N, H, W[, D]) float32 for the noise (B, N, ...) that :meth:`draw_noise` returns.

        Sizes are read from shapes alone and without ``chunk_size`` nothing is split, so that a trace takes any B.
        """
        self.mask_codec.check_size(image.shape[2:])
        number = noise.shape[1]
        # The K symmetries in which the samples see the image: sample i sees number i modulo K.
        chosen = [0]
        if self.test_time_augmentation:
            chosen = [k for k in SYMMETRIES if k < count_symmetries(*image.shape[2:])][:number]
        symmetries = torch.tensor(chosen, device=image.device)
        repeated = image.repeat_interleave(symmetries.shape[0], dim=0)
        flipped = apply_symmetry(repeated, symmetries.repeat(image.shape[0]))
        condition = torch.cat([self.conditioner(part) for part in _split(flipped, chunk_size)])
        noise = noise.flatten(0, 1)
        logits = []
        for rows in _split(torch.arange(noise.shape[0], device=image.device), chunk_size):
            generators = None
            if find_sampler(sampler or self.sampler).adds_noise:
                # One for each row: a generator shared by two images would have advanced before the second.
                generators = [
                    noise_generator(seed, f"steps/{cases[row // number % len(cases)]}", row % number, image.device)
                    for row in rows.tolist()
                ]
            view = rows % number % len(symmetries)
            owners = condition[rows // number * len(symmetries) + view]
            # The noise is flipped with the image, so that a pair stays opposite in the image's own orientation.
            flipped_noise = apply_symmetry(noise[rows], symmetries[view])
            masks = self.sample_logits(owners, flipped_noise, num_inference_steps, sampler, generators)
            logits.append(undo_symmetry(masks, symmetries[view]))
        return torch.cat(logits).float().squeeze(1).unflatten(0, (image.shape[0], number))


def _split(x: torch.Tensor, size: int | None) -> Sequence[torch.Tensor]:
    """Parts of ``size`` rows, or with ``None`` the whole."""
    return [x] if size is None else x.split(size)
