"""A bundle as an MLflow model: ``mlflow.pyfunc.load_model(uri).predict(images)``, and how it is registered.

The model carries the bundle's files and this package's code, so that a server needs only the libraries that it names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc.model import PythonModel
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec
from monai.data import MetaTensor
from monai.handlers import MLFlowHandler

from ...bundle.config import Bundle
from ...bundle.pack import bundle_files
from ...bundle.segmenter import load_segmenter
from ...errors import InputError
from ...extras import EXTRAS
from ...files import SOURCE_TREE
from ...predict.image import segment_image
from .store import mlflow_environment, read_run_ids

# What prediction imports. Their versions at registration are written into the model.
LIBRARIES = (
    "torch", "monai", "numpy", "einops", "pytorch-ignite", "nibabel", "pydicom", "itk-io", "itk-numerics", "scipy",
    "matplotlib", "pillow", "lazy_loader", "tqdm", "mlflow",
)  # fmt: skip


class BundleModel(PythonModel):
    """The pyfunc flavour of a bundle; MLflow hands its files to :meth:`load_context`."""

    def load_context(self, context: Any) -> None:
        """Load the bundle, on CUDA if there is one."""
        self.segmenter = load_segmenter(context.artifacts["bundle"])

    def predict(self, context, model_input, params=None):
        """Sample an ensemble for each image.

        Args:
            context: MLflow's, unused.
            model_input: images (B, C, H, W), grey values as in a file of the bundle's kind; any H and W that
                ``medseglatdiff predict`` takes.
            params: ``num_samples``, ``num_inference_steps`` and ``seed``; 0, 0 and 0 stand for the bundle's own number
                of samples, its own number of steps, and seed 0.

        Returns:
            ``confidence_map`` float32 in [0, 1], ``consensus_mask`` uint8 and ``entropy`` float32 in [0, 1] bit, each
            (B, 1, H, W) in the geometry of the images.

        Raises:
            InputError: images of another shape, or that the network cannot take.
        """
        images = np.asarray(model_input, dtype=np.float32)
        channels = self.segmenter.in_channels
        if images.ndim != 4 or images.shape[1] != channels or not len(images):
            raise InputError(f"The images are {images.shape}; expected (B, {channels}, H, W) with B of at least 1.")
        chosen = params or {}
        own = self.segmenter.inferer
        sampling = dataclasses.replace(
            own,
            num_samples=int(chosen.get("num_samples") or own.num_samples),
            num_inference_steps=int(chosen.get("num_inference_steps") or 0) or own.num_inference_steps,
            seed=int(chosen.get("seed") or 0),
        )
        found = [
            segment_image(self.segmenter, MetaTensor(torch.from_numpy(image.copy())), sampling) for image in images
        ]
        return {
            "confidence_map": np.stack([one.confidence for one in found])[:, None].astype(np.float32),
            "consensus_mask": np.stack([one.consensus() for one in found])[:, None].astype(np.uint8),
            "entropy": np.stack([one.entropy() for one in found])[:, None].astype(np.float32),
        }


def _signature(channels: int) -> ModelSignature:
    place = (-1, 1, -1, -1)
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float32"), (-1, channels, -1, -1))]),
        outputs=Schema(
            [
                TensorSpec(np.dtype("float32"), place, "confidence_map"),
                TensorSpec(np.dtype("uint8"), place, "consensus_mask"),
                TensorSpec(np.dtype("float32"), place, "entropy"),
            ]
        ),
        params=ParamSchema([ParamSpec(name, "long", 0) for name in ("num_samples", "num_inference_steps", "seed")]),
    )


def _requirements() -> list[str]:
    # A build's own suffix, as in 2.13.0+cpu, is in no package index.
    names = [*LIBRARIES, *(["SimpleITK"] if EXTRAS["staple"].is_installed() else [])]
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names]


@contextlib.contextmanager
def _tracking(uri: str) -> Iterator[None]:
    """MLflow's process-wide addresses, put back afterwards; those that were not set are not set again."""
    # MLflow keeps what is set in these; its getters would give a default, which would then be set for everybody.
    tracking, registry = (os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"))
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield
    finally:
        # None is MLflow's "not set", though its types leave it out.
        mlflow.set_tracking_uri(tracking)  # type: ignore[arg-type]
        mlflow.set_registry_uri(registry)  # type: ignore[arg-type]
        if registry is None:
            os.environ.pop("MLFLOW_REGISTRY_URI", None)


def log_bundle(opened: Bundle, tracking_uri: str, name: str, experiment_name: str) -> tuple[str, int]:
    """Log a finished bundle and register a version of it, see :mod:`~medseglatdiff_monai.integrations.mlflow.register`.

    Args:
        opened: the bundle.
        tracking_uri: MLflow server or database.
        name: of the registered model.
        experiment_name: experiment of a new run.
    """
    root, files = opened.root, bundle_files(opened)
    segmenter = load_segmenter(root, device="cpu")
    client, experiment_id = _open_store(tracking_uri, experiment_name)
    run_id = _find_run(root, tracking_uri, client)
    where: dict[str, Any] = (
        {"experiment_id": experiment_id, "run_name": root.name} if run_id is None else {"run_id": run_id}
    )
    with tempfile.TemporaryDirectory() as staging:
        copy = Path(staging) / root.name
        for file in files:
            target = copy / file.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        with _tracking(tracking_uri), mlflow.start_run(**where), warnings.catch_warnings():
            # Warnings about type hints that MLflow would like, and about its own deprecations.
            warnings.simplefilter("ignore")
            info = mlflow.pyfunc.log_model(
                name="segmenter",
                python_model=BundleModel(),
                artifacts={"bundle": str(copy)},
                code_paths=[str(SOURCE_TREE / "medseglatdiff_monai")],
                pip_requirements=_requirements(),
                signature=_signature(segmenter.in_channels),
                registered_model_name=name,
                metadata={
                    "bundle": root.name,
                    "bundle_version": segmenter.metadata.get("version"),
                    "weights_sha256": segmenter.weights_sha256,
                    "intended_use": segmenter.metadata.get("intended_use"),
                },
            )
    version = int(info.registered_model_version)
    registry = mlflow.MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    registry.update_model_version(name, str(version), description=segmenter.metadata.get("description"))
    return f"models:/{name}/{version}", version


def _open_store(tracking_uri: str, experiment_name: str) -> tuple[mlflow.MlflowClient, str]:
    """Client of a store and the id of an experiment in it, which is made if there is none."""
    try:
        with mlflow_environment():
            # MONAI's handler puts the artifacts of an SQLite store beside the database, and not in the current folder.
            handler = MLFlowHandler(tracking_uri, experiment_name=experiment_name)
            handler._set_experiment()
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise InputError(
            f"MLflow at {tracking_uri.rpartition('@')[2]} does not answer ({reason}). "
            "Start it ('mlflow server --backend-store-uri sqlite:///mlruns.db') or give another --tracking-uri."
        ) from error
    experiment: Any = handler.experiment
    return handler.client, experiment.experiment_id


def _find_run(root: Path, tracking_uri: str, client: mlflow.MlflowClient) -> str | None:
    """The parent run of a run's folder that was tracked in this store."""
    run_id = read_run_ids(root, tracking_uri).get("parent")
    if run_id is not None:
        try:
            client.get_run(run_id)
        except MlflowException:
            # Deleted there, or another store that answers at the same address.
            return None
    return run_id
