from .command import predict as predict
from .ensemble import Ensemble as Ensemble
from .image import segment_image as segment_image
from .measure import Measurement as Measurement
from .nodule import segment_nodule as segment_nodule
