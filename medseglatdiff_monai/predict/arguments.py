"""The arguments of `predict`, checked without torch and MONAI, whose import takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.arguments import check_device
from ..errors import InputError, check_count
from ..io.places import Place, parse_places

if TYPE_CHECKING:
    import torch

__all__ = ["check_predict", "check_range"]


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
    """Check the arguments of :func:`~medseglatdiff_monai.predict.command.predict`.

    Returns:
        The inputs, and the places in each.

    Raises:
        InputError: no input, or an argument out of its range.
    """
    paths = [Path(path) for path in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    if not paths:
        raise InputError("No input: give at least one PNG, JPEG or NIfTI file, or a folder with a DICOM CT series.")
    check_count("--num-samples", num_samples)
    check_count("--num-inference-steps", num_inference_steps)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError(f"--seed is {seed!r}; expected an integer.")
    check_range(slices, reach_mm)
    if dicom is not None and not isinstance(dicom, bool):
        raise InputError(f"--dicom is {dicom!r}; expected True or False, or left out.")
    check_device(device)
    return paths, parse_places({"point": point, "index": index, "roi": roi}, len(paths))


def check_range(slices: int | None, reach_mm: float) -> None:
    """Raise the InputError of ``segment_nodule`` if an argument is out of its range."""
    if slices is not None and (isinstance(slices, bool) or not isinstance(slices, int) or slices < 1 or not slices % 2):
        raise InputError(f"--slices is {slices!r}; expected an odd number (1: the clicked slice), or left out: all.")
    if isinstance(reach_mm, bool) or not isinstance(reach_mm, int | float) or not 0.0 <= reach_mm < float("inf"):
        raise InputError(f"--reach-mm is {reach_mm!r}; expected millimetres, at least 0.")
