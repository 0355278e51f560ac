"""Samplers: from noise to a latent, along MONAI's DDPM, DDIM, PNDM and rectified-flow schedulers.

``sample`` runs the reverse process over evenly spaced timesteps that end at the last bin of the schedule, so that the
first step starts from (nearly) pure noise and the last one arrives at z_0 exactly. The posterior is DDPM's standard
one; Eq. 5 and 12 of arXiv 2512.01292 carry an extra root and gamma_t in place of the posterior deviation.
Random numbers come from one generator a sample, so that a sample does not depend on what it is batched with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, PNDMScheduler

from ..errors import InputError
from .process import DiffusionProcess
from .rectified_flow import RectifiedFlow

__all__ = ["SAMPLERS", "sample", "sampling_timesteps"]

SAMPLERS = ("ddim", "ddpm", "pndm", "rflow")


def sampling_timesteps(num_train_timesteps: int, num_inference_steps: int) -> list[int]:
    """Evenly spaced timesteps from noise to data, e.g. (1000, 4) → [999, 749, 499, 249].

    Raises:
        InputError: ``num_inference_steps`` is not in [1, num_train_timesteps].
    """
    if not 1 <= num_inference_steps <= num_train_timesteps:
        raise InputError(f"num_inference_steps must be in [1, {num_train_timesteps}], found {num_inference_steps}.")
    ratio = num_train_timesteps // num_inference_steps
    if ratio * num_inference_steps < 0.95 * num_train_timesteps:
        # MONAI steps by whole numbers of timesteps: the chain would start in the middle of the schedule.
        good = num_train_timesteps // (ratio + 1), num_train_timesteps // ratio
        raise InputError(
            f"num_inference_steps = {num_inference_steps} does not divide {num_train_timesteps} evenly enough: choose "
            f"{good[0]} or {good[1]}."
        )
    return [ratio * step - 1 for step in range(num_inference_steps, 0, -1)]


def sample(
    denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    noise: torch.Tensor,
    process: DiffusionProcess | RectifiedFlow,
    num_inference_steps: int = 10,
    sampler: str = "ddim",
    generators: Sequence[torch.Generator] | None = None,
) -> torch.Tensor:
    """Run the reverse process.

    Args:
        denoise: network as a function of z_t (B, d, h, w[, e]) and timesteps (B,) int64.
        noise: z_T (B, d, h, w[, e]), standard normal.
        process: the process that the network was trained for.
        num_inference_steps: number of network calls (PNDM makes one more).
        sampler: ``"ddim"`` (deterministic, eta = 0), ``"ddpm"`` (ancestral; fewer steps than T use DDIM with eta = 1,
            the same posterior on the respaced chain) or ``"pndm"`` (PLMS; on the cosine schedule, whose last timestep
            leaves no signal, accurate from about 25 steps on); ``"rflow"`` (Euler steps) for a rectified flow, and for
            that alone.
        generators: one generator for each of the B samples; needed by ``"ddpm"`` alone.

    Returns:
        Scaled latent x_0 (B, d, h, w[, e]); divide by ``process.input_scale`` for the standardised latent.

    Raises:
        InputError: unknown sampler, one that does not fit the process, steps out of range, or ``"ddpm"`` without a
            generator a sample.
    """
    if sampler not in SAMPLERS:
        raise InputError(f"sampler must be one of {', '.join(SAMPLERS)}, found {sampler!r}.")
    if isinstance(process, RectifiedFlow):
        if sampler != "rflow":
            raise InputError(f"The process is a rectified flow, and sampler is {sampler!r}: use --sampler rflow.")
        return _sample_rflow(denoise, noise, process, num_inference_steps)
    if sampler == "rflow":
        raise InputError("sampler 'rflow' needs a rectified flow, and the process is a diffusion: use --sampler ddim.")
    if sampler == "ddpm" and (generators is None or len(generators) != len(noise)):
        raise InputError(
            f"sampler 'ddpm' draws noise at every step: give one generator for each of {len(noise)} samples."
        )
    timesteps = sampling_timesteps(process.num_train_timesteps, num_inference_steps)
    if sampler == "pndm":
        return _sample_pndm(denoise, noise, process, num_inference_steps)

    # A hair below 1: where the first step starts from next to no signal (cosine schedule), MONAI takes the root of
    # 1 - alpha_bar_prev - variance, which is 0 there but for a rounding error that may be negative.
    eta = 1.0 - 1e-5 if sampler == "ddpm" else 0.0
    ancestral = sampler == "ddpm" and num_inference_steps == process.num_train_timesteps
    common: dict[str, Any] = {
        "schedule": process.schedule,
        "prediction_type": process.prediction_type,
        "clip_sample": False,
    }
    scheduler: DDPMScheduler | DDIMScheduler
    if ancestral:
        scheduler = DDPMScheduler(process.num_train_timesteps, **common)
    else:
        scheduler = DDIMScheduler(process.num_train_timesteps, **common)
    # MONAI spaces timesteps so that step() skips over a part of the schedule: only the step width is taken from it.
    scheduler.set_timesteps(num_inference_steps)
    scheduler.to(noise.device)

    z_t = noise
    for t in timesteps:
        output = denoise(z_t, _repeat(t, z_t))
        if eta == 0.0:
            z_t = scheduler.step(output, t, z_t)[0]
            continue
        assert generators is not None
        steps = []
        for i, generator in enumerate(generators):
            arguments = {"generator": generator} if ancestral else {"generator": generator, "eta": eta}
            steps.append(scheduler.step(output[i : i + 1], t, z_t[i : i + 1], **arguments)[0])
        z_t = torch.cat(steps)
    return z_t


def _repeat(timestep: int, z_t: torch.Tensor) -> torch.Tensor:
    """The timestep for each row of ``z_t``, (B,) int64; by its shape, so that a trace takes any batch size."""
    return torch.full((z_t.shape[0],), timestep, device=z_t.device, dtype=torch.long)


def _sample_rflow(
    denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    noise: torch.Tensor,
    process: RectifiedFlow,
    num_inference_steps: int,
) -> torch.Tensor:
    """Euler steps from t = 1 to 0; the step widths add up to 1 whatever the number of steps."""
    if not 1 <= num_inference_steps <= process.num_train_timesteps:
        raise InputError(
            f"num_inference_steps must be in [1, {process.num_train_timesteps}], found {num_inference_steps}."
        )
    scheduler = process.make_scheduler()
    scheduler.set_timesteps(num_inference_steps)
    timesteps = scheduler.timesteps.tolist()
    z_t = noise
    for t, following in zip(timesteps, [*timesteps[1:], 0], strict=True):
        z_t = scheduler.step(denoise(z_t, _repeat(t, z_t)), t, z_t, following)[0]
    return z_t


def _sample_pndm(
    denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    noise: torch.Tensor,
    process: DiffusionProcess,
    num_inference_steps: int,
) -> torch.Tensor:
    """PLMS. MONAI's PNDM knows epsilon and v alone, so every target is converted to epsilon."""
    ratio = process.num_train_timesteps // num_inference_steps
    scheduler = PNDMScheduler(
        process.num_train_timesteps, process.schedule, skip_prk_steps=True, set_alpha_to_one=True,
        prediction_type="epsilon", steps_offset=ratio - 1,
    )  # fmt: skip
    scheduler.set_timesteps(num_inference_steps)
    scheduler.to(noise.device)
    z_t = noise
    # The second call re-evaluates the first interval (the method's own start-up), hence one network call more.
    timesteps = scheduler.timesteps.tolist()
    if len(timesteps) > 1:
        timesteps = [timesteps[0], timesteps[1], *timesteps[1:]]
        scheduler.num_inference_steps = num_inference_steps
    for t in timesteps:
        batch = _repeat(t, z_t)
        z_t = scheduler.step(process.predict_eps(denoise(z_t, batch), z_t, batch), t, z_t)[0]
    return z_t
