"""Scoring a segmenter against all raters."""

from .case_recorder import CaseRecorder
from .result import RESULT_VERSION, load_result
from .run import evaluate

__all__ = ["RESULT_VERSION", "CaseRecorder", "evaluate", "load_result"]
