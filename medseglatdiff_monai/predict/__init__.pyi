from .command import predict as predict
from .image import Prediction as Prediction
from .image import predict_image as predict_image
from .measure import measure_nodule as measure_nodule
from .nodule import Nodule as Nodule
from .nodule import draw_nodule as draw_nodule
