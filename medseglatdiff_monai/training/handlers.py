"""Ignite handlers of the trainers: seeds, learning rate, gradients, codebook and time."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.utils import set_determinism
from torch import nn

from ..errors import InputError
from .distributed import in_process_group, process_rank

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class SeedEachEpoch:
    """Seed all random numbers from (seed, epoch, rank): a resumed run continues exactly as an uninterrupted one."""

    seed: int = 0

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Called at the start of an epoch."""
        state: Any = engine.state
        # Otherwise an epoch that a time limit cut would resume with the batches and the noise of its beginning.
        done = state.iteration - (state.epoch - 1) * state.epoch_length
        set_determinism(seed=(self.seed * 1_000_003 + state.epoch * 101 + process_rank() + done * 7919) % 2**31)
        torch.use_deterministic_algorithms(False)
        sampler: Any = getattr(state.dataloader, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(state.epoch)


@dataclass(eq=False)
class LearningRateSchedule:
    """Linear warm-up, constant rate, and a decay towards the end of the training.

    The end is the last epoch, or the end of the time if a :class:`TrainingTimeLimit` comes first: the decay follows the
    share of the iterations that are done or the share of the time that has passed, whichever is larger. A call that
    resumes an interrupted training spreads the rest of the schedule over its own time. The rate then starts from the
    share of the iterations, above the rate at which the previous call ended. Without a time limit the rate depends only
    on the iteration.

    Args:
        optimizer: its groups' rates are set to a multiple of those they were made with.
        warmup_iterations: iterations until the full rate.
        decay_share: share of the training over which the rate falls to 1% of itself along half a cosine; 0 keeps it
            constant.
        decay_power: polynomial decay (1 - share) ** decay_power over the whole training, 0.9 in nnU-Net; 0 is off.
    """

    optimizer: torch.optim.Optimizer
    warmup_iterations: int = 100
    decay_share: float = 0.0
    decay_power: float = 0.0

    def __post_init__(self) -> None:
        """Note the rates."""
        self._base = [group["lr"] for group in self.optimizer.param_groups]
        self._done_before: int | None = None

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def _start(self, engine: Engine) -> None:
        self._done_before = None

    def _share_done(self, engine: Engine, iterations: int) -> float:
        """Share of the training that is done after this many iterations, or by the clock if that is larger."""
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
            # Counted without this iteration, so that the last one still has a rate.
            factor *= (1.0 - self._share_done(engine, iteration - 1)) ** self.decay_power
        if self.decay_share > 0:
            left = (1.0 - self._share_done(engine, iteration)) / self.decay_share
            factor *= 0.01 + 0.99 * 0.5 * (1.0 - math.cos(math.pi * min(1.0, max(0.0, left))))
        for group, rate in zip(self.optimizer.param_groups, self._base, strict=True):
            group["lr"] = rate * factor


@dataclass(eq=False)
class GradientClipping:
    """Bound the norm of the network's gradient by ``max_norm`` before every optimizer step."""

    network: nn.Module
    max_norm: float = 1.0

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
    """Log the codebook's use in ``engine.state.metrics``: ``perplexity`` and ``codebook_usage``.

    Usage is the share of entries that are in use at all: moving-average share of at least a tenth of the even share.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network: Any = getattr(network, "module", network)

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Called after an iteration."""
        quantizer = getattr(self.network, "quantizer", None)
        if quantizer is None or not self.network.trainable_encoder:
            return
        output: Any = engine.state.output
        engine.state.metrics["perplexity"] = float(output["pred"]["perplexity"])
        used = quantizer.usage > 0.1 / quantizer.num_embeddings
        engine.state.metrics["codebook_usage"] = float(used.float().mean())


@dataclass(eq=False)
class TrainingTimeLimit:
    """End the run cleanly after some minutes: the current iteration is finished, and the checkpoint written.

    A validation that is under way is given up, without scores: of many steps for many images it can take minutes. Not
    with several processes, whose numbers of batches may differ, so that they could not agree when to stop.
    ``engine.state.time_share`` is the share of the time that has passed, in [0, 1], the same on every rank; the
    :class:`LearningRateSchedule` follows it. ``engine.state.stop_at`` is the end, as a point of ``time.monotonic()``.

    Args:
        max_minutes: the limit, from the first iteration on; ``None`` sets none.
        deadline: a point of ``time.monotonic()``, for a caller whose time began before the data were loaded.
        validator: the evaluator that validates during the run.
    """

    max_minutes: float | None = None
    deadline: float | None = None
    validator: Engine | None = None

    def __post_init__(self) -> None:
        """Check the limit."""
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise InputError(f"--max-minutes must be positive, found {self.max_minutes}.")
        self._started, self._deadline = 0.0, math.inf

    def attach(self, engine: Engine) -> None:
        """Register on a trainer, and on the validator."""
        if self.max_minutes is None and self.deadline is None:
            return
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._check)
        engine.add_event_handler(Events.COMPLETED, self._finish)
        if self.validator is not None:
            self.validator.add_event_handler(Events.ITERATION_COMPLETED, self._check_validation)

    def _start(self, engine: Engine) -> None:
        self._started = time.monotonic()
        limits = [] if self.deadline is None else [self.deadline]
        if self.max_minutes is not None:
            limits.append(self._started + 60.0 * self.max_minutes)
        self._deadline = min(limits)
        state: Any = engine.state
        state.time_share, state.stop_at = 0.0, self._deadline

    def _check(self, engine: Engine) -> None:
        state: Any = engine.state
        now = time.monotonic()
        # A deadline may have passed before the start.
        share = 1.0 if now >= self._deadline else (now - self._started) / (self._deadline - self._started)
        if in_process_group():
            # Clocks differ: all ranks take the furthest one's share, have the same learning rate, and stop together.
            furthest = torch.tensor(share, device=state.device)
            dist.all_reduce(furthest, op=dist.ReduceOp.MAX)
            share = float(furthest)
        state.time_share = share
        if share >= 1.0:
            engine.terminate()

    def _check_validation(self, validator: Engine) -> None:
        state: Any = validator.state
        if state.iteration < state.epoch_length and not in_process_group() and time.monotonic() >= self._deadline:
            logger.info("The time is over: the validation is given up")
            validator.terminate()

    def _finish(self, engine: Engine) -> None:
        # A validation that comes after the run has its own time.
        self._deadline = math.inf
