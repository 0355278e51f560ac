"""Files written completely or not at all, JSON and its version, checksums, HTML from a template."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from .errors import InputError

__all__ = [
    "SOURCE_TREE",
    "TEMPORARY_PREFIX",
    "clean_json",
    "fill_template",
    "png_uri",
    "read_json",
    "read_versioned",
    "save_bytes",
    "save_json",
    "save_text",
    "save_with",
    "weights_sha256",
]

# Folder that holds the package and, in a source checkout, bundles/ and configs/ beside it.
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
    except ValueError as error:
        raise InputError(
            f"{path} is not valid JSON: {error}. Correct it; a file that a command wrote can be moved away, and the "
            "command writes it again."
        ) from error


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


def save_with(write: Callable[[BinaryIO], object], path: str | Path) -> None:
    """Let ``write`` fill a file that appears under ``path`` completely or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    try:
        with temporary.open("wb") as handle:
            write(handle)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def clean_json(value: Any) -> Any:
    """``value`` with NaN and infinities as ``None``, which JSON cannot express."""
    if isinstance(value, dict):
        return {str(key): clean_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean_json(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_bytes(content: bytes, path: str | Path) -> None:
    """Write ``content``; the file appears completely or not at all."""
    save_with(lambda handle: handle.write(content), path)


def save_text(text: str, path: str | Path) -> None:
    """Write ``text`` as UTF-8, its line ends as they are; the file appears completely or not at all."""
    save_bytes(text.encode(), path)


def save_json(content: Any, path: str | Path) -> None:
    """Write ``content`` as JSON, what is not finite as null; the file appears completely or not at all."""
    save_text(json.dumps(clean_json(content), indent=2, allow_nan=False) + "\n", path)


def weights_sha256(path: str | Path) -> str:
    """SHA-256 of a weights file, as hexadecimal digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def fill_template(template: str | Path, **values: Any) -> str:
    """HTML of a Jinja template; all text is escaped, and a name without a value is an error.

    Args:
        template: the file.
        values: what it names; functions can be called in it.
    """
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
