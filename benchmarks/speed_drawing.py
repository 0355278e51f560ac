"""What ``benchmarks/speed.py`` compares: ways to sample masks of one image, and how their cost is measured.

Networks have random weights, of the sizes that the bundles' configuration names: weights change no time.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.inferers import LatentDiffusionInferer
from monai.networks.nets import BasicUNet
from monai.networks.schedulers import DDIMScheduler
from system_costs import forget_peak, peak_bytes
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medseglatdiff_monai.bundle.config import load_stage_config
from medseglatdiff_monai.bundle.folders import find_bundle
from medseglatdiff_monai.networks import LatentDiffusionSegmenter

SEED = 0
FORMER_STEPS = 10
# Of a long chain only this many steps are timed. Each further step costs what the time between the two costs.
WALKED = 2
UNET_FEATURES = (64, 64, 128, 256, 512, 64)
REFERENCE, OURS, MATMUL, LIMIT = "unet", "default", "matmul", "limit"
# Works that are done sooner are repeated within a repetition: the clock's and the scheduler's grain is averaged out.
MIN_SECONDS = 0.3
# A warm-up that took longer needs no second one.
LONG_SECONDS = 3.0
# Columns of the clock.
WALL, PROCESSOR = 0, 1

Clock = Callable[[], Any]


@dataclass(frozen=True)
class Picture:
    """An image of which masks are sampled.

    Attributes:
        name: what it is, in the tables.
        bundle: whose configuration has its networks.
        raters: masks of a training image.
        numbers: of samples.
        overrides: of the configuration's keys; for tests.
    """

    name: str
    bundle: str
    raters: int
    numbers: tuple[int, ...]
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def config(self, experiment: str | None = None, **overrides: Any) -> ConfigParser:
        """The bundle's inference stage, weights aside."""
        config = load_stage_config(self.bundle, "inference", experiment, {**self.overrides, **overrides})
        return ConfigParser({**config, "bundle_root": str(find_bundle(self.bundle))})

    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the networks see."""
        config = self.config()
        side = int(config.get_parsed_content("image_size"))
        return int(config.get_parsed_content("image_channels")), side, side

    def build(
        self, device: torch.device, experiment: str | None = None, **overrides: Any
    ) -> tuple[LatentDiffusionSegmenter, torch.Tensor]:
        """The bundle's network with random weights, the same ones at every call, and its image."""
        torch.manual_seed(SEED)
        network = self.config(experiment, **overrides).get_parsed_content("network_def").to(device).eval()
        return network, self.image(device)

    def image(self, device: torch.device) -> torch.Tensor:
        """Noise of the shape that the networks see (1, C, H, W)."""
        return torch.rand(1, *self.shape(), generator=torch.Generator().manual_seed(SEED)).to(device)


PICTURES = {
    "lung": Picture("lung crop", "lung_nodule_ct_latent_diffusion", 4, (5, 16, 100)),
    "skin": Picture("skin image", "skin_lesion_dermoscopy_latent_diffusion", 1, (5,)),
}


@dataclass
class Method:
    """A way to sample masks.

    Attributes:
        work: makes this many samples.
        steps: denoiser calls of a sample.
        walked: how many of them ``work`` makes; the rest is extended.
        denoiser: what is called once per step; needed where not all steps are timed.
    """

    work: Callable[[int], object]
    steps: int = 1
    walked: int = 1
    denoiser: nn.Module | None = None


def default(picture: Picture, device: torch.device) -> Method:
    """The bundle as it is configured."""
    network, image = picture.build(device)
    steps = network.num_inference_steps
    return Method(lambda number: network.ensemble_logits(image, number), steps, steps)


def former_steps(picture: Picture, device: torch.device) -> Method:
    """The same network with the sampler that the bundles had before."""
    network, image = picture.build(device)

    def work(number: int) -> torch.Tensor:
        return network.ensemble_logits(image, number, num_inference_steps=FORMER_STEPS, sampler="dpm++")

    return Method(work, FORMER_STEPS, FORMER_STEPS)


def monai_inferer(picture: Picture, device: torch.device) -> Method:
    """The same network and number of steps in MONAI's own inferer; every sample sees the image as it is."""
    network, image = picture.build(device)
    process = network.process
    scheduler = DDIMScheduler(
        process.num_train_timesteps, process.schedule, prediction_type=process.prediction_type, clip_sample=False
    )
    scheduler.set_timesteps(FORMER_STEPS)
    # What MONAI's inferer asks an autoencoder for.
    decoder: Any = SimpleNamespace(decode_stage_2_outputs=network.decode_latents)
    inferer = LatentDiffusionInferer(scheduler)

    @torch.no_grad()
    def work(number: int) -> torch.Tensor:
        noise = torch.randn(number, *network.latent_shape(image), device=device)
        condition = network.conditioner(image).expand(number, -1, -1, -1)
        return inferer.sample(
            noise, decoder, network.denoiser, scheduler, conditioning=condition, mode="concat", verbose=False
        )

    return Method(work, FORMER_STEPS, FORMER_STEPS)


def system(experiment: str) -> Callable[[Picture, torch.device], Method]:
    """A system of the literature with its own sampler, of whose steps a few are walked."""

    def build(picture: Picture, device: torch.device) -> Method:
        # A system with a frozen conditioner does not know the bundle's own encoder.
        own: dict[str, Any] = {"image_encoder": None}
        config = picture.config(experiment, **own)
        steps = int(config.get_parsed_content("num_inference_steps"))
        walked = min(WALKED, steps)
        own["num_inference_steps"] = walked
        if config.get_parsed_content("sampler") == "ddpm":
            # A short chain of the ancestral sampler: fewer steps than the chain has would be another sampler's.
            own["num_train_timesteps"] = walked
        network, image = picture.build(device, experiment, **own)
        return Method(lambda number: network.ensemble_logits(image, number), steps, walked, network.denoiser)

    return build


def unet(picture: Picture, device: torch.device) -> Method:
    """One pass of MONAI's BasicUNet, which gives one mask."""
    torch.manual_seed(SEED)
    image = picture.image(device)
    network = BasicUNet(2, in_channels=image.shape[1], out_channels=1, features=UNET_FEATURES).to(device).eval()

    @torch.no_grad()
    def work(number: int) -> torch.Tensor:
        return network(image)

    return Method(work)


METHODS: dict[str, Callable[[Picture, torch.device], Method]] = {
    OURS: default,
    "former_steps": former_steps,
    "monai_inferer": monai_inferer,
    "medsegdiff": system("medsegdiff"),
    "paper": system("paper"),
    "ensemblediff": system("ensemblediff"),
    REFERENCE: unet,
}


def matrix_product(side: int, device: torch.device) -> Method:
    """One product of two square matrices."""
    a, b, out = (torch.rand(side, side, device=device) for _ in range(3))

    def work(number: int) -> torch.Tensor:
        # On CUDA convolutions round to TF32 unless told otherwise and products do not: a limit has to know the former.
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
        try:
            return torch.matmul(a, b, out=out)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    return Method(work)


def make_clock(device: torch.device) -> Clock:
    """Clock of wall and processor time in seconds, which waits for the device first."""

    def clock() -> np.ndarray:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return np.array([time.perf_counter(), time.process_time()])

    return clock


def missing_steps(marks: list[Any], walked: int, steps: int) -> Any:
    """What the steps that were not walked would use up; marks are the clock at each walked step, chunk after chunk."""
    chunks = [marks[start : start + walked] for start in range(0, len(marks), walked)]
    return sum((chunk[-1] - chunk[0]) / (walked - 1) for chunk in chunks) * (steps - walked)


def spend(method: Method, number: int, clock: Clock) -> Any:
    """Cost of ``number`` samples with all of the method's steps, by a clock, which may count anything."""
    marks: list[Any] = []
    watch: Any = contextlib.nullcontext()
    if method.steps > method.walked:
        assert method.denoiser is not None
        watch = method.denoiser.register_forward_pre_hook(lambda *_: marks.append(clock()))
    with watch:
        started = clock()
        method.work(number)
        used = clock() - started
    return used + missing_steps(marks, method.walked, method.steps) if marks else used


def multiply_accumulates(method: Method, number: int) -> int:
    """Counted by PyTorch as half the floating-point operations of matrix products, convolutions and attention."""
    with FlopCounterMode(display=False) as counter:
        return round(spend(method, number, counter.get_total_flops) / 2)


def warm_up(method: Method, number: int, clock: Clock) -> tuple[int, int]:
    """Multiply-accumulates, and how many calls take long enough to be timed."""
    started = clock()[WALL]
    counted = multiply_accumulates(method, number)
    if clock()[WALL] - started > LONG_SECONDS:
        return counted, 1
    # The first call loads what the others find.
    started = clock()[WALL]
    method.work(number)
    return counted, max(1, math.ceil(MIN_SECONDS / (clock()[WALL] - started)))


def measure_rounds(
    methods: Mapping[str, Method], number: int, repeats: int, clock: Clock
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Time every method once in each of ``repeats`` rounds, A B C A B C, so that all meet the same disturbances.

    Returns:
        Of each method, (repeats, 2) seconds of wall and processor time, and its multiply-accumulates.
    """
    warmed = {name: warm_up(method, number, clock) for name, method in methods.items()}
    rounds: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, method in methods.items():
            calls = warmed[name][1]
            rounds[name].append(sum(spend(method, number, clock) for _ in range(calls)) / calls)
    return {name: np.stack(took) for name, took in rounds.items()}, {name: warmed[name][0] for name in methods}


def peak_memory(picture: Picture, name: str, numbers: tuple[int, ...], device: torch.device) -> list[int]:
    """Largest memory in bytes, weights included, that this many samples take; call it in a separate process.

    On a CPU it is what the process grows by over its libraries. ``numbers`` ascend: memory that the allocator keeps of
    one is less than the next one needs.
    """
    # What the first convolution and product load is no part of a method.
    nn.functional.conv2d(torch.rand(1, 8, 32, 32), torch.rand(8, 8, 3, 3))
    torch.matmul(torch.rand(64, 64), torch.rand(64, 64))
    forget_peak()
    before = peak_bytes()
    method = METHODS[name](picture, device)
    peaks = []
    for number in numbers:
        forget_peak()
        method.work(number)
        peaks.append(torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_bytes() - before)
    return peaks
