from .command import run_suite as run_suite
from .results import SUITE_RESULT_VERSION as SUITE_RESULT_VERSION
from .results import read_results as read_results
from .statistics import compare_groups as compare_groups
from .statistics import group_interval as group_interval
from .statistics import holm as holm
from .suite import Suite as Suite
from .suite import load_suite as load_suite
