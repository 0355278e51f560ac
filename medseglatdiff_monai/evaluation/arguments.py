"""The settings of an evaluation, checked without torch and MONAI, whose import takes seconds."""

from __future__ import annotations

from numbers import Real

from ..errors import InputError


def check_scoring(score_at: str = "native", surface_tolerance: float = 1.0) -> None:
    """Raise the InputError of a setting of ``CaseRecorder`` that is out of its range."""
    if score_at not in ("native", "network"):
        raise InputError(f"score_at must be 'native' or 'network', found {score_at!r}.")
    number = isinstance(surface_tolerance, Real) and not isinstance(surface_tolerance, bool)
    if not number or not surface_tolerance >= 0:
        raise InputError(f"surface_tolerance must be a number of pixels, at least 0, found {surface_tolerance!r}.")
