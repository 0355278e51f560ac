"""pylidc 0.2.3 on current Python: it is unmaintained and asks for names that setuptools, numpy and Python have dropped.

`load_pylidc` lends it these names in its own modules only, so numpy and `sys.modules` are for everyone else what they
were before: ``pkg_resources.resource_filename`` (gone from setuptools 82), ``np.int``, ``np.float`` and ``np.bool``,
``scipy.ndimage.morphology`` (to go with SciPy 2). pylidc also writes a template of its configuration into the user's
home when it finds none, with a parser that is gone from Python 3.12; here it only ever reads.
"""

from __future__ import annotations

import configparser
import importlib
import importlib.metadata
import importlib.resources
import os
import sys
import threading
import types
import warnings
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt

from ...errors import InputError
from ...extras import require

NUMPY_NAMES = {"int": int, "float": float, "bool": bool}

_lock = threading.Lock()
# The process in which pylidc's connection to its database was opened.
_owner: int | None = None


def load_pylidc() -> types.ModuleType:
    """Import pylidc, ready to use; a second call returns the same module.

    SQLite connections must not cross a fork: in a forked process the call opens a new one.

    Returns:
        The module ``pylidc``, with its database of 1,018 scans (no DICOM file needed).

    Raises:
        InputError: pylidc is not installed.
    """
    global _owner
    with _lock:
        if _owner is None:
            pylidc = _import_pylidc()
        else:
            pylidc = sys.modules["pylidc"]
            if _owner != os.getpid():
                pylidc._engine.dispose(close=False)
                pylidc._session = type(pylidc._session)(bind=pylidc._engine)  # type: ignore[attr-defined]
        _owner = os.getpid()
    return pylidc


def pylidc_version() -> str:
    """The installed version, for provenance."""
    return importlib.metadata.version("pylidc")


def _import_pylidc() -> types.ModuleType:
    require("lidc", "The outlines of LIDC-IDRI")
    # pylidc takes one function from each while it is imported: stand-ins also spare us the real ones' warnings.
    stand_ins = {name: types.ModuleType(name) for name in ("pkg_resources", "scipy.ndimage.morphology")}
    stand_ins["pkg_resources"].resource_filename = _resource_filename  # type: ignore[attr-defined]
    stand_ins["scipy.ndimage.morphology"].distance_transform_edt = distance_transform_edt  # type: ignore[attr-defined]
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pylidc = importlib.import_module("pylidc")
            importlib.import_module("pylidc.utils")
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module

    lent = types.ModuleType("numpy", "numpy with the names that pylidc 0.2.3 uses")
    lent.__dict__.update(np.__dict__)
    lent.__dict__.update(NUMPY_NAMES)
    for name, loaded in list(sys.modules.items()):
        if (name == "pylidc" or name.startswith("pylidc.")) and getattr(loaded, "np", None) is np:
            loaded.np = lent  # type: ignore[attr-defined]
    # pylidc.Scan is the class; its module is only in sys.modules.
    scan_module = sys.modules["pylidc.Scan"]
    scan_module._get_dicom_file_path_from_config_file = _read_dicom_path  # type: ignore[attr-defined]
    return pylidc


def _resource_filename(package: str, name: str) -> str:
    return str(importlib.resources.files(package) / name)


def _read_dicom_path() -> str:
    """The ``[dicom] path`` of the user's pylidc configuration; pylidc itself writes a template if there is none."""
    path = Path.home() / ("pylidc.conf" if sys.platform.startswith("win") else ".pylidcrc")
    parser = configparser.ConfigParser()
    parser.read(path)
    if not parser.has_option("dicom", "path"):
        raise InputError(
            f"{path}: no [dicom] path in it, so pylidc cannot find DICOM files; use the source 'lidc' instead."
        )
    return parser.get("dicom", "path")
