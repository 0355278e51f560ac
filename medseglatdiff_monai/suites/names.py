"""The suites by name. What a suite says is read elsewhere: its metrics need torch, whose import takes seconds."""

from __future__ import annotations

from pathlib import Path

from ..bundle.folders import configs_dir
from ..errors import InputError, did_you_mean

SUITES_DIR = configs_dir() / "suites"


def find_suite(suite: str | Path) -> Path:
    """File of a suite given as a JSON file or as a name under ``configs/suites/``.

    Raises:
        InputError: there is none; the message names the nearest known name.
    """
    known = sorted(path.stem for path in SUITES_DIR.glob("*.json"))
    for candidate in (Path(suite), SUITES_DIR / f"{suite}.json"):
        if candidate.is_file():
            return candidate
    raise InputError(
        f"No suite {str(suite)!r}: expected a JSON file or one of {', '.join(known)}.{did_you_mean(str(suite), known)}"
    )
