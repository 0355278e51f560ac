"""MONAI Label's ``monaibundle`` app with this package's tasks; its ``main.py`` is written by ``server.layout_app``.

An error that the client can fix is answered with status 422 and ``{"detail": {"error": "INVALID_INPUT", "message"}}``;
MONAI Label by itself answers every error with status 500 and no word.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException

from ...errors import InputError, unwrapped_errors
from .strategy import Disagreement
from .tasks import EnsembleInferTask, EnsembleTrainTask

logger = logging.getLogger(__name__)


class EnsembleTasks:
    """Mixin that stands before the ``monaibundle`` app's class: its tasks are replaced, a strategy is added."""

    models: Mapping[str, str]
    conf: Mapping[str, str]
    _infers: dict[str, Any]
    _trainers: dict[str, Any]

    def init_infers(self) -> dict[str, Any]:
        """A task for every bundle that has weights."""
        tasks = {name: EnsembleInferTask(path, self.conf) for name, path in self.models.items()}
        for name, task in tasks.items():
            if not task.is_valid():
                logger.warning("%s has no models/model.pt: it can be trained, but not used for inference yet.", name)
        return {name: task for name, task in tasks.items() if task.is_valid()}

    def init_trainers(self) -> dict[str, Any]:
        """A task for every bundle."""
        if str(self.conf.get("skip_trainers", "false")).lower() in ("true", "1", "yes"):
            return {}
        return {name: EnsembleTrainTask(path, dict(self.conf)) for name, path in self.models.items()}

    def init_strategies(self) -> dict[str, Any]:
        """The app's own and ``disagreement``."""
        return {**super().init_strategies(), "disagreement": Disagreement(self._infers)}  # type: ignore[misc]

    def info(self) -> dict[str, Any]:
        """The app's own, with models that have got their weights since the start."""
        self._add_trained()
        return super().info()  # type: ignore[misc]

    def infer(self, request: dict[str, Any], datastore: Any = None) -> Any:
        """See MONAI Label; errors as said above."""
        with _answered():
            self._add_trained()
            model = request.get("model")
            if model in self.models and model not in self._infers:
                raise InputError(
                    f"{model} has no weights: {Path(self.models[str(model)]) / 'models' / 'model.pt'} is missing. "
                    f"Train it (POST /train/{model}) or put the file there."
                )
            image = request.get("image")
            # "" of a session that is over would pass for a path, the current folder.
            known = not isinstance(image, str) or (image and Path(image).exists())
            if not (known or (datastore or self.datastore()).get_image_uri(image)):  # type: ignore[attr-defined]
                raise InputError(f"No image {image!r} among the studies; GET /datastore/ lists their ids.")
            return super().infer(request, datastore)  # type: ignore[misc]

    def train(self, request: dict[str, Any]) -> Any:
        """See MONAI Label; errors as said above."""
        with _answered():
            return super().train(request)  # type: ignore[misc]

    def next_sample(self, request: dict[str, Any]) -> Any:
        """See MONAI Label; errors as said above."""
        with _answered():
            self._add_trained()
            return super().next_sample(request)  # type: ignore[misc]

    def _add_trained(self) -> None:
        # Training in the background is another process: its weights appear as a file.
        for name, path in self.models.items():
            if name not in self._infers and (Path(path) / "models" / "model.pt").is_file():
                task = EnsembleInferTask(path, self.conf)
                if task.is_valid():
                    self._infers[name] = task


@contextmanager
def _answered() -> Iterator[None]:
    try:
        with unwrapped_errors():
            yield
    except (InputError, MONAILabelException) as error:
        if isinstance(error, InputError):
            code, message = MONAILabelError.INVALID_INPUT, str(error)
        else:
            code, message = error.error, str(error.msg)
        logger.warning("%s", message)
        raise HTTPException(status_code=422, detail={"error": code.value, "message": message}) from error
