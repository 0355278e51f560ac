"""The diffusion process of the mask's latent: noise schedule, training targets and their conversions.

The forward process (Eq. 3 of arXiv 2512.01292) is ``z_t = sqrt(alpha_bar_t) * s * z_0 + sqrt(1 - alpha_bar_t) * eps``,
with the paper's gamma_t written alpha_bar_t as in DDPM, z_0 the standardised latent and s an input scale: a smaller s
makes the same schedule harder, which suits masks, whose large shapes survive much noise. The network predicts eps
(the paper's choice), x0 (= s * z_0) or v = sqrt(alpha_bar_t) * eps - sqrt(1 - alpha_bar_t) * x0.
"""

from __future__ import annotations

from typing import cast

import torch
from monai.networks.schedulers import DDPMScheduler
from torch import nn

from ..errors import InputError

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
# With less, the mean of all masks is what a network predicts; timestep 700 of the cosine schedule has 0.2.
MIN_LAST_SIGNAL = 0.1
# Share of the schedule, from pure noise on, over which the passes of the direct sampler are spread.
DIRECT_SHARE = 0.3


def check_one_pass(subject: str, prediction_type: str | None) -> None:
    """Raise InputError, about ``subject``, for a network that predicts noise: one pass from pure noise needs x_0."""
    if prediction_type == "epsilon":
        raise InputError(
            f"{subject} predicts x_0 from pure noise, which a network that predicts noise (prediction_type 'epsilon') "
            "cannot: train with --prediction_type sample or v_prediction; or do without it: leave 'scoring' out "
            "of --training_stages and give --sampler ddim."
        )


def sampling_timesteps(
    num_train_timesteps: int, num_inference_steps: int, power: float = 1.0, last_timestep: int = 0
) -> list[int]:
    """Timesteps t_k = T - 1 - (T - 1 - last) · (k / (n - 1))^power, k = 0 … n - 1, from noise to data.

    Evenly spaced to the last bin of the schedule by default, e.g. (1000, 4) → [999, 749, 499, 249]; a power above 1
    puts more of them where there is more noise, e.g. (1000, 4, 2.0, 700) → [999, 966, 866, 700].

    Args:
        num_train_timesteps: T.
        num_inference_steps: n.
        power: 1 for equal distances, above it for shorter ones near noise.
        last_timestep: where the last step, which arrives at x_0, starts. It is at least T / n - 1, where even steps
            start their last one, and at most T - n, since n timesteps need room.

    Raises:
        InputError: ``num_inference_steps`` is not in [1, T].
    """
    final = num_train_timesteps - 1
    if not 1 <= num_inference_steps <= num_train_timesteps:
        raise InputError(f"num_inference_steps must be in [1, {num_train_timesteps}], found {num_inference_steps}.")
    even = round(num_train_timesteps / num_inference_steps) - 1
    last_timestep = min(max(last_timestep, even), num_train_timesteps - num_inference_steps)
    timesteps = [final]
    for step in range(1, num_inference_steps):
        exact = final - (final - last_timestep) * (step / (num_inference_steps - 1)) ** power
        # After rounding, the first of many steps would coincide.
        timesteps.append(min(round(exact), timesteps[-1] - 1))
    return timesteps


class MaskProcess(nn.Module):
    """What diffusion and rectified flow share.

    Of the T timesteps ``first_timestep`` is the last one, pure noise; the others are the whole numbers before it.

    Raises:
        InputError: ``input_scale`` is not positive.
    """

    def __init__(self, num_train_timesteps: int, first_timestep: int, input_scale: float) -> None:
        super().__init__()
        if input_scale <= 0:
            raise InputError(f"input_scale must be positive, found {input_scale}.")
        self.num_train_timesteps = num_train_timesteps
        self.first_timestep = first_timestep
        self.input_scale = input_scale

    def direct_timesteps(self, passes: int) -> list[int]:
        """Timesteps of the direct sampler: pure noise, then evenly over 30% of T, e.g. [999, 849] for 2 passes of 1000.

        Raises:
            InputError: ``passes`` is not in [1, 0.3 T].
        """
        most = max(1, int(DIRECT_SHARE * self.num_train_timesteps))
        if not 1 <= passes <= most:
            raise InputError(f"num_inference_steps of the sampler 'direct' must be in [1, {most}], found {passes}.")
        reach = DIRECT_SHARE * self.num_train_timesteps
        return [self.first_timestep - round(reach * i / passes) for i in range(passes)]

    def draw_timesteps(self, number: int, device: torch.device) -> torch.Tensor:
        """``number`` timesteps, uniform over the T and stratified: one from each of ``number`` equal bins, shuffled.

        Each timestep alone is uniform; together they cover the schedule, which lowers the variance of the loss.
        """
        last = self.num_train_timesteps - 1
        fraction = (torch.randperm(number, device=device) + torch.rand(number, device=device)) / number
        return (fraction * self.num_train_timesteps).long().clamp_max(last) + (self.first_timestep - last)


class DiffusionProcess(MaskProcess):
    """Forward process, targets and loss weights.

    Args:
        num_train_timesteps: T, the number of training timesteps.
        schedule: a noise schedule of MONAI: ``"cosine"``, ``"linear_beta"``, ``"scaled_linear_beta"``,
            ``"sigmoid_beta"``.
        prediction_type: what the network predicts: ``"epsilon"``, ``"sample"`` (x0) or ``"v_prediction"``.
        input_scale: s, the standard deviation to which standardised latents are scaled.
        max_loss_weight: cap of the loss weight of x0-prediction, min(SNR + 1, cap); epsilon and v use weight 1.
        timestep_power: spacing of the timesteps that are sampled at, see :func:`sampling_timesteps`: 1 for equal
            distances; above 1 more of them lie where there is more noise, which is where a mask's shape is decided.
        last_timestep: the timestep at which the predicted x0 is taken as the result. It is a mean over what later steps
            would decide, so fewer steps cost some diversity and give smoother outlines. 0 goes as close to the data as
            the number of steps allows.

    Raises:
        InputError: an argument is out of range; the message names it.
    """

    alpha_bar: torch.Tensor

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        schedule: str = "cosine",
        prediction_type: str = "sample",
        input_scale: float = 0.5,
        max_loss_weight: float = 5.0,
        timestep_power: float = 1.0,
        last_timestep: int = 0,
    ) -> None:
        super().__init__(num_train_timesteps, num_train_timesteps - 1, input_scale)
        if prediction_type not in PREDICTION_TYPES:
            known = ", ".join(PREDICTION_TYPES)
            raise InputError(f"prediction_type must be one of {known}, found {prediction_type!r}.")
        if timestep_power < 1:
            raise InputError(f"timestep_power must be at least 1, found {timestep_power}.")
        if not 0 <= last_timestep < num_train_timesteps:
            raise InputError(f"last_timestep must be in [0, {num_train_timesteps}), found {last_timestep}.")
        self.timestep_power = timestep_power
        self.last_timestep = last_timestep
        self.schedule = schedule
        self.prediction_type = prediction_type
        self.max_loss_weight = max_loss_weight
        alphas_cumprod = DDPMScheduler(num_train_timesteps, schedule).alphas_cumprod
        # Recomputed from the configuration, so not part of the checkpoint.
        self.register_buffer("alpha_bar", cast(torch.Tensor, alphas_cumprod).clone(), persistent=False)
        signal = float(self.alpha_bar[last_timestep])
        if last_timestep and signal < MIN_LAST_SIGNAL:
            raise InputError(
                f"last_timestep = {last_timestep} leaves a share of {signal:.3f} of the signal (alpha_bar) on the "
                f"schedule {schedule!r} of {num_train_timesteps} timesteps: all samples would come out alike. Choose "
                f"one that leaves at least {MIN_LAST_SIGNAL}, or 0 to go to the end."
            )

    def coefficients(self, timesteps: torch.Tensor, ndim: int) -> tuple[torch.Tensor, torch.Tensor]:
        """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), each (B, 1, ...) with ``ndim`` dimensions, of timesteps (B,)."""
        alpha_bar_t = self.alpha_bar[timesteps].view(-1, *([1] * (ndim - 1)))
        return alpha_bar_t.sqrt(), (1.0 - alpha_bar_t).sqrt()

    def add_noise(self, x_0: torch.Tensor, eps: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """z_t of Eq. 3 for scaled latents ``x_0`` and noise ``eps`` (B, d, h, w[, e]) at ``timesteps`` (B,)."""
        signal, noise = self.coefficients(timesteps, x_0.ndim)
        return signal * x_0 + noise * eps

    def target(self, x_0: torch.Tensor, eps: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What the network should predict, same shape as ``x_0``."""
        if self.prediction_type == "epsilon":
            return eps
        if self.prediction_type == "sample":
            return x_0
        signal, noise = self.coefficients(timesteps, x_0.ndim)
        return signal * eps - noise * x_0

    def loss_weight(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Weight (B,) of each draw's squared error: min(SNR + 1, cap) for x0-prediction, else 1 (Eq. 4)."""
        alpha_bar_t = self.alpha_bar[timesteps]
        if self.prediction_type != "sample":
            return torch.ones_like(alpha_bar_t)
        # SNR + 1 = 1 / (1 - alpha_bar_t) weighs the x0 error as a v error (Salimans and Ho, arXiv 2202.00512).
        return (1.0 / (1.0 - alpha_bar_t)).clamp_max(self.max_loss_weight)

    def predict_x0(self, output: torch.Tensor, z_t: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Convert a network output to x0; all tensors (B, d, h, w[, e]), ``timesteps`` (B,)."""
        if self.prediction_type == "sample":
            return output
        signal, noise = self.coefficients(timesteps, z_t.ndim)
        if self.prediction_type == "epsilon":
            return (z_t - noise * output) / signal
        return signal * z_t - noise * output

    def predict_eps(self, output: torch.Tensor, z_t: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Convert a network output to noise; shapes as in :meth:`predict_x0`."""
        if self.prediction_type == "epsilon":
            return output
        signal, noise = self.coefficients(timesteps, z_t.ndim)
        if self.prediction_type == "v_prediction":
            return signal * output + noise * z_t
        return (z_t - signal * output) / noise

    def sampling_timesteps(self, num_inference_steps: int) -> list[int]:
        """The timesteps that ``num_inference_steps`` steps are taken at; see :func:`sampling_timesteps`."""
        return sampling_timesteps(
            self.num_train_timesteps, num_inference_steps, self.timestep_power, self.last_timestep
        )
