"""The bundles: the only place that knows the JSON layout of their configurations."""

from .build import write_run_folder
from .config import Bundle, load_stage_config
from .segmenter import Segmenter, load_segmenter

__all__ = ["Bundle", "Segmenter", "load_segmenter", "load_stage_config", "write_run_folder"]
