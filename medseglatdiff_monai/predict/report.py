"""A prediction run as one HTML file: pictures, sizes of every sample, notes, and how it was made.

Everything is read from what `predict` wrote (``NAME_prediction.json``, ``NAME_panel.png``, ``NAME_samples.npz``) and
put into the file itself: no script, style sheet or picture is loaded from elsewhere, so that it can be sent to others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InputError
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
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

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
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = format_number
    text = environment.get_template("report.html").render(
        title=folder.resolve().name, inputs=inputs, runs=_group_runs(inputs), version=__version__
    )
    output = Path(output_file) if output_file is not None else folder / "report.html"
    staging = output.with_name(f".tmp-{os.getpid()}-{output.name}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        staging.write_text(text, encoding="utf-8")
        staging.replace(output)
    except OSError as error:
        staging.unlink(missing_ok=True)
        raise InputError(f"--output-file {output}: cannot write there ({error}); choose another file.") from error
    return output


def _group_runs(inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Equal provenances once, with the inputs that they hold for: a folder may be filled by several calls."""
    groups: list[dict[str, Any]] = []
    for entry in inputs:
        for group in groups:
            if group["provenance"] == entry["provenance"]:
                group["names"].append(entry["name"])
                break
        else:
            groups.append({"provenance": entry["provenance"], "names": [entry["name"]]})
    return groups
