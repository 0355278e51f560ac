"""Weights on disk: flat state dicts of tensors in half precision, read without running any code."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ..digest import check_digest, forget_digest, named_digest
from ..errors import InputError
from ..files import save_with

ModuleT = TypeVar("ModuleT", bound=nn.Module)
# Parts of a segmenter that are taken from other weights as a whole, or start from scratch as a whole.
PARTS = (
    "mask_codec.", "conditioner.codec.", "conditioner.image_encoder.", "conditioner.", "denoiser.",
)  # fmt: skip


def save_tensors(state: dict, path: str | Path) -> None:
    """Write ``state`` with ``torch.save``; the file appears complete or not at all."""
    save_with(lambda handle: torch.save(state, handle), path)


def load_tensors(path: str | Path) -> dict:
    """Read a file of tensors, onto the CPU, without running any code that it may hold.

    Raises:
        InputError: the file is missing, damaged, or holds something other than tensors; it is a bundle's own and not
            the one that the bundle names, see :func:`~medseglatdiff_monai.digest.check_digest`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"No weights at {path}. Train the stage that writes them (medseglatdiff train runs all stages in order: "
            "image codec, mask codec, diffusion), or name a file that exists."
        )
    check_digest(path)
    try:
        if named_digest(path) is None:
            _check_sums(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's message advises to load such a file without this protection.
        reason = "it is damaged, or holds more than tensors, which could run code"
        if not isinstance(error, pickle.UnpicklingError):
            reason = str(error).partition("\n")[0]
        raise InputError(
            f"{path} cannot be read as weights ({reason}). Expected a state dict saved by torch.save; "
            "download or train it again."
        ) from None
    if not isinstance(state, dict):
        raise InputError(
            f"{path} holds a {type(state).__name__}. Expected a state dict saved by torch.save; download or train it "
            "again."
        )
    return state


def _check_sums(path: Path) -> None:
    """Raise ValueError if bytes of a file that torch.save wrote, a zip, have changed; torch does not look."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the check sum of {damaged} in it is wrong")


def find_fresh_parts(own: Mapping[str, torch.Tensor], given: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Which parts of a network would start from scratch if it took its tensors from other weights.

    A part of the network's state dict ``own`` is taken if all its tensors are ``given`` in the same shapes.

    Returns:
        The parts that start from scratch, and those that are taken, e.g. ``["denoiser"]`` and
        ``["mask_codec", "conditioner.codec"]``. A network that is no segmenter is one part, ``""``.
    """
    fits: dict[str, bool] = {}
    for name, value in own.items():
        part = find_part(name)
        found = given.get(name)
        fits[part] = fits.get(part, True) and isinstance(found, torch.Tensor) and found.shape == value.shape
    return [part for part, fit in fits.items() if not fit], [part for part, fit in fits.items() if fit]


def find_part(name: str) -> str:
    """The part of a segmenter that a tensor belongs to, ``""`` in other networks."""
    return next((beginning for beginning in PARTS if name.startswith(beginning)), "").removesuffix(".")


def save_weights(module: nn.Module, path: str | Path) -> None:
    """Write the flat state dict of ``module``, floating-point tensors in half precision."""
    state = {
        # Contiguous, so that the file does not depend on the memory format its network was trained in.
        name: (value.half() if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in module.state_dict().items()
    }
    forget_digest(path)
    save_tensors(state, path)


def load_weights(module: ModuleT, path: str | Path, needed: bool = True) -> ModuleT:
    """Load a flat state dict into ``module`` and return it.

    Without ``needed`` the module stays as it is, for a codec without a training stage.

    Raises:
        InputError: the file is missing or damaged, or its tensors do not fit the network; the message names the file
            and the first differences.
    """
    if not needed:
        return module
    state = load_tensors(path)
    own = module.state_dict()
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    shapes = [
        f"{name} is {tuple(getattr(state[name], 'shape', ())) or 'no array'}, the network has {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if not isinstance(state[name], torch.Tensor) or state[name].shape != own[name].shape
    ]
    if missing or unexpected or shapes:
        found = [f"{len(missing)} tensors are missing (first: {missing[0]})"] if missing else []
        found += [f"{len(unexpected)} are unknown (first: {unexpected[0]})"] if unexpected else []
        found += sorted(shapes)[:2]
        raise InputError(
            f"The weights {path} do not fit the network: {'; '.join(found)}. Use the weights of the same bundle, "
            "experiment and overrides."
        )
    module.load_state_dict({**own, **{name: value.to(own[name].dtype) for name, value in state.items()}})
    return module


def state_path(weights_path: str | Path) -> Path:
    """Where a stage keeps its training state until it is finished; the file marks an interrupted stage."""
    weights_path = Path(weights_path)
    return weights_path.with_name(f"training_state_{weights_path.name}")


def stage_finished(weights_path: str | Path) -> bool:
    """Whether a stage's weights are there without a training state."""
    return Path(weights_path).is_file() and not state_path(weights_path).is_file()


def finish_stage(weights_path: str | Path) -> None:
    """Accept a stage's weights as they are: it is not resumed, even if its last epoch was not reached."""
    state_path(weights_path).unlink(missing_ok=True)
