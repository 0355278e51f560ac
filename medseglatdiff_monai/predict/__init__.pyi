from .ensemble import Ensemble as Ensemble
from .files import predict as predict
from .image import segment_image as segment_image
from .measure import Measurement as Measurement
from .nodule import segment_nodule as segment_nodule
