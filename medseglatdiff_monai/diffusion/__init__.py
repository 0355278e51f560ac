"""Diffusion or rectified flow in the mask's latent space: the processes and their samplers."""

from .process import PREDICTION_TYPES, DiffusionProcess, sampling_timesteps
from .rectified_flow import RectifiedFlow
from .samplers import SAMPLERS, sample

__all__ = ["PREDICTION_TYPES", "SAMPLERS", "DiffusionProcess", "RectifiedFlow", "sample", "sampling_timesteps"]
