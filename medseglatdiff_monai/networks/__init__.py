"""Networks: codecs, the codebook, the conditioner and the composite that a bundle calls ``network_def``."""

from .codecs import CodecBase, IdentityCodec, VQVAECodec
from .conditioner import CodecConditioner
from .kl_codec import KLCodec
from .nnunet_plan import PlannedUNet, UNetPlan, plan_unet
from .one_to_one import OneToOneSegmenter, SegmentationLoss, SegmentingNetwork
from .pixel_denoisers import DenseImageEncoder, FrequencyParser, MedSegDiffDenoiser, SegDiffDenoiser
from .quantizer import QuantizerOutput, VectorQuantizer
from .segmenter import DenoisingNetwork, LatentDiffusionSegmenter, draw_sample_noise, noise_generator

__all__ = [
    "CodecBase",
    "CodecConditioner",
    "DenoisingNetwork",
    "DenseImageEncoder",
    "FrequencyParser",
    "IdentityCodec",
    "KLCodec",
    "LatentDiffusionSegmenter",
    "MedSegDiffDenoiser",
    "OneToOneSegmenter",
    "PlannedUNet",
    "QuantizerOutput",
    "SegDiffDenoiser",
    "SegmentationLoss",
    "SegmentingNetwork",
    "UNetPlan",
    "VQVAECodec",
    "VectorQuantizer",
    "draw_sample_noise",
    "noise_generator",
    "plan_unet",
]
