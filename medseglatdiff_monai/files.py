"""Files written completely or not at all, JSON and its version, checksums, HTML from a template."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from .errors import InputError

# Folder that holds the package and, in a clone, bundles/ and configs/ beside it.
SOURCE_TREE = Path(__file__).resolve().parents[1]
# Files of a process that was killed while it wrote them begin with this.
TEMPORARY_PREFIX = ".tmp-"


def read_json(path: str | Path) -> Any:
    """Content of a JSON file.

    Raises:
        InputError: the file is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not valid JSON: {error}. Correct it; a file that a command wrote can be moved away, and the "
            "command writes it again."
        ) from error


def read_keys(path: str | Path) -> dict[str, Any]:
    """Content of a JSON file that holds keys and values.

    Raises:
        InputError: the file is no JSON, or holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds a {type(content).__name__}; expected keys and values, {{...}}. Correct it, or move it away: "
            "the command that wrote it writes it again."
        )
    return content


def read_versioned(path: str | Path, version: int, advice: str) -> dict[str, Any]:
    """Content of a JSON file of this version; the values of another one may mean something else.

    Raises:
        InputError: the file cannot be read, is no JSON, or has another version; ``advice`` says what to do then.
    """
    try:
        content = read_json(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); {advice}.") from error
    found = content.get("version") if isinstance(content, dict) else None
    if found != version:
        raise InputError(f"{path}: found version {found!r}, expected {version}; {advice}.")
    return content


def temporary_name(name: str) -> str:
    """Name of a file while it is written: says which process of which computer writes it."""
    return f"{_temporary_prefix()}{os.getpid()}-{name}"


def _temporary_prefix() -> str:
    # Host names can be long, and names of files cannot.
    return f"{TEMPORARY_PREFIX}{hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]}-"


def remove_leftovers(*folders: Path) -> None:
    """Remove what processes of this computer that were killed while they wrote have left in these folders."""
    for path in (path for folder in folders for path in folder.glob(f"{_temporary_prefix()}*")):
        number = path.name.removeprefix(_temporary_prefix()).partition("-")[0]
        if number.isdecimal() and not _is_running(int(number)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    if os.name == "nt":
        return True  # there os.kill would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True


class _Watched:
    """A file that remembers why it could not be written: torch.save raises another error then."""

    def __init__(self, handle: BinaryIO) -> None:
        self.handle = handle
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.handle.write(data)
        except OSError as error:
            self.error = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.handle, name)


def find_full_disk(error: BaseException | None) -> OSError | None:
    """The error of a disk, a quota or a limit of file sizes that is full, among those that led to ``error``."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return error
        error = error.__cause__ or error.__context__
    return None


def save_with(write: Callable[[BinaryIO], object], path: str | Path, sync: bool = True) -> None:
    """Let ``write`` fill a file that appears under ``path`` completely or not at all.

    ``sync`` waits until it is on the disk, so that a power cut cannot empty it either: some milliseconds.

    Raises:
        InputError: the disk is full; what was there before stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(temporary_name(path.name))
    watched = None
    try:
        with temporary.open("wb") as handle:
            watched = _Watched(handle)
            write(watched)  # type: ignore[arg-type]
            if sync:
                handle.flush()
                os.fsync(handle.fileno())
        temporary.replace(path)
        if sync:
            # Its new name, too.
            wait_for_disk([path.parent])
    except Exception as error:
        full = find_full_disk((watched and watched.error) or error)
        if full is None:
            raise
        raise InputError(
            f"{path} could not be written ({full.strerror}). What was there before is unchanged: free some space, and "
            "run the same command again."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def wait_for_disk(paths: Iterable[Path]) -> None:
    """Wait until files or folders are on the disk, as far as the system can tell."""
    for path in paths:
        # Windows opens no folder, and not every file system syncs one.
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def clean_json(value: Any) -> Any:
    """``value`` with NaN and infinities as ``None``, which JSON cannot express."""
    if isinstance(value, dict):
        return {str(key): clean_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean_json(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_bytes(content: bytes, path: str | Path, sync: bool = True) -> None:
    """Write ``content``; the file appears completely or not at all. For ``sync`` see :func:`save_with`."""
    save_with(lambda handle: handle.write(content), path, sync)


def save_text(text: str, path: str | Path) -> None:
    """Write ``text`` as UTF-8, its line ends as they are; the file appears completely or not at all."""
    save_bytes(text.encode(), path)


def save_json(content: Any, path: str | Path) -> None:
    """Write ``content`` as JSON, what is not finite as null; the file appears completely or not at all."""
    save_text(json.dumps(clean_json(content), indent=2, allow_nan=False) + "\n", path)


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def fill_template(template: str | Path, **values: Any) -> str:
    """HTML of a file with a Jinja template; all text is escaped, and a name without a value is an error."""
    # Only reports need it, and every start of the program would load it.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    path = Path(template)
    environment = Environment(
        loader=FileSystemLoader(path.parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(path.name).render(**values)


def png_uri(png: bytes) -> str:
    """A PNG as text that a page can hold in place of a link."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
