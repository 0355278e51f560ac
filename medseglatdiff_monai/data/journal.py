"""The journal that makes `prepare` safe to interrupt.

One JSON line per finished case is appended once its files are in place; a half-written last line counts as absent. The
first line says which preparation the folder holds, so that two are never mixed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import TEMPORARY_PREFIX, save_text
from ..locks import LOCK_NAMES

JOURNAL_NAME = ".prepare.jsonl"
UNPACKED_NAME = ".unpacked"
# Files of an output folder that are the system's, not a preparation's.
IGNORED_NAMES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


class Journal:
    """The journal of one output folder."""

    def __init__(self, output: Path, header: dict[str, Any]) -> None:
        self.output = output
        self.path = output / JOURNAL_NAME
        self.header = json.loads(json.dumps(header))
        self.finished = 0

    def read(self) -> dict[str, dict[str, Any]]:
        """Check that the folder is ours; return the records of the cases whose output files are all still there."""
        output = self.output
        if output.exists() and not output.is_dir():
            raise InputError(f"{output}: is a file; --output-dir must name a folder.")
        if not self.path.exists():
            names = [entry.name for entry in output.iterdir()] if output.exists() else []
            ours = {UNPACKED_NAME, *LOCK_NAMES, *(name for name in names if name.startswith(TEMPORARY_PREFIX))}
            foreign = sorted(set(names) - IGNORED_NAMES - ours)
            if foreign:
                raise InputError(
                    f"{output}: is not empty (it holds {foreign[0]!r}) and was not written by prepare; "
                    "name a new or empty folder as --output-dir."
                )
            return {}
        lines = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:  # the line that an interruption cut off
                continue
        if not lines or "arguments" not in lines[0]:
            return {}
        if lines[0] != self.header:
            raise InputError(
                f"{output}: already holds another preparation ({_difference(lines[0], self.header)}); name another "
                "--output-dir, or delete this folder first."
            )
        kept = {}
        for record in lines[1:]:
            files = [output / item[key] for item in record["items"] for key in ("image", "label")]
            if all(file.is_file() and file.stat().st_size > 0 for file in files):
                kept[record["stub"]] = record
        self.finished = len(kept)
        return kept

    def open(self, kept: Mapping[str, dict[str, Any]]) -> io.TextIOWrapper:
        """Rewrite the journal with what is kept (drops a cut-off line) and open it for appending."""
        lines = [self.header, *kept.values()]
        save_text("".join(json.dumps(line) + "\n" for line in lines), self.path)
        return self.path.open("a", encoding="utf-8")

    def append(self, handle: io.TextIOWrapper, record: dict[str, Any]) -> None:
        """Note a finished case."""
        handle.write(json.dumps(record) + "\n")
        handle.flush()
        self.finished += 1


def _difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    if found.get("version") != expected["version"]:
        return f"by version {found.get('version')} of prepare, now {expected['version']}"
    before, now = found["arguments"], expected["arguments"]
    for name in sorted(set(before) | set(now)):
        if before.get(name) != now.get(name):
            return f"{name} was {before.get(name)!r} and is now {now.get(name)!r}"
    if found.get("src") != expected["src"]:
        return f"of {found.get('src')}, now {expected['src']}"
    if found.get("split_sha256") != expected["split_sha256"]:
        return "the split file has changed"
    return "a path among the options has changed"


def stamp_files(files: Sequence[str]) -> str:
    """A digest of sizes and modification times, which changes when a file changes or disappears."""
    stamps: list[tuple[int, int] | None] = []
    for file in files:
        try:
            status = os.stat(file)
            stamps.append((status.st_size, status.st_mtime_ns))
        except FileNotFoundError:
            stamps.append(None)
    return hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]
