"""What can be said about a command's arguments without torch and MONAI, whose import takes seconds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bundle import load_stage_config
from .errors import InputError
from .io.places import Place, parse_places
from .volumes import check_range

if TYPE_CHECKING:
    import torch

__all__ = ["check_bundle_arguments", "check_device", "check_predict"]

# Types of device that torch.device takes, without those that have no public backend.
DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu", "xla", "hpu", "mtia", "ipu", "maia", "privateuseone", "meta")


def check_bundle_arguments(
    bundle: str | Path, stage: str, experiment: str | Path | None, overrides: Mapping[str, Any]
) -> None:
    """Raise the InputError of a bundle, experiment, configuration key or device that does not exist.

    MONAI is imported only to merge what is right.

    Args:
        bundle: folder, or name under ``bundles/``.
        stage: whose configuration the overrides go into; keys of other stages are known, too.
        experiment: overlay.
        overrides: configuration keys and, for stages that are used from Python, arguments of the same name.
    """
    check_device(overrides.get("device"))
    keys = {key: value for key, value in overrides.items() if key != "device" and value is not None}
    load_stage_config(bundle, stage, experiment, keys)


def check_device(device: str | torch.device | None) -> None:
    """Raise the InputError of text that is no device; whether the machine has the device is not looked at."""
    text = str(device)
    # MONAI evaluates what begins with $, and looks up what begins with @.
    if device is None or text.startswith(("$", "@")):
        return
    if not re.fullmatch(rf"({'|'.join(DEVICE_TYPES)})(:\d+)?", text):
        raise InputError(f"--device is {text!r}; expected cpu, cuda, a numbered one such as cuda:1, or mps.")


def check_predict(
    inputs: str | Path | Sequence[str | Path],
    num_samples: int | None,
    num_inference_steps: int | None,
    seed: int,
    point: Any,
    index: Any,
    roi: Any,
    slices: int | None,
    reach_mm: float,
    dicom: bool | None,
    device: str | torch.device | None,
) -> tuple[list[Path], list[list[Place]]]:
    """Check the arguments of :func:`~medseglatdiff_monai.predict.predict`.

    Returns:
        The inputs, and the places in each.

    Raises:
        InputError: no input, or an argument out of its range.
    """
    paths = [Path(path) for path in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    if not paths:
        raise InputError("No input: give at least one PNG, JPEG or NIfTI file, or a folder with a DICOM CT series.")
    _check_count("--num-samples", num_samples)
    _check_count("--num-inference-steps", num_inference_steps)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError(f"--seed is {seed!r}; expected an integer.")
    check_range(slices, reach_mm)
    if dicom is not None and not isinstance(dicom, bool):
        raise InputError(f"--dicom is {dicom!r}; expected True or False, or left out.")
    check_device(device)
    return paths, parse_places({"point": point, "index": index, "roi": roi}, len(paths))


def _check_count(name: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InputError(f"{name} is {value!r}; expected an integer of at least 1.")
