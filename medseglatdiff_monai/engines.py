"""What MONAI's SupervisedTrainer and SupervisedEvaluator need to train and score one-to-many segmenters.

Batches hold ``image`` (B, C, H, W) in [0, 1] and ``label`` (B, R, H, W) with one channel a rater. The ``Prepare…``
classes turn them into each stage's inputs and targets, augmenting the whole batch at once on the device; the handlers
seed epochs, warm up and decay the learning rate, bound gradients and log the codebook's use.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.engines import PrepareBatch
from monai.engines.utils import IterationEvents
from monai.transforms import Compose
from monai.utils import set_determinism
from torch import nn

from .data.latents import MaskLatents
from .data.transforms import ReaderConsensus
from .errors import InputError
from .symmetries import apply_symmetry, draw_symmetry

__all__ = [
    "BatchAugmentation",
    "CodebookLogger",
    "EvaluationProgressBar",
    "GradientClipping",
    "LearningRateSchedule",
    "PrepareDenoising",
    "PrepareEnsemble",
    "PrepareImages",
    "PrepareInference",
    "PrepareMasks",
    "PrepareScoring",
    "SeedEachEpoch",
    "TrainingProgressBar",
    "TrainingTimeLimit",
    "TransformAugmentation",
]


def _load_batch(batch: dict, device: Any, non_blocking: bool, keys: tuple[str, ...]) -> list[torch.Tensor]:
    tensors = []
    for key in keys:
        if key not in batch:
            raise InputError(f"A batch has no '{key}', only {sorted(batch)}. Name it so in the dataset's items.")
        value = batch[key].as_tensor() if hasattr(batch[key], "as_tensor") else batch[key]
        tensors.append(value.to(device, non_blocking=non_blocking))
    return tensors


class BatchAugmentation:
    """Flips and rotations, an affine map, gamma, brightness, contrast and colour, one draw a case, on a whole batch.

    Args:
        flips: draw one of the eight symmetries of the square (four of a rectangle: flips only), or of the eight flips
            of a volume.
        gamma: largest log-gamma, e.g. 0.3 for exponents between exp(-0.3) and exp(0.3).
        brightness: largest shift of the intensities.
        contrast: largest relative change of the contrast about the mean.
        colour: largest relative change of each channel by itself.
        rotation: largest angle in degrees, on top of the flips; images only, not volumes.
        scale: largest log-factor of the size, e.g. 0.2; images only.
        shift: largest shift as a share of the side; images only.
        window: side of the part that is given out, from the middle; ``None``: the whole. An image that is larger than
            the window brings real surroundings into it where it is turned or shifted; elsewhere they are mirrored.

    Raises:
        InputError: a window without rotation, scale or shift.
    """

    def __init__(
        self,
        flips: bool = True,
        gamma: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        colour: float = 0.0,
        rotation: float = 0.0,
        scale: float = 0.0,
        shift: float = 0.0,
        window: int | None = None,
    ) -> None:
        self.flips = flips
        self.gamma = gamma
        self.brightness = brightness
        self.contrast = contrast
        self.colour = colour
        self.rotation = rotation
        self.scale = scale
        self.shift = shift
        self.window = window
        if window is not None and not self.is_affine:
            raise InputError(f"window = {window} goes with rotation, scale or shift: set one of them, or leave it out.")

    @property
    def is_affine(self) -> bool:
        """Whether images are resampled, so that no symmetry of the square describes what was done to them."""
        return max(self.rotation, self.scale, self.shift) > 0

    def draw(self, image: torch.Tensor) -> torch.Tensor | None:
        """Symmetry (B,) in [0, 8) that each case of a batch is to be turned by; ``None`` without ``flips``."""
        return draw_symmetry(len(image), *image.shape[2:], device=image.device) if self.flips else None

    def __call__(
        self, image: torch.Tensor, label: torch.Tensor, symmetry: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment images (B, C, H, W[, D]) in [0, 1] and labels (B, R, H, W[, D]) alike; ranges stay.

        ``symmetry`` is what :meth:`draw` gave, for callers who need to know it; it is drawn here otherwise.
        """
        shape = (len(image), *([1] * (image.ndim - 1)))
        draw = lambda largest: (torch.rand(shape, device=image.device) * 2 - 1) * largest  # noqa: E731
        symmetry = self.draw(image) if symmetry is None else symmetry
        if symmetry is not None:
            image, label = apply_symmetry(image, symmetry), apply_symmetry(label, symmetry)
        if self.is_affine:
            image, label = self._resample(image, label)
        if self.gamma > 0:
            image = image.clamp(0, 1) ** draw(self.gamma).exp()
        if self.contrast > 0:
            mean = image.mean(dim=tuple(range(1, image.ndim)), keepdim=True)
            image = (image - mean) * (1 + draw(self.contrast)) + mean
        if self.colour > 0:
            factor = torch.rand(*image.shape[:2], *shape[2:], device=image.device) * 2 - 1
            image = image * (1 + self.colour * factor)
        if self.brightness > 0:
            image = image + draw(self.brightness)
        return image.clamp(0, 1), label

    def _resample(self, image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if image.ndim != 4:
            raise InputError("rotation, scale and shift are for images; found volumes: set them to 0.")
        batch, side = len(image), self.window or image.shape[2]
        out = (side, self.window or image.shape[3])
        angle, scale, *shift = (torch.rand(4, batch, device=image.device) * 2 - 1).unbind()
        angle, scale = torch.deg2rad(angle * self.rotation), (scale * self.scale).exp()
        cosine, sine = scale * angle.cos(), scale * angle.sin()
        # grid_sample counts in half sides of the image, so an oblong one needs its aspect in the rotation.
        height, width = image.shape[2:]
        across = torch.stack([cosine * out[1], -sine * out[0], 2 * self.shift * shift[0] * out[1]], 1) / width
        down = torch.stack([sine * out[1], cosine * out[0], 2 * self.shift * shift[1] * out[0]], 1) / height
        grid = F.affine_grid(torch.stack([across, down], 1), [batch, 1, *out], align_corners=False)
        image = F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)
        masks = F.grid_sample(label.float(), grid, padding_mode="reflection", align_corners=False) >= 0.5
        return image, masks.to(label.dtype)


class TransformAugmentation:
    """MONAI's random dictionary transforms, drawn anew for each case of a batch.

    All random numbers follow from PyTorch's generator, so that a resumed run draws what an uninterrupted one would.

    Args:
        transforms: from ``{"image": (C, H, W[, D]), "label": (R, H, W[, D])}`` to the same, shapes kept.
    """

    def __init__(self, transforms: Compose) -> None:
        self.transforms = transforms

    def draw(self, image: torch.Tensor) -> None:
        """``None``: what the transforms draw is no symmetry of the square alone."""

    def __call__(
        self, image: torch.Tensor, label: torch.Tensor, symmetry: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment images (B, C, H, W[, D]) and labels (B, R, H, W[, D]) alike; ``symmetry`` is without effect."""
        self.transforms.set_random_state(seed=int(torch.randint(2**31, (1,))))
        cases = [self.transforms({"image": x, "label": y}) for x, y in zip(image, label, strict=True)]
        images, labels = (torch.stack([torch.as_tensor(case[key]) for case in cases]) for key in ("image", "label"))
        return images.to(image.dtype), labels.to(label.dtype)


class _Augmented(PrepareBatch):
    def __init__(self, augmentation: BatchAugmentation | TransformAugmentation | None = None) -> None:
        self.augmentation = augmentation

    def _load(self, batchdata: dict, device: Any, non_blocking: bool) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = _load_batch(batchdata, device, non_blocking, ("image", "label"))
        image = image.float()
        return self.augmentation(image, label) if self.augmentation is not None else (image, label)


class PrepareImages(_Augmented):
    """Image codec: the image is input and target."""

    def __call__(self, batchdata, device=None, non_blocking=False, **kwargs):
        """Batch → (image, image)."""
        image, _ = self._load(batchdata, device, non_blocking)
        return image, image


class PrepareMasks(_Augmented):
    """Mask codec: masks of single readers are input and target.

    Every case gives ``masks_per_case`` masks. Where only few readers marked anything, most masks would be empty and
    teach nothing, so a non-empty one is taken wherever there is one, but for a share of ``empty_share``.

    Args:
        masks_per_case: masks drawn from each case.
        empty_share: share of the draws that are made among all readers, empty masks included.
        augmentation: see :class:`BatchAugmentation`.
    """

    def __init__(
        self, masks_per_case: int = 1, empty_share: float = 0.1, augmentation: BatchAugmentation | None = None
    ) -> None:
        super().__init__(augmentation)
        self.masks_per_case = masks_per_case
        self.empty_share = empty_share

    def __call__(self, batchdata, device=None, non_blocking=False, **kwargs):
        """Batch → (masks, masks), each (B * masks_per_case, 1, H, W) float32."""
        _, label = self._load(batchdata, device, non_blocking)
        marked = label.flatten(2).any(2).float()
        anyone = torch.rand(len(label), 1, device=label.device) < self.empty_share
        # Readers to draw from: all where anyone goes or nobody marked, else those who marked.
        weight = torch.where(anyone | (marked.sum(1, keepdim=True) == 0), torch.ones_like(marked), marked)
        reader = torch.multinomial(weight, self.masks_per_case, replacement=True)
        rows = torch.arange(len(label), device=label.device)[:, None]
        masks = label[rows, reader].flatten(0, 1)[:, None].float()
        return masks, masks


class PrepareDenoising(_Augmented):
    """Segmenter: an image and its target masks, from which a denoiser's draws of noise start.

    Args:
        draws: draws of noise and timestep for each image.
        target: ``"random_reader"``: the draws take the readers in random order, each reader equally often, readers
            who marked nothing included; ``"consensus"``: all draws take the consensus of at least half of the readers.
        augmentation: see :class:`BatchAugmentation`.
        latents: precomputed latents of the training masks, made for the same target and flips; ``None``: the network
            encodes the masks at every step.

    Raises:
        InputError: unknown target, or latents that were made for the other one.
    """

    def __init__(
        self,
        draws: int = 1,
        target: str = "random_reader",
        augmentation: BatchAugmentation | TransformAugmentation | None = None,
        latents: MaskLatents | None = None,
    ) -> None:
        super().__init__(augmentation)
        turned_only = isinstance(augmentation, BatchAugmentation) and not augmentation.is_affine
        if latents is not None and augmentation is not None and not turned_only:
            raise InputError(
                "Latents are kept for flips and rotations by 90 degrees alone, and the augmentation does more: train "
                "with --cache_latents false."
            )
        if target not in ("random_reader", "consensus"):
            raise InputError(f"target must be 'random_reader' or 'consensus', found {target!r}.")
        if latents is not None and latents.target != target:
            raise InputError(f"target is {target!r}, the latents were made for {latents.target!r}.")
        self.latents = latents
        self.draws = draws
        self.target = target
        self.consensus = ReaderConsensus()

    def __call__(self, batchdata, device=None, non_blocking=False, **kwargs):
        """Batch → (image, label, (masks[, latents]), {}); masks (B, draws, H, W), latents (B, draws, d, h, w)."""
        image, label = _load_batch(batchdata, device, non_blocking, ("image", "label"))
        image, symmetry = image.float(), None
        if self.augmentation is not None:
            symmetry = self.augmentation.draw(image)
            image, label = self.augmentation(image, label, symmetry)
        if self.target == "consensus":
            candidates = torch.stack([self.consensus(readers) for readers in label])
            order = torch.zeros(len(label), self.draws, dtype=torch.long, device=label.device)
        else:
            candidates = label
            readers = label.shape[1]
            rounds = math.ceil(self.draws / readers)
            order = torch.rand(rounds, len(label), readers, device=label.device).argsort(-1)
            order = order.transpose(0, 1).flatten(1)[:, : self.draws]
        masks = candidates[torch.arange(len(label), device=label.device)[:, None], order].float()
        if self.latents is None:
            return image, label, (masks,), {}
        if "case" not in batchdata:
            raise InputError(f"A batch has no 'case', only {sorted(batchdata)}: latents are kept by case.")
        return image, label, (masks, self.latents(batchdata["case"], order, symmetry)), {}


class PrepareScoring(_Augmented):
    """Scoring stage: an image and the masks that its samples are scored against.

    Args:
        target: ``"random_reader"``: all raters; ``"consensus"``: that of at least half of them alone.
        augmentation: see :class:`BatchAugmentation`.

    Raises:
        InputError: unknown target.
    """

    def __init__(
        self,
        target: str = "random_reader",
        augmentation: BatchAugmentation | TransformAugmentation | None = None,
    ) -> None:
        super().__init__(augmentation)
        if target not in ("random_reader", "consensus"):
            raise InputError(f"target must be 'random_reader' or 'consensus', found {target!r}.")
        self.target = target
        self.consensus = ReaderConsensus()

    def __call__(self, batchdata, device=None, non_blocking=False, **kwargs):
        """Batch → (image, label, (raters,), {}); raters (B, R, H, W) float32, R = 1 for the consensus."""
        image, label = self._load(batchdata, device, non_blocking)
        raters = torch.stack([self.consensus(one) for one in label]) if self.target == "consensus" else label
        return image, label, (raters.float(),), {}


class PrepareEnsemble(PrepareBatch):
    """Evaluation: the image, all readers' masks and the case ids that the noise belongs to."""

    def __call__(self, batchdata, device=None, non_blocking=False, **kwargs):
        """Batch → (image, label, (), {"cases": list of ids})."""
        image, label = _load_batch(batchdata, device, non_blocking, ("image", "label"))
        cases = batchdata.get("case")
        return image.float(), label, (), {"cases": list(cases)} if cases is not None else {}


class PrepareInference(PrepareBatch):
    """Inference: the image alone, which is all that ``inference.json`` loads."""

    def __call__(self, batchdata, device=None, non_blocking=False, **kwargs):
        """Batch → (image, None)."""
        _load_batch(batchdata, device, non_blocking, ("image",))
        # With its metadata: postprocessing brings the masks back along it.
        return batchdata["image"].to(device, non_blocking=non_blocking).float(), None


class SeedEachEpoch:
    """Seed all random numbers from (seed, epoch, rank): a resumed run goes on exactly as an uninterrupted one."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Called at the start of an epoch."""
        state: Any = engine.state
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        # What a time limit left of an epoch would else repeat the batches and the noise of the epoch's beginning.
        done = state.iteration - (state.epoch - 1) * state.epoch_length
        set_determinism(seed=(self.seed * 1_000_003 + state.epoch * 101 + rank + done * 7919) % 2**31)
        torch.use_deterministic_algorithms(False)
        sampler: Any = getattr(state.dataloader, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(state.epoch)


class LearningRateSchedule:
    """Linear warm-up, constant rate, and a decay towards the end of the training.

    The end is the last epoch, or the end of the time where a :class:`TrainingTimeLimit` comes first: the decay follows
    the larger of the share of the iterations that are done and the share of the time that has passed. A call that goes
    on with an interrupted training spreads what is left of the schedule over its own time; the rate then begins at
    where the iterations stand, above that at which the call before it ended. Without a time limit the rate is a
    function of the iteration alone.

    Args:
        optimizer: its groups' rates are set to a multiple of those they were made with.
        warmup_iterations: iterations until the full rate.
        decay_share: share of the training over which the rate falls to 1% of itself along half a cosine; 0 keeps it
            constant.
        decay_power: polynomial decay (1 - share) ** decay_power over the whole training, nnU-Net's with 0.9; 0 is off.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        warmup_iterations: int = 100,
        decay_share: float = 0.0,
        decay_power: float = 0.0,
    ) -> None:
        self.optimizer = optimizer
        self.base = [group["lr"] for group in optimizer.param_groups]
        self.warmup_iterations = warmup_iterations
        self.decay_share = decay_share
        self.decay_power = decay_power
        self._done_before: int | None = None

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def _start(self, engine: Engine) -> None:
        self._done_before = None

    def _share_done(self, engine: Engine, iterations: int) -> float:
        """Share of the training that is over after so many iterations, or by the clock if that is further on."""
        state: Any = engine.state
        total = state.max_epochs * state.epoch_length
        before = (self._done_before or 0) / total
        return max(iterations / total, before + (1.0 - before) * getattr(state, "time_share", 0.0))

    def __call__(self, engine: Engine) -> None:
        """Called before an iteration."""
        iteration = engine.state.iteration
        if self._done_before is None:
            # Not at the start, when a resumed training has not restored its iteration yet.
            self._done_before = iteration - 1
        factor = min(1.0, iteration / max(1, self.warmup_iterations))
        if self.decay_power > 0:
            # From the iterations before this one: the last one still has a rate.
            factor *= (1.0 - self._share_done(engine, iteration - 1)) ** self.decay_power
        if self.decay_share > 0:
            left = (1.0 - self._share_done(engine, iteration)) / self.decay_share
            factor *= 0.01 + 0.99 * 0.5 * (1.0 - math.cos(math.pi * min(1.0, max(0.0, left))))
        for group, rate in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = rate * factor


class GradientClipping:
    """Bound the norm of the gradient before every optimizer step.

    Args:
        network: the trained network.
        max_norm: largest norm.
    """

    def __init__(self, network: nn.Module, max_norm: float = 1.0) -> None:
        self.network = network
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Called after the backward pass."""
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
        if not torch.isfinite(norm):
            raise InputError(
                f"The gradient is not finite at iteration {engine.state.iteration}. Lower the learning rate "
                "(--learning_rate) or switch mixed precision off (--mixed_precision false)."
            )


class CodebookLogger:
    """Keep the codebook's health in ``engine.state.metrics``: ``perplexity`` and ``codebook_usage``.

    Usage is the share of entries that are in use at all: moving-average share of at least a tenth of the even share.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network: Any = getattr(network, "module", network)

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Called after an iteration."""
        quantizer = self.network.quantizer
        if quantizer is None:
            return
        output: Any = engine.state.output
        engine.state.metrics["perplexity"] = float(output["pred"]["perplexity"])
        used = quantizer.usage > 0.1 / quantizer.num_embeddings
        engine.state.metrics["codebook_usage"] = float(used.float().mean())


class TrainingProgressBar(ProgressBar):
    """Ignite's progress bar with the loss beside it, on rank 0 alone."""

    def attach(self, engine: Engine) -> None:  # type: ignore[override]
        """Register on a trainer."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0:
            super().attach(engine, output_transform=lambda output: {"loss": float(output["loss"].detach())})


class EvaluationProgressBar(ProgressBar):
    """Ignite's progress bar on rank 0 alone."""

    def attach(self, engine: Engine) -> None:  # type: ignore[override]
        """Register on an evaluator."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0:
            super().attach(engine)


class TrainingTimeLimit:
    """End the run cleanly after some minutes: the iteration in flight is finished, and the checkpoint written.

    ``engine.state.time_share`` is the share of the time that has passed, in [0, 1], the same on every rank; the
    :class:`LearningRateSchedule` follows it.

    Args:
        max_minutes: the limit, from the first iteration on; ``None`` sets none.
        deadline: a point of ``time.monotonic()``, for a caller whose time began before the data were loaded.
    """

    def __init__(self, max_minutes: float | None = None, deadline: float | None = None) -> None:
        if max_minutes is not None and max_minutes <= 0:
            raise InputError(f"--max-minutes must be positive, found {max_minutes}.")
        self.max_minutes = max_minutes
        self.deadline = deadline

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        if self.max_minutes is not None or self.deadline is not None:
            engine.add_event_handler(Events.STARTED, self._start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._check)

    def _start(self, engine: Engine) -> None:
        self._started = time.monotonic()
        limits = [] if self.deadline is None else [self.deadline]
        if self.max_minutes is not None:
            limits.append(self._started + 60.0 * self.max_minutes)
        self._deadline = min(limits)
        state: Any = engine.state
        state.time_share = 0.0

    def _check(self, engine: Engine) -> None:
        state: Any = engine.state
        now = time.monotonic()
        # A deadline may have passed before the start.
        share = 1.0 if now >= self._deadline else (now - self._started) / (self._deadline - self._started)
        if dist.is_available() and dist.is_initialized():
            # Clocks differ: all ranks take the furthest one's share, have the same learning rate, and stop together.
            furthest = torch.tensor(share, device=state.device)
            dist.all_reduce(furthest, op=dist.ReduceOp.MAX)
            share = float(furthest)
        state.time_share = share
        if share >= 1.0:
            engine.terminate()
