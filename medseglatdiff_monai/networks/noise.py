"""Noise that belongs to one sample of one case."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

# How the noise of a case's samples hangs together; a result's settings say it.
SAMPLE_NOISE = "opposite pairs"


def noise_generator(
    seed: int, case: str, sample_index: int, device: torch.device | str = "cpu", pass_index: int = 0
) -> torch.Generator:
    """Generator of one sample of one case, the same in whatever batch, chunk or rank it is computed.

    Args:
        seed: the user's seed.
        case: case id, or "" where the same noise is wanted for every image.
        sample_index: number of the sample within the ensemble.
        device: device of the generator.
        pass_index: number of the pass of the direct sampler.
    """
    owner = f"{seed}/{case}/{sample_index}" + (f"/{pass_index}" if pass_index else "")
    digest = hashlib.sha256(owner.encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def draw_sample_noise(
    shape: Sequence[int], seed: int, case: str, sample_index: int, pass_index: int = 0
) -> torch.Tensor:
    """Standard normal noise that a sample starts from or receives before a pass.

    Samples 2k and 2k + 1 are a pair of opposite noise (antithetic variates, Hammersley and Morton 1956): what noise
    decides, such as whether there is a mask at all, is then spread more evenly over few samples. Pairs are independent.
    """
    sign = 1 - 2 * (sample_index % 2)

    def draw() -> torch.Tensor:
        generator = noise_generator(seed, case, sample_index // 2 * 2, pass_index=pass_index)
        return sign * torch.randn(*shape, generator=generator)

    if not (torch.jit.is_tracing() or torch.compiler.is_exporting()):
        return draw()
    # An export would record the draw itself: TorchScript's generator would advance with every call, and ONNX has none.
    # What another thread computes is not recorded: its numbers are constants.
    with ThreadPoolExecutor(1) as thread:
        return torch.from_numpy(thread.submit(lambda: draw().numpy()).result())
