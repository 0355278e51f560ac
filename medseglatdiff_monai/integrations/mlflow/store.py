"""MLflow stores: addresses, and the runs that a run folder has in each store.

Run ids are kept in the run folder's ``mlruns.json``, so that an interrupted stage resumes in its own run.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...files import save_json

RECORD = "mlruns.json"
# A server that is down must not delay a training; MLflow itself waits minutes for every call.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def sqlite_uri(output_dir: str | Path) -> str:
    """MLflow tracking URI of ``output_dir/mlruns.db``; the folder is made, since MLflow makes the file alone."""
    folder = Path(output_dir).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'mlruns.db'}"


def hide_password(uri: str) -> str:
    """The address without user and password."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


@contextlib.contextmanager
def mlflow_environment() -> Iterator[None]:
    """MLflow's HTTP retries cut short, where the user has not set them, and ``MLFLOW_TRACKING_URI`` set aside.

    MONAI's handler would take that address before the one that it is given.
    """
    before = {name: os.environ.get(name) for name in (*PATIENCE, "MLFLOW_TRACKING_URI")}
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    try:
        yield
    finally:
        for name, own in before.items():
            if own is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = own


def check_answer(uri: str) -> None:
    """Raise a ConnectionError within seconds, instead of MLflow's minutes, where nothing answers at an HTTP address."""
    if uri.startswith(("http://", "https://")):
        # It comes with MLflow.
        import requests

        try:
            requests.get(uri, timeout=5, stream=True).close()
        except requests.RequestException as error:
            raise ConnectionError(str(error)) from error


def _read_record(output_dir: str | Path) -> dict[str, dict[str, str]]:
    path = Path(output_dir) / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def read_run_ids(output_dir: str | Path, tracking_uri: str) -> dict[str, str]:
    """Ids of a run folder's MLflow runs in one store: ``"parent"`` and the stages; {} where there are none."""
    return _read_record(output_dir).get(hide_password(tracking_uri), {})


def save_run_ids(output_dir: str | Path, tracking_uri: str, ids: dict[str, str]) -> None:
    """Keep what :func:`read_run_ids` returns."""
    record = {**_read_record(output_dir), hide_password(tracking_uri): ids}
    save_json(record, Path(output_dir) / RECORD)


def open_experiment(handler: Any) -> str:
    """Id of the experiment of a ``MLFlowHandler``, which is made if there is none.

    Its page opens with trained models, and not with conversations.
    """
    handler._set_experiment()
    found = handler.experiment.experiment_id
    handler.client.set_experiment_tag(found, "mlflow.experimentKind", "custom_model_development")
    return found


def describe_failure(error: Exception) -> str:
    """Why a store failed: the error's first line; its kind where it has none, or only addresses of objects."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text and not isinstance(error, ConnectionError) else type(error).__name__


def is_active(client: Any, run_id: str) -> bool:
    """Whether a store has a run that was not deleted; ``""`` is none."""
    from mlflow.exceptions import MlflowException

    if not run_id:
        return False
    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        # Deleted for good, or a new database at the old address. Silence is no such answer.
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def resume_run(client: Any, run_id: str, experiment_id: str, name: str, tags: dict[str, str]) -> str:
    """Id of the known run, set to running again, or of a new one where it is unknown or was deleted."""
    if is_active(client, run_id):
        client.update_run(run_id, status="RUNNING")
        return run_id
    return client.create_run(experiment_id, run_name=name, tags=tags).info.run_id
