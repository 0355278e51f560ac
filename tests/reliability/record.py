"""What the reliability tests tried and how it ended, kept for the table of the documentation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from medseglatdiff_monai.files import save_json
from medseglatdiff_monai.provenance import provenance

# A folder; `make reliability` sets it to benchmarks/results/reliability, and figures.py makes the table of it.
VARIABLE = "MEDSEGLATDIFF_RELIABILITY"


def keep(name: str, title: str, ended: Mapping[str, int], wrong: int = 0) -> None:
    """Write one row of the table, where a folder for it is named.

    Args:
        name: of the file.
        title: what was tried.
        ended: how it may end, and how often it did.
        wrong: how often it ended otherwise.
    """
    folder = os.environ.get(VARIABLE)
    if folder:
        row = {"title": title, "ended": dict(ended), "wrong": wrong, "provenance": provenance("cpu")}
        save_json(row, Path(folder) / f"{name}.json")
