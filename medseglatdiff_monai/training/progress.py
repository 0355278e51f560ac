"""What a training says while it runs: its stage, the time left, a line per validation, and its curves as a picture."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from ..bundle.plan import STAGE_NAMES
from ..console import Progress, count, format_duration
from ..files import read_keys, save_json
from ..plots.curves import plot_training
from .distributed import process_rank

logger = logging.getLogger(__name__)

# Files in the run's folder; the picture shows what the JSON holds.
CURVES = "training_curves.json", "training_curves.png"
METRIC_NAMES = {"psnr": "PSNR", "dice": "Dice", "ged": "GED", "ged_unbiased": "GED (unbiased)"}
# Steps whose mean loss is one point of the curve.
POINT_STEPS = 20


class EvaluationProgress:
    """Handler of an evaluator that tells how many batches are done, on the first process only."""

    def __init__(self, title: str = "Scoring") -> None:
        self.title = title

    def attach(self, engine: Engine) -> None:
        """Register on an evaluator."""
        if process_rank() == 0:
            engine.add_event_handler(Events.STARTED, self._start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: self._progress.update())
            engine.add_event_handler(Events.COMPLETED, lambda: self._progress.close())

    def _start(self, engine: Engine) -> None:
        self._progress = Progress(self.title, engine.state.epoch_length or 0, "batches")


class TrainingProgress:
    """Handler of a stage's trainer that tells how it goes, on the first process only, and keeps the run's curves.

    It comes after the ``ValidationHandler`` and the ``TrainingTimeLimit`` among the trainer's handlers.

    Args:
        output_dir: the run's folder; receives ``training_curves.json`` after each epoch, and ``training_curves.png``
            after each validation and at the end.
        stage: the stage's name, as in ``stages``; the stage ``train`` is also called ``diffusion``.
        stages: names of the run's stages, in their order.
        validator: the stage's evaluator.
        wanted: least value of the validator's key metric that the next stage can build on; ``None``: none is known.
    """

    def __init__(
        self,
        output_dir: str | Path,
        stage: str,
        stages: Sequence[str],
        validator: Engine | None = None,
        wanted: float | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        own = "train" if stage == "diffusion" else stage
        # Other systems than ours have this stage alone, and diffuse nothing.
        self.name = "network" if list(stages) == ["train"] else STAGE_NAMES.get(own, own)
        place = f"{list(stages).index(own) + 1} of {len(stages)}" if own in stages else "1 of 1"
        self.title = f"Stage {place}: {self.name}"
        self.validator = validator
        self.wanted = wanted

    def attach(self, engine: Engine) -> None:
        """Register on a trainer, and on the validator."""
        if process_rank() != 0:
            return
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.COMPLETED, self._finish)
        if self.validator is not None:
            EvaluationProgress(f"{self.title}: validation").attach(self.validator)
            self.validator.add_event_handler(Events.COMPLETED, self._note_scores)

    def _start(self, engine: Engine) -> None:
        self._progress: Progress | None = None
        self._losses: list[torch.Tensor] = []
        self._mean_loss = float("nan")
        self._scores: dict[str, float] = {}

    def _begin(self, engine: Engine) -> None:
        """Before the first step: at the start an interrupted training has not restored its place yet."""
        if self._progress is not None:
            return
        state: Any = engine.state
        done, total = state.iteration - 1, state.max_epochs * state.epoch_length
        self._began, self._before = time.monotonic(), done
        resumed = f", resumed after step {done:,}" if done else ""
        limited = getattr(state, "stop_at", None) is not None
        budget = f", {self._time_left(state)}" if limited else ""
        work = f"{count(total, 'step')} in {count(state.max_epochs, 'epoch')}"
        logger.info("%s: %s%s%s", self.title, work, resumed, budget)
        self._progress = Progress(self.title, total, "steps", done)
        path = self.output_dir / CURVES[0]
        self._curves: dict[str, dict[str, list[tuple[int, float]]]] = read_keys(path) if path.is_file() else {}
        # What came after the last saved state is repeated.
        own = self._curves.get(self.name, {})
        self._curves[self.name] = {
            name: kept for name, points in own.items() if (kept := [point for point in points if point[0] <= done])
        }

    def _step(self, engine: Engine) -> None:
        state: Any = engine.state
        assert self._progress is not None
        # Not as numbers yet: that would wait for the GPU at every step.
        self._losses.append(state.output["loss"].detach())
        if len(self._losses) >= POINT_STEPS:
            self._add_point(state.iteration)
        self._progress.update(note=lambda: f"loss {self._loss():.3g}, {self._time_left(state)}")

    def _loss(self) -> float:
        return float(torch.stack(self._losses).mean()) if self._losses else self._mean_loss

    def _add_point(self, iteration: int) -> None:
        if self._losses:
            self._mean_loss = self._loss()
            self._losses = []
            self._add("loss", iteration, self._mean_loss)

    def _add(self, curve: str, iteration: int, value: float) -> None:
        self._curves[self.name].setdefault(curve, []).append((iteration, float(f"{value:.5g}")))

    def _time_left(self, state: Any) -> str:
        now = time.monotonic()
        steps = state.max_epochs * state.epoch_length - state.iteration
        done = state.iteration - self._before
        each = (now - self._began) / done if done > 0 else None
        if getattr(state, "stop_at", None) is None:
            return f"about {format_duration((each or 0.0) * steps)} left"
        left = max(0.0, state.stop_at - now)
        fitting = f", enough for about {count(round(left / each), 'step')}" if each and left < each * steps else ""
        return f"{format_duration(left)} left of the budget{fitting}"

    def _note_scores(self, validator: Engine) -> None:
        if validator.should_terminate:
            # Given up: what is in its state are the scores of an earlier one.
            return
        key = getattr(validator.state, "key_metric_name", None)
        metrics = {name: value for name, value in validator.state.metrics.items() if isinstance(value, float | int)}
        self._scores = {name: float(metrics[name]) for name in sorted(metrics, key=lambda name: name != key)}

    def _end_epoch(self, engine: Engine) -> None:
        state: Any = engine.state
        self._add_point(state.iteration)
        if self._scores:
            parts = [f"{METRIC_NAMES.get(name, name)} {value:.3g}" for name, value in self._scores.items()]
            if self.wanted is not None:
                parts[0] += f", wanted at least {self.wanted:.2f}"
            parts += [f"loss {self._mean_loss:.3g}", self._time_left(state)]
            logger.info("%s, epoch %d of %d: %s", self.title, state.epoch, state.max_epochs, "; ".join(parts))
        for name, value in self._scores.items():
            self._add(METRIC_NAMES.get(name, name), state.iteration, value)
        # Of few images an epoch is shorter than a plot takes.
        self._save_curves(plot=bool(self._scores))
        self._scores = {}

    def _finish(self, engine: Engine) -> None:
        if self._progress is None:
            return
        self._progress.close()
        # A time limit ends the last epoch early.
        self._add_point(engine.state.iteration)
        self._save_curves(plot=True)

    def _save_curves(self, plot: bool) -> None:
        try:
            save_json(self._curves, self.output_dir / CURVES[0])
            if plot:
                plot_training({name: own for name, own in self._curves.items() if own}, self.output_dir / CURVES[1])
        except Exception as error:
            # Hours of training are worth more than their picture.
            logger.warning("The curves of the training are not written: %s", error)
