"""Options of predictions, checked without torch and MONAI, whose import takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..bundle.arguments import check_overrides
from ..errors import InputError, check_count, check_integer


def check_options(
    num_samples: int | None,
    num_inference_steps: int | None,
    seed: int,
    slices: int | None,
    reach_mm: float,
    dicom: bool | None,
    overrides: Mapping[str, Any],
) -> None:
    """Raise the InputError of an option of `predict` or `watch` that is out of its range."""
    check_count("--num-samples", num_samples)
    check_count("--num-inference-steps", num_inference_steps)
    check_integer("--seed", seed)
    check_range(slices, reach_mm)
    if dicom is not None and not isinstance(dicom, bool):
        raise InputError(f"--dicom is {dicom!r}; expected True or False, or left out.")
    check_overrides(overrides)


def check_range(slices: int | None, reach_mm: float) -> None:
    """Raise the InputError of ``segment_nodule`` if an argument is out of its range."""
    if slices is not None and (isinstance(slices, bool) or not isinstance(slices, int) or slices < 1 or not slices % 2):
        raise InputError(f"--slices is {slices!r}; expected an odd number (1: the clicked slice), or left out: all.")
    if isinstance(reach_mm, bool) or not isinstance(reach_mm, int | float) or not 0.0 <= reach_mm < float("inf"):
        raise InputError(f"--reach-mm is {reach_mm!r}; expected millimetres, at least 0.")
