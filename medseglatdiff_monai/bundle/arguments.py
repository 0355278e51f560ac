"""Checks of a command's arguments that need neither torch nor MONAI, whose import takes seconds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .config import Bundle

if TYPE_CHECKING:
    import torch

__all__ = ["check_bundle_arguments", "check_device"]

# Types of device that torch.device takes, without those that have no public backend.
DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu", "xla", "hpu", "mtia", "ipu", "maia", "privateuseone", "meta")


def check_bundle_arguments(
    bundle: str | Path, stage: str, experiment: str | Path | None, overrides: Mapping[str, Any]
) -> None:
    """Raise the InputError of a bundle, experiment, configuration key or device that does not exist.

    MONAI is imported only to merge valid keys.

    Args:
        bundle: folder, or name under ``bundles/``.
        stage: whose configuration the overrides go into; keys of other stages are known, too.
        experiment: overlay.
        overrides: configuration keys and, for stages that are used from Python, arguments of the same name.
    """
    check_device(overrides.get("device"))
    keys = {key: value for key, value in overrides.items() if key != "device" and value is not None}
    Bundle(bundle, experiment).config(stage, keys)


def check_device(device: str | torch.device | None) -> None:
    """Raise the InputError of text that is no device; whether the machine has the device is not checked."""
    text = str(device)
    # MONAI evaluates what begins with $, and looks up what begins with @.
    if device is None or text.startswith(("$", "@")):
        return
    if not re.fullmatch(rf"({'|'.join(DEVICE_TYPES)})(:\d+)?", text):
        raise InputError(f"--device is {text!r}; expected cpu, cuda, a numbered one such as cuda:1, or mps.")
