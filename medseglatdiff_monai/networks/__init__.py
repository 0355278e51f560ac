"""Networks: codecs, the codebook, the conditioner and the composite that a bundle calls ``network_def``."""

from .baselines.nnunet_plan import PlannedUNet, UNetPlan, plan_unet
from .baselines.one_to_one import OneToOneSegmenter, SegmentationLoss, SegmentingNetwork
from .baselines.pixel_denoisers import DenseImageEncoder, FrequencyParser, MedSegDiffDenoiser, SegDiffDenoiser
from .codecs import CodecBase, IdentityCodec, VQVAECodec
from .conditioner import CodecConditioner
from .denoising_network import DenoisingNetwork, ScoringNetwork
from .encoders import ENCODERS, EncoderContext, EncoderUNet, ImageEncoder, load_published_weights
from .kl_codec import KLCodec
from .noise import draw_sample_noise, noise_generator
from .quantizer import QuantizerOutput, VectorQuantizer
from .segmenter import LatentDiffusionSegmenter
from .weights import load_weights, save_weights

__all__ = [
    "ENCODERS",
    "CodecBase",
    "CodecConditioner",
    "DenoisingNetwork",
    "DenseImageEncoder",
    "EncoderContext",
    "EncoderUNet",
    "FrequencyParser",
    "IdentityCodec",
    "ImageEncoder",
    "KLCodec",
    "LatentDiffusionSegmenter",
    "MedSegDiffDenoiser",
    "OneToOneSegmenter",
    "PlannedUNet",
    "QuantizerOutput",
    "ScoringNetwork",
    "SegDiffDenoiser",
    "SegmentationLoss",
    "SegmentingNetwork",
    "UNetPlan",
    "VQVAECodec",
    "VectorQuantizer",
    "draw_sample_noise",
    "load_published_weights",
    "load_weights",
    "noise_generator",
    "plan_unet",
    "save_weights",
]
