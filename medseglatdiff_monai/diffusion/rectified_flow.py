"""Rectified flow (Liu et al., arXiv 2209.03003) on MONAI's ``RFlowScheduler``: straight paths instead of diffusion.

With t = timestep / T, z_t = (1 - t) · x0 + t · eps runs on a straight line from data to noise, and the network predicts
the velocity v = x0 - eps along it. A sample follows dz = -v dt from t = 1 to 0 by Euler steps. x0 = s · z_0 as in
:class:`~medseglatdiff_monai.diffusion.DiffusionProcess`, which this process replaces.
"""

from __future__ import annotations

import torch
from monai.networks.schedulers import RFlowScheduler

from ..errors import InputError
from .process import MaskProcess


class RectifiedFlow(MaskProcess):
    """Forward path and target; sampled by ``"rflow"``, or in one pass by ``"direct"``.

    Timesteps are 1 to T: T, pure noise, is where sampling starts and so must be trained; 0 is never asked for.

    Args:
        num_train_timesteps: T, the number of training timesteps.
        input_scale: s, the standard deviation to which standardised latents are scaled.

    Raises:
        InputError: an argument is out of range; the message names it.
    """

    prediction_type = "velocity"

    def __init__(self, num_train_timesteps: int = 1000, input_scale: float = 0.5) -> None:
        # MONAI converts the sampler's timesteps to half precision in between, which is exact up to 2048.
        if not 1 <= num_train_timesteps <= 2048:
            raise InputError(f"num_train_timesteps must be in [1, 2048], found {num_train_timesteps}.")
        super().__init__(num_train_timesteps, num_train_timesteps, input_scale)

    def make_scheduler(self) -> RFlowScheduler:
        """MONAI's scheduler of this process.

        Created for each use: it is a module that was never initialised, which no module may hold.
        """
        return RFlowScheduler(self.num_train_timesteps, use_discrete_timesteps=True)

    def add_noise(self, x_0: torch.Tensor, eps: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """z_t for scaled latents ``x_0`` and noise ``eps`` (B, d, h, w[, e]) at ``timesteps`` (B,) in [0, T]."""
        return self.make_scheduler().add_noise(x_0, eps, timesteps)

    def target(self, x_0: torch.Tensor, eps: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Velocity x0 - eps, same shape as ``x_0``, at every timestep."""
        return x_0 - eps

    def loss_weight(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Weight (B,) of each draw's squared error: 1."""
        return torch.ones(timesteps.shape, device=timesteps.device)

    def predict_x0(self, output: torch.Tensor, z_t: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Convert a velocity to x0 = z_t + t · v; tensors (B, d, h, w[, e]), ``timesteps`` (B,)."""
        return z_t + output * (timesteps / self.num_train_timesteps).view(-1, *([1] * (z_t.ndim - 1)))
