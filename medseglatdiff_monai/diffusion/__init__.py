"""Diffusion or rectified flow in the mask's latent space: the processes and their samplers."""

from .process import DiffusionProcess, sampling_timesteps
from .rectified_flow import RectifiedFlow
from .samplers import sample

__all__ = ["DiffusionProcess", "RectifiedFlow", "sample", "sampling_timesteps"]
