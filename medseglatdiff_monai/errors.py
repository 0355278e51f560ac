"""The error that bad input raises: its message names the file or argument, what was found, what was expected, what to do."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Input that a user can mend: the command line prints its message alone, without a traceback."""
