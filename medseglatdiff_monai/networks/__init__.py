"""Networks: codecs, the codebook, the conditioner and the composite that a bundle calls ``network_def``."""

from .codecs import CodecBase, IdentityCodec, VQVAECodec
from .quantizer import QuantizerOutput, VectorQuantizer
from .segmenter import CodecConditioner, DenoisingNetwork, LatentDiffusionSegmenter, noise_generator

__all__ = [
    "CodecBase",
    "CodecConditioner",
    "DenoisingNetwork",
    "IdentityCodec",
    "LatentDiffusionSegmenter",
    "QuantizerOutput",
    "VQVAECodec",
    "VectorQuantizer",
    "noise_generator",
]
