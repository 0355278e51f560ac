"""``suite.json`` in a suite's output folder: what a later call must know and cannot infer from the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import read_json, save_json
from .results import check_version

RECORD_VERSION = 1


class SuiteRecord:
    """The record; changes are written by :meth:`save`.

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
        found: dict[str, Any] = {"version": RECORD_VERSION}
        if self.path.is_file():
            found = read_json(self.path)
            why = "what it says of the runs in this folder cannot be relied on"
            check_version(found, RECORD_VERSION, self.path, why)
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
