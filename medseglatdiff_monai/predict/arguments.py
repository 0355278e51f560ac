"""How far a nodule is followed, checked without torch and MONAI, whose import takes seconds."""

from __future__ import annotations

from ..errors import InputError


def check_range(slices: int | None, reach_mm: float) -> None:
    """Raise the InputError of ``segment_nodule`` if an argument is out of its range."""
    if slices is not None and (isinstance(slices, bool) or not isinstance(slices, int) or slices < 1 or not slices % 2):
        raise InputError(f"--slices is {slices!r}; expected an odd number (1: the clicked slice), or left out: all.")
    if isinstance(reach_mm, bool) or not isinstance(reach_mm, int | float) or not 0.0 <= reach_mm < float("inf"):
        raise InputError(f"--reach-mm is {reach_mm!r}; expected millimetres, at least 0.")
