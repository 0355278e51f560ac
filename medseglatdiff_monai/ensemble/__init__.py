"""Ensembles of masks: how they are sampled, fused, and post-processed."""

from .fusion import FUSIONS, fuse_ensemble
from .inferer import EnsembleInferer, SamplingSettings, sampling_settings
from .morphology import refine_masks
from .summary import summarize_ensemble

__all__ = [
    "FUSIONS",
    "EnsembleInferer",
    "SamplingSettings",
    "fuse_ensemble",
    "refine_masks",
    "sampling_settings",
    "summarize_ensemble",
]
