"""Runs in MLflow: a parent run for each training run, and nested in it one run for each stage.

What is logged each iteration and epoch, and how, is MONAI's ``MLFlowHandler``; added here are parent runs, resumption,
pictures and the behaviour without a server: all goes to one SQLite file beside the models (MLflow 3 takes no plain
folder as a store). A server that does not answer never stops a training: the log continues in that file.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler
from monai.utils import flatten_dict

from ...plots.comparison import ComparedCase, plot_comparison, to_picture
from ...plots.reconstruction import RebuiltImage, plot_reconstructions
from .description import describe_data, describe_parent, describe_run, origin_tags
from .store import (
    check_answer,
    describe_failure,
    hide_password,
    mlflow_environment,
    open_experiment,
    read_run_ids,
    resume_run,
    save_run_ids,
    sqlite_uri,
)

logger = logging.getLogger(__name__)

EXPERIMENT = "medseglatdiff"
# Cases of the first validation batch that are plotted after each validation.
PANEL_CASES = 4
# MLflow refuses longer values, and longer lists of parameters.
MAX_PARAMETER, MAX_PARAMETERS = 500, 100
# Top-level keys that are not logged: an address may hold a password, and a deadline depends on one machine's clock.
UNTRACKED = ("tracking_uri", "deadline")


def tracked_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The top-level keys of a configuration whose value is a number, a string, a Boolean, or a list of those.

    Args:
        values: ids of the configuration and what they were resolved to; nested ids hold ``::``.
    """

    def is_scalar(value: Any) -> bool:
        return value is None or isinstance(value, bool | int | float | str)

    return {
        key: value
        for key, value in values.items()
        if "::" not in key and not key.startswith("_") and key not in UNTRACKED
        if is_scalar(value) or (isinstance(value, list | tuple) and value and all(map(is_scalar, value)))
    }  # fmt: skip


def compare_cases(output: Mapping[str, Any], batch: Any) -> list[ComparedCase] | list[RebuiltImage]:
    """The first cases of a validation batch, for a picture; none for volumes, which are not plotted.

    Args:
        output: the validator's: ``label`` and ``pred``, which holds ``samples`` where masks are sampled. Without
            samples the stage is that of a codec, and the label is its target: masks, or images.
        batch: the validator's: ids under ``case``.
    """
    if output["label"].ndim != 4:
        return []
    given = batch.get("case", []) if isinstance(batch, Mapping) else []
    count = min(PANEL_CASES, len(output["label"]))
    names = [str(given[row]) if row < len(given) else f"case {row + 1}" for row in range(count)]
    label, prediction = _array(output["label"][:count]), output["pred"]
    if isinstance(prediction, Mapping):
        images, samples = _array(output["image"][:count]), _array(prediction["samples"][:count])
        return [ComparedCase(name, to_picture(images[i]), label[i] > 0, samples[i] > 0) for i, name in enumerate(names)]
    rebuilt = _array(prediction[:count])
    if set(np.unique(label)) <= {0.0, 1.0}:
        return [ComparedCase(name, label[i].mean(0), label[i] > 0.5, rebuilt[i] > 0.5) for i, name in enumerate(names)]
    return [RebuiltImage(name, to_picture(label[i]), to_picture(rebuilt[i])) for i, name in enumerate(names)]


def _array(tensor: torch.Tensor) -> np.ndarray:
    return torch.as_tensor(tensor).detach().float().cpu().numpy()


class RunTracker(MLFlowHandler):
    """Handler of a stage's trainer, which brings its validator along; logs to one MLflow run.

    ``MLFLOW_TRACKING_URI`` takes precedence over ``tracking_uri``, as in MONAI. Nothing is logged where
    ``tracking_uri`` is empty, as it is on all ranks but the first. A trainer has no other handler of exceptions before
    it, such as MONAI's ``StatsHandler``: each raises them again, and only the first is called.

    Args:
        tracking_uri: server or database; ``None`` or ``False`` switches tracking off.
        output_dir: the run's folder.
        stage: name of the stage: ``"image_codec"``, ``"mask_codec"``, ``"diffusion"`` or ``"scoring"``.
        dataset_dir: prepared folder, whose ``dataset.json`` is recorded by its digest.
        values: what the stage's configuration was resolved to, id for id; read when the training starts, see
            :func:`tracked_values`. In a configuration ``"$__local_refs"``: MONAI's own dictionary of them.
        validator: the stage's evaluator.
        log_interval: iterations between two entries of loss and learning rate.
        last: whether the parent run is finished with this stage.
    """

    def __init__(
        self,
        tracking_uri: str | bool | None,
        output_dir: str | Path,
        stage: str,
        dataset_dir: str | Path,
        values: Mapping[str, Any] | None = None,
        validator: Engine | None = None,
        log_interval: int = 20,
        last: bool = True,
    ) -> None:
        # MONAI's own is called with the start of a training: it opens the store.
        self.tracking_uri = (os.environ.get("MLFLOW_TRACKING_URI") or str(tracking_uri)) if tracking_uri else None
        self.output_dir = Path(output_dir).absolute()
        self.stage = stage
        self.dataset_dir = dataset_dir
        self.values: Mapping[str, Any] = {} if values is None else values
        self.validator = validator
        self.log_interval = log_interval
        self.last = last
        self.cur_run: Any = None
        self._parent_id: str | None = None
        self._trainer: Any = None
        self._panel: list[ComparedCase] | list[RebuiltImage] = []
        self._losses: list[torch.Tensor] = []
        self._started = time.monotonic()

    def attach(self, engine: Engine) -> None:
        """Register on a trainer, and on the validator."""
        if self.tracking_uri is None:
            return
        self._trainer = engine
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._keep_loss)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.log_interval), self.iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._log_epoch)
        engine.add_event_handler(Events.COMPLETED, self.complete)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)
        if self.validator is not None:
            self.validator.add_event_handler(Events.ITERATION_COMPLETED(once=1), self._keep_panel)
            # MONAI hands the trainer's epoch on to the validator.
            self.validator.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)
            self.validator.add_event_handler(Events.EPOCH_COMPLETED, self._log_panel)

    def start(self, engine: Engine) -> None:
        """Open the stage's run."""
        self._started = time.monotonic()
        self._send(lambda: None)

    def _keep_loss(self, engine: Engine) -> None:
        output: Any = engine.state.output
        self._losses.append(output["loss"].detach())

    def _log_epoch(self, engine: Engine) -> None:
        """Log the trainer's metrics (of the codebook, where there is one) and the mean loss, by epoch as validation."""
        self.epoch_completed(engine)
        if self._losses:
            self._log_metrics({"epoch_loss": float(torch.stack(self._losses).mean())}, engine.state.epoch)
            self._losses = []

    def iteration_completed(self, engine: Engine) -> None:
        """Log loss and learning rate."""
        if self.tracking_uri is not None:
            super().iteration_completed(engine)

    def epoch_completed(self, engine: Engine) -> None:
        """Log the engine's metrics."""
        if self.tracking_uri is not None:
            super().epoch_completed(engine)

    def complete(self) -> None:
        """End the stage's run; one that a time limit stopped resumes another time."""
        self._end("KILLED" if self._trainer.should_terminate else "FINISHED")

    def _open(self, uri: str) -> None:
        """Find or make parent and stage run in a store, and log what is known from the start."""
        check_answer(uri)
        super().__init__(uri, experiment_name=EXPERIMENT, output_transform=lambda output: output["loss"].detach())
        where, known = open_experiment(self), read_run_ids(self.output_dir, uri)
        about = describe_parent(self.output_dir, self.dataset_dir)
        parent = resume_run(self.client, known.get("parent", ""), where, self.output_dir.name, about)
        tags = {"mlflow.parentRunId": parent, "stage": self.stage, **origin_tags()}
        run_id = resume_run(self.client, known.get(self.stage, ""), where, self.stage, tags)
        save_run_ids(self.output_dir, uri, {**known, "parent": parent, self.stage: run_id})
        self._parent_id, self.cur_run = parent, self.client.get_run(run_id)
        for run in (self.client.get_run(parent), self.cur_run):
            describe_data(self.client, run, self.dataset_dir)
        self._log_start(uri)

    def _log_start(self, uri: str) -> None:
        """Parameters, environment, data, configuration. A resumed run keeps the parameters that it began with."""
        state = self._trainer.state
        values = {
            **tracked_values(self.values),
            **{name: getattr(state, name) for name in self.default_tracking_params},
            "world_size": dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1,
        }
        parameters = {key: str(value)[:MAX_PARAMETER] for key, value in values.items()}
        self._delete_exist_param_in_dict(parameters)
        names = list(parameters)
        for first in range(0, len(names), MAX_PARAMETERS):
            self._log_params({name: parameters[name] for name in names[first : first + MAX_PARAMETERS]})
        describe_run(self.client, self.cur_run, self.dataset_dir, getattr(state, "device", None) or "cpu")
        # The diffusion stage's file is called train.json, as MONAI wants it.
        path = self.output_dir / "configs" / f"{'train' if self.stage == 'diffusion' else self.stage}.json"
        if path.is_file():
            config = {**json.loads(path.read_text(encoding="utf-8")), "tracking_uri": hide_password(uri)}
            self.client.log_text(self.cur_run.info.run_id, json.dumps(config, indent=2) + "\n", f"configs/{path.name}")

    def _send(self, call: Callable[[], Any]) -> None:
        """Make a call of the client; where the store fails, say so and continue in the file beside the models."""
        local = sqlite_uri(self.output_dir)
        try:
            with mlflow_environment():
                if self.cur_run is None:
                    assert self.tracking_uri is not None
                    self._open(self.tracking_uri)
                call()
            return
        # Whatever a tracking store does wrong, hours of training are worth more than their record.
        except Exception as error:
            reason = describe_failure(error)
            if self.tracking_uri == local:
                logger.warning("MLflow: %s cannot be written (%s); training continues without a record.", local, reason)
                self.tracking_uri, self.cur_run = None, None
                return
            logger.warning(
                "MLflow: %s does not answer (%s). Training continues and is logged to %s; look at it with "
                "'mlflow ui --backend-store-uri %s'.",
                hide_password(str(self.tracking_uri)), reason, local, local,
            )  # fmt: skip
        self.tracking_uri, self.cur_run = local, None
        self._send(call)

    def _log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """MONAI's, for finite values only, and to another store if this one fails."""
        found = {key: float(value) for key, value in flatten_dict(metrics).items()}
        finite = {key: value for key, value in found.items() if np.isfinite(value)}
        if finite and self.tracking_uri is not None:
            self._send(lambda: MLFlowHandler._log_metrics(self, finite, step))

    def _keep_panel(self, engine: Engine) -> None:
        output: Any = engine.state.output
        self._panel = compare_cases(output, engine.state.batch)

    def _log_panel(self, engine: Engine) -> None:
        if not self._panel or self.tracking_uri is None:
            return
        epoch = engine.state.epoch
        sampled = self.stage in ("diffusion", "scoring")
        caption = "raters and samples" if sampled else "target (as rater) and reconstruction (as sample)"
        title = f"{self.stage}, epoch {epoch}"
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = f"{folder}/epoch_{epoch:04d}.png"
                images = [row for row in self._panel if isinstance(row, RebuiltImage)]
                compared = [row for row in self._panel if isinstance(row, ComparedCase)]
                if images:
                    plot_reconstructions(images, path, title, "Validation cases")
                else:
                    plot_comparison(compared, path, title, f"Validation cases: {caption}")
                self._send(lambda: self.client.log_artifact(self.cur_run.info.run_id, path, "panels"))
        except Exception as error:
            # Hours of training are worth more than their pictures.
            logger.warning("No panel of epoch %d: %s", epoch, error)

    def _fail(self, engine: Engine, error: BaseException) -> None:
        self._end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        # Ignite leaves the raising to the handlers of this event.
        raise error

    def _end(self, status: str) -> None:
        if self.tracking_uri is None:
            return
        # The parent is done with its last stage; until then it waits for the next one.
        whole = status if status != "FINISHED" or self.last else "RUNNING"

        found = flatten_dict(self.validator.state.metrics) if self.validator is not None else {}
        summary = {f"{self.stage}.{key}": float(value) for key, value in found.items() if np.isfinite(float(value))}
        minutes = (time.monotonic() - self._started) / 60

        def close() -> None:
            # A resumed stage adds to its minutes.
            name = f"{self.stage}.minutes"
            before = self.client.get_run(self._parent_id).data.metrics.get(name, 0.0)
            for key, value in {**summary, name: before + minutes}.items():
                self.client.log_metric(self._parent_id, key, value)
            self.client.set_terminated(self.cur_run.info.run_id, status)
            if whole == "RUNNING":
                self.client.update_run(self._parent_id, status="RUNNING")
            else:
                self.client.set_terminated(self._parent_id, whole)

        self._send(close)
        self.cur_run = None
        if self.tracking_uri is not None:
            self._dispose_sqlite_store()
