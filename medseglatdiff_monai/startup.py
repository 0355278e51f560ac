"""How commands start quickly: arguments are checked first, and torch and MONAI are imported after that.

Importing them takes seconds. The functions behind the commands are in modules that do not need them, check what they
can, and then import the rest.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .console import quiet_loaders

logger = logging.getLogger(__name__)

# Modules that take half of the processor time of `import monai` (1.6.1) where they are installed, and are used by parts
# of MONAI and ignite that no command needs → the names that these parts keep for later.
DEFERRED = {
    "matplotlib.pyplot": (),
    "scipy.signal": ("hilbert", "iirnotch"),
    "sklearn": (),
    "sklearn.linear_model": ("LogisticRegression",),
    "sklearn.metrics": ("silhouette_score",),
    "torch.distributed.optim": ("ZeroRedundancyOptimizer",),
    "transformers": ("BertConfig", "load_tf_weights_in_bert"),
    "transformers.models.bert.modeling_bert": ("BertEmbeddings", "BertLayer"),
    "transformers.utils": ("cached_file",),
}


# Only there no other thread can meet a stand-in, and nobody else's objects are set aside.
_is_command = False


def start_command() -> None:
    """Say that this process is a command's, and not that of a program which uses the package."""
    global _is_command
    _is_command = True


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Import MONAI, and what is imported inside, without garbage collection, which takes a fifth of the time."""
    # Read when torch is loaded. By default a thread that waits for the others spins, which on a machine whose cores are
    # taken costs several times the work itself.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    enabled = gc.isenabled()
    gc.disable()
    try:
        if "monai" not in sys.modules:
            logger.info("Loading PyTorch and MONAI")
            _import_monai()
        yield
        quiet_loaders()
    finally:
        if enabled:
            gc.enable()


def _import_monai() -> None:
    """``import monai``; in a command's process with stand-ins for the deferred modules, and set aside.

    Later imports get the deferred modules themselves. What is set aside is skipped by later collections.
    """
    deferred = DEFERRED if _is_command else {}
    for name, kept in deferred.items():
        if name not in sys.modules:
            sys.modules[name] = _Deferred(name, kept)
    try:
        import monai  # noqa: F401
    finally:
        for name in deferred:
            _drop(name)
    if _is_command:
        gc.freeze()


def _drop(name: str) -> None:
    if isinstance(sys.modules.get(name), _Deferred):
        del sys.modules[name]


class _Deferred(ModuleType):
    """Stands for a module, and imports it when it is asked for another name than those that are kept."""

    def __init__(self, name: str, kept: tuple[str, ...]) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        for one in kept:
            setattr(self, one, _Kept(name, one))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _drop(self.__name__)
        return getattr(importlib.import_module(self.__name__), name)


class _Kept:
    """Stands for a function or class of a module, which is imported with the first call."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return getattr(importlib.import_module(self._module), self._name)(*arguments, **options)

    def __instancecheck__(self, instance: object) -> bool:
        # While the module is not imported, there is no instance of its class.
        module = sys.modules.get(self._module)
        return module is not None and isinstance(instance, getattr(module, self._name))
