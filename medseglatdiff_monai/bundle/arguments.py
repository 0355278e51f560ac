"""Checks of a command's arguments that need neither torch nor MONAI, whose import takes seconds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["check_device"]

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
