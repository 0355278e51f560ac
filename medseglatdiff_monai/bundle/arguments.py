"""Checks of a command's arguments that need neither torch nor MONAI, whose import takes seconds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ensemble.arguments import check_settings
from ..errors import InputError, check_integer

if TYPE_CHECKING:
    import torch

# Types of device that torch.device takes, without those that have no public backend.
DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu", "xla", "hpu", "mtia", "ipu", "maia", "privateuseone", "meta")


def check_device(device: str | torch.device | None) -> None:
    """Raise the InputError of text that is no device; whether the machine has the device is not checked."""
    text = str(device)
    # MONAI evaluates what begins with $, and looks up what begins with @.
    if device is None or text.startswith(("$", "@")):
        return
    if not re.fullmatch(rf"({'|'.join(DEVICE_TYPES)})(:\d+)?", text):
        raise InputError(f"--device is {text!r}; expected cpu, cuda, a numbered one such as cuda:1, or mps.")


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """Raise the InputError of a configuration key whose value is out of its range, where the value alone decides."""
    check_device(overrides.get("device"))
    check_settings(overrides)
    for name, lowest in (("batch_size", 1), ("num_workers", 0)):
        value = overrides.get(name)
        if value is not None and not str(value).startswith(("$", "@")):
            check_integer(f"--{name}", value, lowest)


def check_dataset(dataset_dir: str | Path, info: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise the InputError of a data set (``info`` of its ``dataset.json``) whose images a configuration cannot take.

    A number of channels that the configuration computes is not compared.
    """
    channels, wanted = info.get("num_channels"), config.get("image_channels")
    if isinstance(wanted, int) and channels != wanted:
        raise InputError(
            f"{dataset_dir} holds images of {channels} channels, the bundle expects {wanted}. Choose the bundle that "
            "fits, or override --image_channels."
        )
    dims, expected = info.get("spatial_dims", 2), config.get("spatial_dims", 2)
    if dims != expected:
        raise InputError(
            f"{dataset_dir} holds images of {dims} dimensions, the configuration expects {expected}: use "
            "--experiment volumetric for volumes, and not for images."
        )
