"""Runs in MLflow: a parent run for each training run, and nested in it one run for each stage.

A stage's run holds the parameters, loss, learning rate, validation metrics, codebook use, pictures of validation
cases, the environment, and which data it was trained on. What is logged each iteration and epoch, and how, is MONAI's
``MLFlowHandler``; added here are parent runs, resumption, pictures and the behaviour without a server. Run ids are kept
in the run folder's ``mlruns.json``, so that an interrupted stage resumes in its own run. Without a server all
goes to one SQLite file beside the models (MLflow 3 takes no plain folder as a store); a server that does not answer
never stops a training: the log continues in that file.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import requests
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler
from monai.utils import flatten_dict

from ...data.datalist import load_dataset_info
from ...files import save_json
from ...plots.comparison import ComparedCase, plot_comparison

__all__ = ["RunTracker", "open_store", "read_run_ids", "sqlite_uri", "tracked_values"]

logger = logging.getLogger(__name__)

RECORD = "mlruns.json"
# Its stage file is called train.json, as MONAI wants it.
DIFFUSION = "diffusion"
# Stages whose validation samples masks.
SEGMENTER_STAGES = (DIFFUSION, "scoring")
# A server that is down must not delay a training; MLflow itself waits minutes for every call.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
# MLflow refuses longer values, and longer lists of parameters.
MAX_PARAMETER, MAX_DIGEST, MAX_PARAMETERS = 500, 36, 100
# Top-level keys that are not logged: an address may hold a password, and a deadline depends on one machine's clock.
UNTRACKED = ("tracking_uri", "deadline")


def sqlite_uri(output_dir: str | Path) -> str:
    """MLflow tracking URI of ``output_dir/mlruns.db``; the folder is made, since MLflow makes the file alone."""
    folder = Path(output_dir).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'mlruns.db'}"


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """MLflow's HTTP retries cut short, where the user has not set them."""
    own = {name: value for name, value in PATIENCE.items() if name not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _explicit_address() -> Iterator[None]:
    """``MLFLOW_TRACKING_URI`` set aside: MONAI's handler would take it before the address that it is given."""
    own = os.environ.pop("MLFLOW_TRACKING_URI", None)
    try:
        yield
    finally:
        if own is not None:
            os.environ["MLFLOW_TRACKING_URI"] = own


def open_store(tracking_uri: str, experiment_name: str) -> tuple[Any, str]:
    """MLflow client of a store and the id of an experiment in it, which is made if there is none.

    Artifacts of an SQLite store go to ``mlruns`` beside the database, and not to the current folder.

    Raises:
        mlflow.exceptions.MlflowException: the store does not answer, or refuses.
    """
    with _patience(), _explicit_address():
        handler = MLFlowHandler(tracking_uri, experiment_name=experiment_name)
        handler._set_experiment()
    experiment: Any = handler.experiment
    return handler.client, experiment.experiment_id


def read_run_ids(output_dir: str | Path, tracking_uri: str) -> dict[str, str]:
    """Ids of a run folder's MLflow runs in one store: ``"parent"`` and the stages; {} where there are none."""
    path = Path(output_dir) / RECORD
    if not path.is_file():
        return {}
    return json.loads(path.read_text()).get(_without_password(tracking_uri), {})


def _without_password(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


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


class RunTracker(MLFlowHandler):
    """Handler of a stage's trainer, which brings its validator along; logs to one MLflow run.

    ``MLFLOW_TRACKING_URI`` takes precedence over ``tracking_uri``, as in MONAI. Nothing is logged where
    ``tracking_uri`` is empty, as it is on all ranks but the first. Among a trainer's handlers it comes before MONAI's
    ``StatsHandler``: both handle an exception and raise it again, and only the first is called.

    Args:
        tracking_uri: server or database; ``None`` or ``False`` switches tracking off.
        output_dir: the run's folder.
        stage: name of the stage: ``"image_codec"``, ``"mask_codec"``, ``"diffusion"`` or ``"scoring"``.
        dataset_dir: prepared folder, whose ``dataset.json`` is recorded by its digest.
        values: what the stage's configuration was resolved to, id for id; read when the training starts, see
            :func:`tracked_values`. In a configuration ``"$__local_refs"``: MONAI's own dictionary of them.
        validator: the stage's evaluator.
        experiment_name: MLflow experiment.
        log_interval: iterations between two entries of loss and learning rate.
        num_panel_cases: cases of the first validation batch that are plotted after each validation; 0 for none.
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
        experiment_name: str = "medseglatdiff",
        log_interval: int = 20,
        num_panel_cases: int = 4,
        last: bool = True,
    ) -> None:
        # MONAI's own is called with the start of a training: it opens the store.
        self.tracking_uri = (os.environ.get("MLFLOW_TRACKING_URI") or str(tracking_uri)) if tracking_uri else None
        self.output_dir = Path(output_dir).absolute()
        self.stage = stage
        self.dataset_dir = dataset_dir
        self.values: Mapping[str, Any] = {} if values is None else values
        self.validator = validator
        self.experiment_name = experiment_name
        self.log_interval = log_interval
        self.num_panel_cases = num_panel_cases
        self.last = last
        self.cur_run: Any = None
        self._parent_id: str | None = None
        self._trainer: Any = None
        self._panel: list[ComparedCase] = []

    def attach(self, engine: Engine) -> None:
        """Register on a trainer, and on the validator."""
        if self.tracking_uri is None:
            return
        self._trainer = engine
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.log_interval), self.iteration_completed)
        # Perplexity and use of the codebook, where the stage has one.
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)
        engine.add_event_handler(Events.COMPLETED, self.complete)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)
        if self.validator is not None:
            self.validator.add_event_handler(Events.ITERATION_COMPLETED(once=1), self._keep_panel)
            # MONAI hands the trainer's epoch on to the validator.
            self.validator.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)
            self.validator.add_event_handler(Events.EPOCH_COMPLETED, self._log_panel)

    def start(self, engine: Engine) -> None:
        """Open the stage's run."""
        self._send(lambda: None)

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
        with _patience(), _explicit_address():
            super().__init__(
                uri, experiment_name=self.experiment_name, output_transform=lambda output: output["loss"].detach()
            )
            self._set_experiment()
        experiment: Any = self.experiment
        known = read_run_ids(self.output_dir, uri)
        with _patience():
            parent = self._resume(self.client, known.get("parent"), experiment.experiment_id, self.output_dir.name, {})
            tags = {"mlflow.parentRunId": parent, "stage": self.stage}
            run = self._resume(self.client, known.get(self.stage), experiment.experiment_id, self.stage, tags)
            self._remember(uri, {**known, "parent": parent, self.stage: run})
            self._parent_id, self.cur_run = parent, self.client.get_run(run)
            self._describe()

    @staticmethod
    def _resume(client: Any, run_id: str | None, experiment_id: str, name: str, tags: dict[str, str]) -> str:
        from mlflow.exceptions import MlflowException

        if run_id is not None:
            try:
                run = client.get_run(run_id)
                if run.info.lifecycle_stage == "active":
                    client.update_run(run_id, status="RUNNING")
                    return run_id
            except MlflowException as error:
                # Deleted for good, or a new database at the old address: start over. Silence is no such answer.
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        return client.create_run(experiment_id, run_name=name, tags=tags).info.run_id

    def _remember(self, uri: str, ids: dict[str, str]) -> None:
        path = self.output_dir / RECORD
        record = json.loads(path.read_text()) if path.is_file() else {}
        record[_without_password(uri)] = ids
        save_json(record, path)

    def _describe(self) -> None:
        """Parameters, environment and data. A resumed run keeps the parameters that it began with."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, RunTag

        from ...provenance import provenance

        state, run_id = self._trainer.state, self.cur_run.info.run_id
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
        environment = provenance(getattr(state, "device", None) or "cpu")
        info = load_dataset_info(self.dataset_dir)
        digest = hashlib.sha256((Path(self.dataset_dir) / "dataset.json").read_bytes()).hexdigest()
        counts = {name: len(info.get(name, [])) for name in ("training", "validation", "test")}
        tags = {f"environment.{key}": str(value) for key, value in environment.items()}
        tags |= {"data.name": str(info.get("name")), "data.sha256": digest, "data.cases": json.dumps(counts)}
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        if not self.cur_run.inputs.dataset_inputs:
            source = json.dumps({"uri": str(Path(self.dataset_dir).absolute())})
            profile = json.dumps({"num_rows": sum(counts.values()), **counts})
            name = str(info.get("name") or Path(self.dataset_dir).name)
            dataset = Dataset(name, digest[:MAX_DIGEST], "local", source, profile=profile)
            self.client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        packages = sorted({f"{found.name}=={found.version}" for found in importlib.metadata.distributions()})
        self.client.log_text(run_id, "\n".join(packages) + "\n", "environment/packages.txt")
        # What prepared the data and how, but no list of cases: ids of patients stay where the data is.
        head = {key: value for key, value in info.items() if key not in counts} | {"counts": counts, "sha256": digest}
        self.client.log_text(run_id, json.dumps(head, indent=2) + "\n", "data/dataset.json")
        path = self.output_dir / "configs" / f"{'train' if self.stage == DIFFUSION else self.stage}.json"
        if path.is_file():
            config = {**json.loads(path.read_text()), "tracking_uri": _without_password(str(self.tracking_uri))}
            self.client.log_text(run_id, json.dumps(config, indent=2) + "\n", f"configs/{path.name}")

    def _send(self, call: Callable[[], Any]) -> None:
        """Make a call of the client; where the store fails, say so and continue in the file beside the models."""
        local = sqlite_uri(self.output_dir)
        try:
            if self.cur_run is None:
                assert self.tracking_uri is not None
                self._check(self.tracking_uri)
                self._open(self.tracking_uri)
            with _patience():
                call()
            return
        # Whatever a tracking store does wrong, hours of training are worth more than their record.
        except Exception as error:
            reason = type(error).__name__
            if not isinstance(error, ConnectionError | requests.RequestException) and str(error).strip():
                # For a connection the name says it; the rest is addresses of objects.
                reason = str(error).strip().splitlines()[0][:200]
            if self.tracking_uri == local:
                logger.warning("MLflow: %s cannot be written (%s); training continues without a record.", local, reason)
                self.tracking_uri, self.cur_run = None, None
                return
            logger.warning(
                "MLflow: %s does not answer (%s). Training continues and is logged to %s; look at it with "
                "'mlflow ui --backend-store-uri %s'.",
                _without_password(str(self.tracking_uri)), reason, local, local,
            )  # fmt: skip
        self.tracking_uri, self.cur_run = local, None
        self._send(call)

    @staticmethod
    def _check(uri: str) -> None:
        """Whether anything answers at an HTTP address, within seconds instead of MLflow's minutes."""
        if uri.startswith(("http://", "https://")):
            requests.get(uri, timeout=5, stream=True).close()

    def _log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """MONAI's, for finite values only, and to another store if this one fails."""
        found = {key: float(value) for key, value in flatten_dict(metrics).items()}
        finite = {key: value for key, value in found.items() if np.isfinite(value)}
        if finite and self.tracking_uri is not None:
            self._send(lambda: MLFlowHandler._log_metrics(self, finite, step))

    def _keep_panel(self, engine: Engine) -> None:
        output: Any = engine.state.output
        batch: Any = engine.state.batch
        names: Any = batch.get("case", []) if isinstance(batch, Mapping) else []
        prediction, cases = output["pred"], []
        for row in range(min(self.num_panel_cases, len(output["label"]))):
            label = _array(output["label"][row])
            if isinstance(prediction, Mapping):
                image, samples = _array(output["image"][row]), _array(prediction["samples"][row]) > 0
                raters = label > 0
            else:
                # A codec: its target beside its reconstruction, masks as masks and images at their median.
                found = _array(prediction[row])
                image = label
                level = 0.5 if set(np.unique(label)) <= {0.0, 1.0} else float(np.median(label))
                samples, raters = found > level, label > level
            if image.ndim != 3:
                # Volumes are not plotted.
                return
            name = str(names[row]) if row < len(names) else f"case {row + 1}"
            cases.append(ComparedCase(name, image.mean(0), raters, samples))
        self._panel = cases

    def _log_panel(self, engine: Engine) -> None:
        if not self._panel or self.tracking_uri is None:
            return
        epoch = engine.state.epoch
        folder = Path(tempfile.mkdtemp())
        try:
            path = folder / f"epoch_{epoch:04d}.png"
            plot_comparison(self._panel, path, f"{self.stage}, epoch {epoch}", self._caption())
            self._send(lambda: self.client.log_artifact(self.cur_run.info.run_id, str(path), "panels"))
        except Exception as error:
            # Hours of training are worth more than their pictures.
            logger.warning("No panel of epoch %d: %s", epoch, error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _caption(self) -> str:
        if self.stage in SEGMENTER_STAGES:
            return "Validation cases: raters and samples"
        return "Validation cases: target (as rater) and reconstruction (as sample)"

    def _fail(self, engine: Engine, error: BaseException) -> None:
        self._end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        # Ignite leaves the raising to the handlers of this event.
        raise error

    def _end(self, status: str) -> None:
        if self.tracking_uri is None:
            return
        # The parent is done with its last stage; until then it waits for the next one.
        whole = status if status != "FINISHED" or self.last else "RUNNING"

        def close() -> None:
            self.client.set_terminated(self.cur_run.info.run_id, status)
            if whole == "RUNNING":
                self.client.update_run(self._parent_id, status="RUNNING")
            else:
                self.client.set_terminated(self._parent_id, whole)

        self._send(close)
        self.cur_run = None
        if self.tracking_uri is not None:
            self._dispose_sqlite_store()


def _array(tensor: torch.Tensor) -> np.ndarray:
    return torch.as_tensor(tensor).detach().float().cpu().numpy()
