"""Noise that belongs to one sample of one case."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import NormalDist

import torch

# How the noise of a case's samples hangs together; a result's settings say it.
SAMPLE_NOISE = "spread evenly"
# Its multiples modulo 1 are spread evenly, however many are taken.
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


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
    return torch.Generator(device).manual_seed(_hash(owner) >> 1)


def even_quantile(seed: int, case: str, number: int) -> float:
    """Standard normal quantile of (u + number · golden ratio) modulo 1, a Kronecker sequence, with u drawn per case."""
    share = (_hash(f"{seed}/{case}") / 2**64 + number * GOLDEN_RATIO) % 1
    return NormalDist().inv_cdf(min(max(share, 1e-9), 1 - 1e-9))


def draw_sample_noise(
    shape: Sequence[int], seed: int, case: str, sample_index: int, pass_index: int = 0
) -> torch.Tensor:
    """Standard normal noise (d, ...) that a sample starts from or receives before a pass.

    Every sample by itself has standard normal noise. Together they are spread more evenly than independent ones, so
    that a few of them cover what noise decides, such as whether there is a mask at all. Samples 2k and 2k + 1 are a
    pair of opposite noise (antithetic variates, Hammersley and Morton 1956). In the first pass the mean of the first
    channel follows :func:`even_quantile` from pair to pair; a network with ``common_noise`` sees nothing else of it.
    """

    def draw() -> torch.Tensor:
        generator = noise_generator(seed, case, sample_index // 2 * 2, pass_index=pass_index)
        noise = torch.randn(*shape, generator=generator)
        if pass_index == 0:
            # The mean of n standard normal numbers is independent of what is left without it, and has deviation 1/√n.
            mean = even_quantile(seed, case, sample_index // 2) / math.sqrt(noise[0].numel())
            noise[0] += mean - noise[0].mean()
        return noise if sample_index % 2 == 0 else -noise

    if not (torch.jit.is_tracing() or torch.compiler.is_exporting()):
        return draw()
    # An export would record the draw itself: TorchScript's generator would advance with every call, and ONNX has none.
    # What another thread computes is not recorded: its numbers are constants.
    with ThreadPoolExecutor(1) as thread:
        return torch.from_numpy(thread.submit(lambda: draw().numpy()).result())


def spread_first_channel(noise: torch.Tensor) -> torch.Tensor:
    """Noise (B, m, d, h, w[, e]) whose first channels have their means in different m-ths of the normal distribution.

    The training's counterpart of :func:`draw_sample_noise`: a case's m samples cover what the first channel decides,
    and each by itself stays standard normal.
    """
    batch, m, _, *size = noise.shape
    # Which sample has which part is drawn, or the first would always have the lowest.
    part = torch.rand(batch, m, device=noise.device).argsort(1)
    share = (part + torch.rand(batch, m, device=noise.device)) / m
    mean = torch.special.ndtri(share.clamp(1e-6, 1 - 1e-6)) / math.sqrt(math.prod(size))
    first = noise[:, :, 0].flatten(2)
    first = first + (mean - first.mean(2))[..., None]
    return torch.cat([first.unflatten(2, size)[:, :, None], noise[:, :, 1:]], 2)


def _hash(owner: str) -> int:
    """A number in [0, 2^64)."""
    return int.from_bytes(hashlib.sha256(owner.encode()).digest()[:8], "big")
