"""Diffusion in the mask's latent space: the process and its samplers."""

from .process import PREDICTION_TYPES, DiffusionProcess
from .samplers import SAMPLERS, sample, sampling_timesteps

__all__ = ["PREDICTION_TYPES", "SAMPLERS", "DiffusionProcess", "sample", "sampling_timesteps"]
