"""The error that bad input raises: it names file or argument, what was found, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class InputError(ValueError):
    """Input that a user can fix: the command line prints its message alone, without a traceback."""


def did_you_mean(found: str, known: Iterable[str], cutoff: float = 0.3, prefix: str = "") -> str:
    """The sentence ``" Did you mean 'name'?"`` about the nearest known name, empty where none is near.

    Args:
        found: what was given.
        known: what could have been meant.
        cutoff: least similarity of a name that is worth proposing, in [0, 1]; see :func:`difflib.get_close_matches`.
        prefix: written before the name and not compared, e.g. ``"--"``.
    """
    near = difflib.get_close_matches(found, list(known), n=1, cutoff=cutoff)
    return f" Did you mean {prefix + near[0]!r}?" if near else ""


def check_integer(name: str, value: Any, lowest: int | None = None, highest: int | None = None) -> None:
    """Raise the InputError of an argument that is no integer (True is none), or lies outside [lowest, highest]."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or (lowest is not None and value < lowest) or (highest is not None and value > highest):
        bounds = "" if lowest is None else f" of at least {lowest}"
        bounds += "" if highest is None else f", at most {highest}"
        raise InputError(f"{name} is {value!r}; expected an integer{bounds}.")


def check_count(name: str, value: Any) -> None:
    """Raise the InputError of an argument that is neither ``None`` nor an integer of at least 1."""
    if value is not None:
        check_integer(name, value, 1)


@contextmanager
def unwrapped_errors() -> Iterator[None]:
    """Raise the :class:`InputError` that MONAI's Compose or ConfigParser wrapped into a RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise InputError(str(cause)) from error
