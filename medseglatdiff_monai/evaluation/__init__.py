"""Scoring a segmenter against all raters."""

from .case_recorder import CaseRecorder
from .codec import evaluate_codec
from .columns import COLUMNS, Column
from .result import RESULT_VERSION, load_result
from .run import evaluate

__all__ = ["COLUMNS", "RESULT_VERSION", "CaseRecorder", "Column", "evaluate", "evaluate_codec", "load_result"]
