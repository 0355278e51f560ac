from .case_recorder import CaseRecorder as CaseRecorder
from .codec import evaluate_codec as evaluate_codec
from .columns import COLUMNS as COLUMNS
from .columns import Column as Column
from .result import RESULT_VERSION as RESULT_VERSION
from .result import load_result as load_result
from .run import evaluate as evaluate
