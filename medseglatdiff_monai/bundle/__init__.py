"""The bundles: the only place that knows the JSON layout of their configurations."""

from .build import build_bundle, build_stage, write_run_folder
from .config import (
    STAGES,
    Bundle,
    apply_overrides,
    bundles_dir,
    experiment_name,
    find_bundle,
    load_experiment,
    load_stage_config,
)
from .segmenter import Segmenter, inference_config, load_segmenter

__all__ = [
    "STAGES",
    "Bundle",
    "Segmenter",
    "apply_overrides",
    "build_bundle",
    "build_stage",
    "bundles_dir",
    "experiment_name",
    "find_bundle",
    "inference_config",
    "load_experiment",
    "load_segmenter",
    "load_stage_config",
    "write_run_folder",
]
