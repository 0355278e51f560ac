"""How a trainer calls its network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from monai.inferers import Inferer
from torch import nn


@dataclass(eq=False)
class AutocastInferer(Inferer):
    """Training inferer: the network's forward pass, in bfloat16 autocast where ``mixed_precision`` is set.

    MONAI's trainer offers mixed precision only on CUDA; bfloat16 needs no loss scaling and is also faster on CPUs.
    """

    mixed_precision: bool = False

    def __call__(self, inputs: torch.Tensor, network: nn.Module, *args, **kwargs):  # type: ignore[override]
        """``network(inputs, *args, **kwargs)``."""
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.mixed_precision):
            return network(inputs, *args, **kwargs)


@dataclass(eq=False)
class ReconstructionInferer(Inferer):
    """Codec validation: the reconstruction of an image, or with ``binary``, from logits, of a mask as 0 or 1."""

    binary: bool = False

    @torch.no_grad()
    def __call__(self, inputs: torch.Tensor, network: nn.Module, *args, **kwargs) -> torch.Tensor:  # type: ignore[override]
        """Images or masks (B, C, H, W[, D]) → reconstruction of the same shape, float32."""
        codec: Any = getattr(network, "module", network)
        output = codec.reconstruct(inputs)
        return (output > 0).float() if self.binary else output
