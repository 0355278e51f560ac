"""One process at a time writes to a folder.

The lock belongs to the process, not to a file: the operating system lets go of it when the process ends, however it
ends, so that nobody has to clean up after a killed one. A file beside it says who holds it.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import InputError
from .files import read_json, save_json

LOCK_NAME, HOLDER_NAME = ".lock", ".lock-holder.json"
LOCK_NAMES = frozenset({LOCK_NAME, HOLDER_NAME})


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold the lock of an output folder, which is made if needed and removed again if it stays empty.

    Raises:
        InputError: another process holds it, the message says which; or the folder cannot be made or written to.
    """
    folder = Path(folder)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_NAME, timeout=0)
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{folder} is in use: {_describe_holder(folder / HOLDER_NAME)} writes to it. Wait until it has ended, or "
            "choose another folder."
        ) from None
    except OSError as error:
        raise InputError(f"{folder}: cannot write there ({error}); choose another folder.") from error
    try:
        holder = {
            "pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "command": Path(sys.argv[0]).name,
        }  # fmt: skip
        save_json(holder, folder / HOLDER_NAME)
        yield
    finally:
        for name in (HOLDER_NAME, LOCK_NAME):
            # Windows removes no open file, and a file system that is gone none at all: neither matters.
            with suppress(OSError):
                (folder / name).unlink()
        lock.release()
        if made:
            with suppress(OSError):
                folder.rmdir()


def _describe_holder(path: Path) -> str:
    try:
        found = read_json(path)
        return f"process {found['pid']} on {found['host']} ({found['command']}, since {found['since']})"
    except (OSError, InputError, KeyError, TypeError):
        return "another process"
