"""A prediction run as one HTML file: pictures, sizes of every sample, notes, and how it was made.

Everything is read from what `predict` wrote (``NAME_prediction.json``, ``NAME_panel.png``, ``NAME_samples.npz``) and
put into the file itself: no script, style sheet or picture is loaded from elsewhere, so that it can be sent to others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InputError
from ..files import fill_template, save_text
from .measure import format_number

__all__ = ["report"]

SUFFIX = "_prediction.json"


def report(run_folder: str | Path, output_file: str | Path | None = None) -> Path:
    """Write what `predict` left in a folder as one HTML file: pictures, sizes of every sample, notes, provenance.

    Example: medseglatdiff report out --output-file report.html

    Args:
        run_folder: the --output-dir of predict.
        output_file: the HTML (default: RUN_FOLDER/report.html). An earlier one is replaced.

    Returns:
        The file.

    Raises:
        InputError: no such folder, no prediction in it, or one whose JSON, panel or samples are missing or unreadable.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Give the --output-dir of 'medseglatdiff predict'.")
    records = sorted(folder.glob(f"*{SUFFIX}"))
    if not records:
        raise InputError(
            f"{folder}: no prediction in it (no file *{SUFFIX}). Give the --output-dir of 'medseglatdiff predict'."
        )
    # Here: it imports MONAI, which takes seconds, and a folder without predictions should be reported before.
    from .report_input import read_input

    inputs = [read_input(path, path.name.removesuffix(SUFFIX)) for path in records]
    # Patients' file names are text like any other: escaped.
    text = fill_template(
        Path(__file__).with_name("report.html"),
        title=folder.resolve().name, inputs=inputs, runs=_group_runs(inputs), version=__version__, write=format_number,
    )  # fmt: skip
    output = Path(output_file) if output_file is not None else folder / "report.html"
    try:
        save_text(text, output)
    except OSError as error:
        raise InputError(f"--output-file {output}: cannot write there ({error}); choose another file.") from error
    return output


def _group_runs(inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Equal provenances once, with the inputs that they hold for: a folder may be filled by several calls."""
    groups: dict[str, dict[str, Any]] = {}
    for entry in inputs:
        group = groups.setdefault(json.dumps(entry["provenance"]), {"provenance": entry["provenance"], "names": []})
        group["names"].append(entry["name"])
    return list(groups.values())
