"""How commands start quickly: arguments are checked first, and torch and MONAI are imported after that.

Importing them takes seconds. The functions behind the commands are in modules that do not need them, check what they
can, and then import the rest.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .console import quiet_loaders

logger = logging.getLogger(__name__)


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Import without garbage collection, which takes a fifth of the time of importing MONAI.

    Modules stay until the program ends: their objects are set aside, and later collections skip them.
    """
    if "monai" not in sys.modules:
        logger.info("Loading PyTorch and MONAI")
    # Read when torch is loaded. By default a thread that waits for the others spins, which on a machine whose cores are
    # taken costs several times the work itself.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
        quiet_loaders()
    finally:
        if enabled:
            gc.enable()
