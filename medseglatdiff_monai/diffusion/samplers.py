"""Samplers: from noise to a latent, in one pass, or along MONAI's DDPM, DDIM, PNDM and rectified-flow schedulers.

``sample`` runs the reverse process over the process's timesteps: the first step starts from (nearly) pure noise and the
last one arrives at x_0 exactly. The posterior is DDPM's standard one; Eq. 5 and 12 of arXiv 2512.01292 carry an extra
root and gamma_t in place of the posterior deviation.
Random numbers come from one generator per sample, so that a sample does not depend on what it is batched with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, PNDMScheduler

from ..errors import InputError
from .process import DiffusionProcess, check_one_pass
from .rectified_flow import RectifiedFlow

# A network as a function of z_t (B, d, h, w[, e]) and timesteps (B,) int64.
Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Run:
    """What a sampler is given, see :func:`sample`."""

    denoise: Denoise
    noise: torch.Tensor
    process: DiffusionProcess | RectifiedFlow
    num_inference_steps: int
    generators: Sequence[torch.Generator]
    noise_scale: float
    common_noise: bool


@dataclass(frozen=True)
class Sampler:
    """A row of ``SAMPLERS``.

    Attributes:
        run: from what it is given to x_0.
        processes: those that it can follow.
        adds_noise: it adds noise at every step, so that it needs generators and cannot be traced.
        in_onnx_runner: the runner of an ONNX export has it, too.
    """

    run: Callable[[Run], torch.Tensor]
    processes: tuple[type, ...]
    adds_noise: bool = False
    in_onnx_runner: bool = False


def find_sampler(name: str) -> Sampler:
    """Row of a sampler.

    Raises:
        InputError: there is none of this name.
    """
    if name not in SAMPLERS:
        raise InputError(f"sampler must be one of {', '.join(SAMPLERS)}, found {name!r}.")
    return SAMPLERS[name]


def sample(
    denoise: Denoise,
    noise: torch.Tensor,
    process: DiffusionProcess | RectifiedFlow,
    num_inference_steps: int = 10,
    sampler: str = "dpm++",
    generators: Sequence[torch.Generator] | None = None,
    noise_scale: float = 1.0,
    common_noise: bool = False,
) -> torch.Tensor:
    """Run the reverse process.

    Args:
        denoise: network as a function of z_t (B, d, h, w[, e]) and timesteps (B,) int64.
        noise: z_T (B, d, h, w[, e]), standard normal; for ``"direct"`` the noise of all passes, stacked to
            (B, passes · d, h, w[, e]).
        process: the process that the network was trained for.
        num_inference_steps: number of network calls (PNDM makes one more).
        sampler: one of

            - ``"direct"``: x_0 from pure noise in one pass; before each further pass it is given fresh noise. For
              networks that the scoring stage has trained.
            - ``"dpm++"``: DPM-Solver++(2M), Lu et al., arXiv 2211.01095, Algorithm 2: deterministic, of second order.
            - ``"ddim"``: the same of first order, eta = 0.
            - ``"ddpm"``: ancestral; fewer steps than T use DDIM with eta = 1, the same posterior on the respaced chain.
            - ``"pndm"``: PLMS, on evenly spaced timesteps whatever the process says; on the cosine schedule, whose last
              timestep leaves no signal, accurate from about 25 steps on.
            - ``"rflow"``: Euler steps, for a rectified flow, which can use only this one and ``"direct"``.
        generators: one generator for each of the B samples; only ``"ddpm"`` needs them.
        noise_scale: factor on the noise that ``"direct"`` starts from, except a common channel. The other samplers
            ignore it: their path begins with noise of the schedule's own size.
        common_noise: the first channel that ``"direct"`` starts from is one number for the whole image, the mean over
            the positions, scaled to deviation 1. By it a sample can differ as a whole.

    Returns:
        Scaled latent x_0 (B, d, h, w[, e]); divide by ``process.input_scale`` for the standardised latent.

    Raises:
        InputError: unknown sampler, one that does not fit the process, steps out of range, or ``"ddpm"`` without one
            generator per sample.
    """
    row = find_sampler(sampler)
    if not isinstance(process, row.processes):
        if isinstance(process, RectifiedFlow):
            raise InputError(
                f"The process is a rectified flow, and sampler is {sampler!r}: use --sampler rflow or direct."
            )
        raise InputError(
            f"sampler {sampler!r} needs a rectified flow, and the process is a diffusion: use --sampler ddim."
        )
    if row.adds_noise and (generators is None or len(generators) != len(noise)):
        raise InputError(
            f"sampler {sampler!r} draws noise at every step: give one generator for each of {len(noise)} samples."
        )
    return row.run(Run(denoise, noise, process, num_inference_steps, generators or (), noise_scale, common_noise))


def _sample_direct(run: Run) -> torch.Tensor:
    """One pass at pure noise; before each further one the predicted x_0 is given fresh noise at the next timestep."""
    process, passes, noise = run.process, run.num_inference_steps, run.noise
    check_one_pass("The sampler 'direct'", process.prediction_type)
    x_0: torch.Tensor | None = None
    timesteps = process.direct_timesteps(passes)
    if noise.shape[1] % passes:
        raise InputError(
            f"The noise of {passes} passes of the sampler 'direct' is stacked along its channels, and {noise.shape[1]} "
            "channels cannot be divided among them."
        )
    for part, t in zip(noise.chunk(passes, dim=1), timesteps, strict=True):
        batch = _repeat(t, part)
        z_t = _starting_noise(run, part) if x_0 is None else process.add_noise(x_0, part, batch)
        x_0 = process.predict_x0(run.denoise(z_t, batch), z_t, batch)
    assert x_0 is not None
    return x_0


def _starting_noise(run: Run, noise: torch.Tensor) -> torch.Tensor:
    """Noise (B, d, h, w[, e]) of the first pass: scaled, and the first channel constant where it is common."""
    number = int(run.common_noise)
    first, rest = noise[:, :number], run.noise_scale * noise[:, number:]
    # The mean of n numbers has deviation 1/√n.
    common = first.flatten(2).sum(2) / math.prod(first.shape[2:]) ** 0.5
    return torch.cat([common.reshape(*common.shape, *[1] * (noise.ndim - 2)).expand_as(first), rest], dim=1)


def _sample_ddim(run: Run) -> torch.Tensor:
    """First order, eta = 0."""
    process = cast(DiffusionProcess, run.process)
    timesteps = process.sampling_timesteps(run.num_inference_steps)
    scheduler = _respaced_scheduler(process, timesteps, process.prediction_type)
    z_t = run.noise
    for position, t in _positions(timesteps):
        z_t = scheduler.step(run.denoise(z_t, _repeat(t, z_t)), position, z_t)[0]
    return z_t


def _sample_ddpm(run: Run) -> torch.Tensor:
    """Ancestral; on fewer steps than T DDIM with eta = 1, the same posterior on the respaced chain."""
    process = cast(DiffusionProcess, run.process)
    timesteps = process.sampling_timesteps(run.num_inference_steps)
    scheduler: DDPMScheduler | DDIMScheduler
    arguments: dict[str, Any]
    if run.num_inference_steps == process.num_train_timesteps:
        scheduler = DDPMScheduler(
            run.num_inference_steps, process.schedule, prediction_type=process.prediction_type, clip_sample=False
        )
        arguments = {}
    else:
        scheduler = _respaced_scheduler(process, timesteps, process.prediction_type)
        # Slightly below 1: where the first step starts from almost no signal (cosine schedule), MONAI takes the root of
        # 1 - alpha_bar_prev - variance, which is 0 there except for a rounding error that may be negative.
        arguments = {"eta": 1.0 - 1e-5}
    z_t = run.noise
    for position, t in _positions(timesteps):
        output = run.denoise(z_t, _repeat(t, z_t))
        steps = [
            scheduler.step(output[i : i + 1], position, z_t[i : i + 1], generator=generator, **arguments)[0]
            for i, generator in enumerate(run.generators)
        ]
        z_t = torch.cat(steps)
    return z_t


def _respaced_scheduler(process: DiffusionProcess, timesteps: list[int], prediction_type: str) -> DDIMScheduler:
    """MONAI's DDIM on the chain of ``timesteps`` alone: by itself it steps by equal numbers of timesteps."""
    scheduler = DDIMScheduler(len(timesteps), process.schedule, prediction_type=prediction_type, clip_sample=False)
    scheduler.alphas_cumprod = process.alpha_bar[timesteps[::-1]]
    return scheduler


def _positions(timesteps: list[int]) -> list[tuple[int, int]]:
    """Position of each timestep in the respaced chain, from noise (n - 1) to data (0), and the timestep itself."""
    return list(zip(range(len(timesteps) - 1, -1, -1), timesteps, strict=True))


def _sample_dpm(run: Run) -> torch.Tensor:
    """DPM-Solver++(2M): DDIM's step with the x0 that two network outputs extrapolate to (arXiv 2211.01095, Eq. 15)."""
    process = cast(DiffusionProcess, run.process)
    timesteps = process.sampling_timesteps(run.num_inference_steps)
    scheduler = _respaced_scheduler(process, timesteps, "sample")
    alpha_bar = process.alpha_bar[timesteps]
    half_log_snr = 0.5 * torch.log(alpha_bar / (1.0 - alpha_bar))
    h = half_log_snr.diff()
    z_t = run.noise
    previous: torch.Tensor | None = None
    for number, (position, t) in enumerate(_positions(timesteps)):
        batch = _repeat(t, z_t)
        x_0 = process.predict_x0(run.denoise(z_t, batch), z_t, batch)
        extrapolated = x_0
        # The last step ends where the log SNR is infinite, so it stays first-order.
        if previous is not None and position > 0:
            extrapolated = x_0 + 0.5 * h[number] / h[number - 1] * (x_0 - previous)
        z_t = scheduler.step(extrapolated, position, z_t)[0]
        previous = x_0
    return z_t


def _repeat(timestep: int, z_t: torch.Tensor) -> torch.Tensor:
    """The timestep for each row of ``z_t``, (B,) int64; by its shape, so that a trace takes any batch size."""
    return torch.full((z_t.shape[0],), timestep, device=z_t.device, dtype=torch.long)


def _sample_rflow(run: Run) -> torch.Tensor:
    """Euler steps from t = 1 to 0; the step widths add up to 1 whatever the number of steps."""
    process, num_inference_steps = cast(RectifiedFlow, run.process), run.num_inference_steps
    if not 1 <= num_inference_steps <= process.num_train_timesteps:
        raise InputError(
            f"num_inference_steps must be in [1, {process.num_train_timesteps}], found {num_inference_steps}."
        )
    scheduler = process.make_scheduler()
    scheduler.set_timesteps(num_inference_steps)
    timesteps = scheduler.timesteps.tolist()
    z_t = run.noise
    for t, following in zip(timesteps, [*timesteps[1:], 0], strict=True):
        z_t = scheduler.step(run.denoise(z_t, _repeat(t, z_t)), t, z_t, following)[0]
    return z_t


def _sample_pndm(run: Run) -> torch.Tensor:
    """PLMS. MONAI's PNDM knows only epsilon and v, so every target is converted to epsilon.

    Raises:
        InputError: steps that do not divide T evenly enough (less than 95% of the schedule would be covered).
    """
    process, num_inference_steps = cast(DiffusionProcess, run.process), run.num_inference_steps
    steps = process.num_train_timesteps
    if not 1 <= num_inference_steps <= steps:
        raise InputError(f"num_inference_steps must be in [1, {steps}], found {num_inference_steps}.")
    ratio = steps // num_inference_steps
    if ratio * num_inference_steps < 0.95 * steps:
        # MONAI's PNDM steps by whole numbers of timesteps: the chain would start in the middle of the schedule.
        raise InputError(
            f"num_inference_steps = {num_inference_steps} does not divide {steps} evenly enough for PNDM: choose "
            f"{steps // (ratio + 1)} or {steps // ratio}."
        )
    scheduler = PNDMScheduler(
        process.num_train_timesteps, process.schedule, skip_prk_steps=True, set_alpha_to_one=True,
        prediction_type="epsilon", steps_offset=ratio - 1,
    )  # fmt: skip
    scheduler.set_timesteps(num_inference_steps)
    scheduler.to(run.noise.device)
    z_t = run.noise
    # The second call re-evaluates the first interval (the method's own start-up), hence one more network call.
    timesteps = scheduler.timesteps.tolist()
    if len(timesteps) > 1:
        timesteps = [timesteps[0], timesteps[1], *timesteps[1:]]
        scheduler.num_inference_steps = num_inference_steps
    for t in timesteps:
        batch = _repeat(t, z_t)
        z_t = scheduler.step(process.predict_eps(run.denoise(z_t, batch), z_t, batch), t, z_t)[0]
    return z_t


# A new sampler is a function and a row here.
SAMPLERS = {
    "direct": Sampler(_sample_direct, (DiffusionProcess, RectifiedFlow), in_onnx_runner=True),
    "dpm++": Sampler(_sample_dpm, (DiffusionProcess,), in_onnx_runner=True),
    "ddim": Sampler(_sample_ddim, (DiffusionProcess,), in_onnx_runner=True),
    "ddpm": Sampler(_sample_ddpm, (DiffusionProcess,), adds_noise=True),
    "pndm": Sampler(_sample_pndm, (DiffusionProcess,)),
    "rflow": Sampler(_sample_rflow, (RectifiedFlow,)),
}
