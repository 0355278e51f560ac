"""``training.json`` in a run's folder: how long its stages were trained, and the command that resumes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import read_keys

RECORD_FILE = "training.json"


def read_record(run: Path) -> dict[str, Any]:
    """Content of a run's record, ``{}`` where there is none.

    Raises:
        InputError: the file is no such record.
    """
    path = run / RECORD_FILE
    content = read_keys(path) if path.is_file() else {}
    stages, command = content.get("stages", {}), content.get("command", "")
    if not isinstance(stages, Mapping) or not all(_is_cost(took) for took in stages.values()):
        raise InputError(
            f"{path}: stages is {str(stages)[:80]}; expected minutes and iterations of each stage. Move the file away: "
            "the training writes it again, and counts its time from there."
        )
    if not isinstance(command, str):
        raise InputError(f"{path}: command is {str(command)[:80]}; expected a command line. Take the key out.")
    return content


def _is_cost(took: Any) -> bool:
    numbers = [took.get(key, 0) for key in ("minutes", "iterations")] if isinstance(took, Mapping) else [None]
    return all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)
