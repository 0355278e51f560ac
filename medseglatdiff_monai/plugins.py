"""Files of a user's own that ``--plugin FILE.py`` imports before a command runs.

Such a file adds rows to the tables of metrics, data sources or samplers, or holds the classes that an experiment names.
Its folder is appended to ``sys.path``, which spawned workers inherit: what they unpickle is found there, too.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from .errors import InputError

OPTION = "--plugin"


def take_plugins(words: Sequence[str]) -> list[str]:
    """Import the file of every ``--plugin FILE.py`` or ``--plugin=FILE.py``; returns the other words.

    Raises:
        InputError: see :func:`import_plugin`.
    """
    files, rest = _separate(words)
    for file in files:
        import_plugin(file)
    return rest


def plugin_options() -> list[str]:
    """The words ``--plugin FILE.py`` of this process's command line, for the commands that it prints."""
    return [word for file in _separate(sys.argv[1:])[0] for word in (OPTION, file)]


def _separate(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files of the option, and all other words."""
    files: list[str] = []
    rest: list[str] = []
    waiting = iter(words)
    for word in waiting:
        option, mark, file = word.partition("=")
        if option == OPTION:
            files.append(file if mark else next(waiting, ""))
        else:
            rest.append(word)
    return files, rest


def import_plugin(file: str | Path) -> None:
    """Import a Python file under its own name, so that ``_target_`` may say ``NAME.Class``.

    Raises:
        InputError: there is no such file, another module has its name, or it fails.
    """
    path = Path(file).absolute()
    if not str(file) or path.suffix != ".py" or not path.is_file():
        raise InputError(f"{OPTION} {str(file)!r}: no such Python file; expected one, such as my_metric.py.")
    name = path.stem
    if not name.isidentifier():
        raise InputError(f"{OPTION} {file}: {name!r} is no name of a module; expected letters, digits and underscores.")
    # At the end: a file beside it must not hide a module of the same name.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    importlib.invalidate_caches()
    spec = importlib.util.find_spec(name)
    origin = None if spec is None else spec.origin
    if origin is None or not Path(origin).is_file() or not path.samefile(origin):
        raise InputError(f"{OPTION} {file}: another module is called {name!r} ({origin}); rename the file.")
    try:
        importlib.import_module(name)
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == origin]
        where = f", line {lines[-1]}" if lines else ""
        raise InputError(f"{OPTION} {file}{where}: {type(error).__name__}: {error}") from error
