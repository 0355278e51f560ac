"""A suite's output: ``results.json`` and ``results.csv``, with versions that are checked before use.

A file of another version is refused, never merged: its numbers may follow other definitions.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import InputError
from ..files import read_json, save_text
from ..provenance import provenance

SUITE_RESULT_VERSION = 1


def save_csv(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a frame without its index as CSV that appears completely or not at all."""
    save_text(frame.to_csv(index=False), path)


def check_version(
    content: Any, expected: int, path: str | Path, why: str = "their numbers must not stand in one table"
) -> None:
    """Refuse a file of another version.

    Raises:
        InputError: names the file, its version, the expected one, and what to do.
    """
    found = content.get("version") if isinstance(content, dict) else None
    if found != expected:
        raise InputError(
            f"{path} is a file of version {found}, this program writes and reads version {expected}: {why}. Choose "
            "another --output-dir, or move the file away to begin again."
        )


def read_results(path: str | Path) -> dict[str, Any]:
    """Contents of a suite's ``results.json``.

    Raises:
        InputError: no such file, no JSON, or of another version.
    """
    if not Path(path).is_file():
        raise InputError(f"No results at {path}. Run 'medseglatdiff benchmark' first, or name a file that exists.")
    content = read_json(path)
    check_version(content, SUITE_RESULT_VERSION, path)
    return content


def versions() -> dict[str, Any]:
    """Hardware and versions that a suite's result was made with, and the source tree's commit."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    packages = {name: importlib.metadata.version(name) for name in ("scipy", "statsmodels", "pandas")}
    return {**provenance(device), **packages}
