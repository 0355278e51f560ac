"""A bundle as an MLflow model: ``mlflow.pyfunc.load_model(uri).predict(images)``, and how it is registered.

The model carries the bundle's files and this package's code, so that a server needs only the libraries that it names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
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
from .description import origin_tags
from .store import describe_failure, hide_password, is_active, mlflow_environment, open_experiment, read_run_ids

# What prediction imports. Their versions at registration are written into the model.
LIBRARIES = (
    "torch", "monai", "numpy", "einops", "pytorch-ignite", "nibabel", "pydicom", "itk-io", "itk-numerics", "scipy",
    "matplotlib", "pillow", "lazy_loader", "tqdm", "mlflow",
)  # fmt: skip
# Side of the example of a request, pixels.
EXAMPLE_SIDE = 96


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


def _example(channels: int) -> tuple[np.ndarray, dict[str, int]]:
    """A request as the model takes it, which MLflow tries: a bright disc, and the least work."""
    across = np.arange(EXAMPLE_SIDE) - EXAMPLE_SIDE / 2
    disc = np.hypot(across[:, None], across) < EXAMPLE_SIDE / 8
    image = np.where(disc, 180, 60).astype(np.float32)
    return np.stack([image] * channels)[None], {"num_samples": 1, "num_inference_steps": 1, "seed": 0}


def _requirements() -> list[str]:
    # A build's own suffix, as in 2.13.0+cpu, is in no package index.
    names = [*LIBRARIES, *(["SimpleITK"] if EXTRAS["staple"].is_installed() else [])]
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names]


@contextlib.contextmanager
def _tracking(uri: str) -> Iterator[None]:
    """MLflow's process-wide addresses, put back afterwards; those that were not set are not set again.

    To try the example MLflow loads the model, which puts its copy of the code first on the path of modules: taken off.
    """
    # MLflow keeps what is set in these; its getters would give a default, which would then be set for everybody.
    tracking, registry = (os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"))
    path = list(sys.path)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield
    finally:
        sys.path[:] = path
        # None is MLflow's "not set", though its types leave it out.
        mlflow.set_tracking_uri(tracking)  # type: ignore[arg-type]
        mlflow.set_registry_uri(registry)  # type: ignore[arg-type]
        if registry is None:
            os.environ.pop("MLFLOW_REGISTRY_URI", None)


def log_bundle(opened: Bundle, tracking_uri: str, name: str, experiment_name: str, alias: str) -> tuple[str, int]:
    """Log a finished bundle and register a version of it, see :mod:`~medseglatdiff_monai.integrations.mlflow.register`.

    Args:
        opened: the bundle.
        tracking_uri: MLflow server or database.
        name: of the registered model.
        experiment_name: experiment of a new run.
        alias: of the new version.
    """
    root, files = opened.root, bundle_files(opened)
    segmenter = load_segmenter(root, device="cpu")
    client, experiment_id = _open_store(tracking_uri, experiment_name)
    run_id = read_run_ids(root, tracking_uri).get("parent", "")
    if not is_active(client, run_id):
        tags = origin_tags("register")
        run_id = client.create_run(experiment_id, run_name=root.name, tags=tags).info.run_id
    metadata = segmenter.metadata
    about = {
        "bundle": metadata.get("name") or root.name,
        "bundle_version": metadata.get("version"),
        "weights_sha256": segmenter.weights_sha256,
        **{f"validation.{metric}": value for metric, value in metadata.get("eval_metrics", {}).items()},
    }
    with tempfile.TemporaryDirectory() as staging:
        copy = Path(staging) / root.name
        for file in files:
            target = copy / file.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        with _tracking(tracking_uri), _run_as_it_was(client, run_id), warnings.catch_warnings():
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
                input_example=_example(segmenter.in_channels),
                metadata={**about, "intended_use": metadata.get("intended_use")},
            )
    version = int(info.registered_model_version)
    registry = mlflow.MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    registry.update_model_version(name, str(version), description=metadata.get("description"))
    for key in ("task", "intended_use", "data_source"):
        if key in metadata:
            registry.set_registered_model_tag(name, key, metadata[key])
    for key, value in about.items():
        registry.set_model_version_tag(name, str(version), key, value)
    registry.set_registered_model_alias(name, alias, str(version))
    return f"models:/{name}/{version}", version


@contextlib.contextmanager
def _run_as_it_was(client: mlflow.MlflowClient, run_id: str) -> Iterator[None]:
    """Log to a run; a training keeps the state and the end that it had, and with them its duration."""
    before = client.get_run(run_id).info
    try:
        with mlflow.start_run(run_id=run_id):
            yield
    finally:
        if before.end_time is not None:
            client.set_terminated(run_id, before.status, before.end_time)


def _open_store(tracking_uri: str, experiment_name: str) -> tuple[mlflow.MlflowClient, str]:
    """Client of a store and the id of an experiment in it, which is made if there is none."""
    try:
        with mlflow_environment():
            # MONAI's handler puts the artifacts of an SQLite store beside the database, and not in the current folder.
            handler = MLFlowHandler(tracking_uri, experiment_name=experiment_name)
            return handler.client, open_experiment(handler)
    except Exception as error:
        raise InputError(
            f"MLflow at {hide_password(tracking_uri)} does not answer ({describe_failure(error)}). "
            "Start it ('mlflow server --backend-store-uri sqlite:///mlruns.db') or give another --tracking-uri."
        ) from error
