from .case_recorder import CaseRecorder as CaseRecorder
from .result import RESULT_VERSION as RESULT_VERSION
from .result import load_result as load_result
from .run import evaluate as evaluate
