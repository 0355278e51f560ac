"""How commands start quickly: arguments are checked first, and torch and MONAI are imported after that.

To import them takes seconds. The functions behind the commands stand in modules that do without, check what they can,
and then import the rest inside.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["heavy_imports"]


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Import without looking for garbage, which takes a fifth of the time of importing MONAI.

    Modules stay until the program ends: what they made is set aside, and later searches for garbage skip it.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()
