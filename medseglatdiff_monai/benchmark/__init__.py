"""Suites of experiments: several systems trained and scored under the same settings, and compared with intervals."""

from __future__ import annotations

from medseglatdiff_monai.benchmark.results import SUITE_RESULT_VERSION, read_results
from medseglatdiff_monai.benchmark.runner import run_suite
from medseglatdiff_monai.benchmark.statistics import compare_groups, group_interval, holm
from medseglatdiff_monai.benchmark.suites import Suite, load_suite

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
