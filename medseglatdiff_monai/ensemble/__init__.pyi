from .arguments import FUSIONS as FUSIONS
from .fusion import fuse_ensemble as fuse_ensemble
from .inferer import EnsembleInferer as EnsembleInferer
from .inferer import SamplingSettings as SamplingSettings
from .inferer import sampling_settings as sampling_settings
from .morphology import refine_masks as refine_masks
from .summary import summarize_ensemble as summarize_ensemble
