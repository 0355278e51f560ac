"""Networks: codecs, the codebook, the conditioner and the composite that a bundle calls ``network_def``."""

from .baselines.hyperseg import HyperSeg
from .baselines.medsegdiff_v2 import AnchorConditioner, AnchorEncoder, MedSegDiffV2Denoiser
from .baselines.nnunet_plan import PlannedUNet
from .baselines.one_to_one import OneToOneSegmenter, SegmentationLoss, SegmentingNetwork
from .baselines.pixel_denoisers import DenseImageEncoder, FrequencyParser, MedSegDiffDenoiser, SegDiffDenoiser
from .baselines.probabilistic_unet import EvidenceLoss, ProbabilisticNetwork, ProbabilisticUNet
from .baselines.transformers import SegFormer, SwinUNet, TransUNet
from .codecs import IdentityCodec, VQVAECodec
from .conditioner import CodecConditioner
from .denoising_network import DenoisingNetwork, ScoringNetwork
from .encoders import EncoderUNet
from .kl_codec import KLCodec
from .noise import draw_sample_noise, noise_generator
from .quantizer import VectorQuantizer
from .segmenter import LatentDiffusionSegmenter

__all__ = [
    "AnchorConditioner",
    "AnchorEncoder",
    "CodecConditioner",
    "DenoisingNetwork",
    "DenseImageEncoder",
    "EncoderUNet",
    "EvidenceLoss",
    "FrequencyParser",
    "HyperSeg",
    "IdentityCodec",
    "KLCodec",
    "LatentDiffusionSegmenter",
    "MedSegDiffDenoiser",
    "MedSegDiffV2Denoiser",
    "OneToOneSegmenter",
    "PlannedUNet",
    "ProbabilisticNetwork",
    "ProbabilisticUNet",
    "ScoringNetwork",
    "SegDiffDenoiser",
    "SegFormer",
    "SegmentationLoss",
    "SegmentingNetwork",
    "SwinUNet",
    "TransUNet",
    "VQVAECodec",
    "VectorQuantizer",
    "draw_sample_noise",
    "noise_generator",
]
