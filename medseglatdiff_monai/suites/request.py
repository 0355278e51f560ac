"""What a call of a suite asks for, once it is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .suite import Suite


@dataclass(frozen=True)
class Request:
    """A suite on a data set; the arguments of :func:`~medseglatdiff_monai.suites.command.run_suite`, checked.

    Attributes:
        suite: systems and evaluations.
        dataset_dir: prepared folder.
        info: its ``dataset.json``.
        split: the part that is scored.
        output: folder of everything that the suite leaves.
        bundle: folder of the bundle that the systems start from.
        max_minutes: budget of training and scoring together; 0 only scores.
        max_cases: score at most this many cases.
        overrides: configuration keys of every system's training.
        fingerprint: SHA-256 of ``dataset.json``.
    """

    suite: Suite
    dataset_dir: Path
    info: Mapping[str, Any]
    split: str
    output: Path
    bundle: Path
    max_minutes: float | None
    max_cases: int | None
    overrides: Mapping[str, Any]
    fingerprint: str
