"""The error that bad input raises: it names file or argument, what was found, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["InputError", "unwrapped_errors"]


class InputError(ValueError):
    """Input that a user can mend: the command line prints its message alone, without a traceback."""


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
