"""What a suite leaves and finds again: ``results.json`` and ``suite.json``, with versions that are checked before use.

A file of another version is refused, never merged: its numbers may follow other definitions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import InputError
from ..evaluation.result import VERSION_ADVICE
from ..files import read_versioned, save_json, save_text

SUITE_RESULT_VERSION = 1
RECORD_VERSION = 1


def save_csv(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a frame without its index as CSV that appears completely or not at all."""
    save_text(frame.to_csv(index=False), path)


def read_results(path: str | Path) -> dict[str, Any]:
    """Contents of a suite's ``results.json``.

    Raises:
        InputError: no such file, no JSON, or of another version.
    """
    if not Path(path).is_file():
        raise InputError(f"No results at {path}. Run 'medseglatdiff benchmark' first, or name a file that exists.")
    return read_versioned(path, SUITE_RESULT_VERSION, VERSION_ADVICE)


def check_results(path: Path, suite: str) -> None:
    """Refuse to overwrite results of another suite.

    Raises:
        InputError: the file holds them, or is of another version.
    """
    found = read_results(path).get("suite") if path.is_file() else suite
    if found != suite:
        raise InputError(
            f"{path} holds results of the suite {found!r}, and {suite!r} would overwrite them. Choose another "
            "--output-dir, or move the file away."
        )


class SuiteRecord:
    """``suite.json``: what a later call must know and cannot infer from the files; :meth:`save` writes the changes.

    Attributes:
        runs: name of a run → what its weights were trained on (``bundle``, ``dataset_sha256``, ``stages``), and the
            stages that a budget ended before their last epoch (``ended_by_budget``).
        codecs: name of a kept codec → the run that trained it, and what that took.
        cases: how many cases a budget allowed, and for what; empty without a budget.

    Args:
        output: folder of everything that the suite leaves.

    Raises:
        InputError: the record is of another version.
    """

    def __init__(self, output: Path) -> None:
        self.path = output / "suite.json"
        found: dict[str, Any] = {}
        if self.path.is_file():
            advice = (
                "what it says of the runs in this folder cannot be relied on: choose another --output-dir, or move the "
                "file away, and run the command again"
            )
            found = read_versioned(self.path, RECORD_VERSION, advice)
        self.runs: dict[str, dict[str, Any]] = found.get("runs", {})
        self.codecs: dict[str, dict[str, Any]] = found.get("codecs", {})
        self.cases: dict[str, Any] = found.get("cases", {})

    def save(self) -> None:
        """Write the record."""
        content = {"version": RECORD_VERSION, "cases": self.cases, "runs": self.runs, "codecs": self.codecs}
        save_json(content, self.path)

    def ended_by_budget(self, run: Path) -> list[str]:
        """Stages of a run that a budget ended before their last epoch, and that later ones were trained on."""
        return self.runs.get(run.name, {}).get("ended_by_budget", [])
