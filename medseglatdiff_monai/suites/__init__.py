"""Suites of experiments: several systems trained and scored under the same settings, and compared with intervals."""

from .results import SUITE_RESULT_VERSION, read_results
from .runner import run_suite
from .statistics import compare_groups, group_interval, holm
from .suite import Suite, load_suite

__all__ = [
    "SUITE_RESULT_VERSION",
    "Suite",
    "compare_groups",
    "group_interval",
    "holm",
    "load_suite",
    "read_results",
    "run_suite",
]
