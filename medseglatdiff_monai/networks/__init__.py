"""Networks: codecs, the codebook, the conditioner and the composite that a bundle calls ``network_def``."""

from .baselines.nnunet_plan import PlannedUNet
from .baselines.one_to_one import OneToOneSegmenter, SegmentationLoss, SegmentingNetwork
from .baselines.pixel_denoisers import DenseImageEncoder, FrequencyParser, MedSegDiffDenoiser, SegDiffDenoiser
from .codecs import IdentityCodec, VQVAECodec
from .conditioner import CodecConditioner
from .denoising_network import DenoisingNetwork, ScoringNetwork
from .encoders import EncoderUNet
from .kl_codec import KLCodec
from .noise import draw_sample_noise, noise_generator
from .quantizer import VectorQuantizer
from .segmenter import LatentDiffusionSegmenter

__all__ = [
    "CodecConditioner",
    "DenoisingNetwork",
    "DenseImageEncoder",
    "EncoderUNet",
    "FrequencyParser",
    "IdentityCodec",
    "KLCodec",
    "LatentDiffusionSegmenter",
    "MedSegDiffDenoiser",
    "OneToOneSegmenter",
    "PlannedUNet",
    "ScoringNetwork",
    "SegDiffDenoiser",
    "SegmentationLoss",
    "SegmentingNetwork",
    "VQVAECodec",
    "VectorQuantizer",
    "draw_sample_noise",
    "noise_generator",
]
