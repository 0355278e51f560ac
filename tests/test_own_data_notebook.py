"""The notebooks on own data run from their first cell to their last on a tiny budget."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from run_notebook import run_notebook

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
DRAWN, RETINA = "03_your_own_data.ipynb", "04_retinal_vessels.ipynb"
SECONDS_A_CELL = 300


def execute(name: str, changes: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list, str]:
    """Run a notebook in ``folder`` with texts of its first code cell replaced; its outputs, and what it printed."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    assert [cell.cell_type for cell in notebook.cells].count("code") >= 6
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    for old, new in changes.items():
        assert old in first.source
        first.source = first.source.replace(old, new)
    outputs = run_notebook(notebook, folder, SECONDS_A_CELL, monkeypatch)
    return outputs, "".join(output.get("text", "") for output in outputs if output.get("name") == "stdout")


@pytest.mark.integration
def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, printed = execute(
        DRAWN,
        {"CASES, CODEC_EPOCHS, DIFFUSION_EPOCHS = 48, 60, 120": "CASES, CODEC_EPOCHS, DIFFUSION_EPOCHS = 16, 1, 1"},
        tmp_path,
        monkeypatch,
    )
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    work = tmp_path / "own_data_output"
    assert {path.name for path in (work / "run" / "models").iterdir()} >= {"mask_codec.pt", "model.pt"}
    summary = json.loads((work / "evaluation" / "metrics.json").read_text())["summary"]
    assert summary["num_cases"] == 2
    assert "FILL IN" in printed
    assert "codec_mask_dice" in printed


@pytest.mark.integration
def test_retinal_notebook_runs_on_the_photographs(unpack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = unpack("chase_db1_01-09.tar", r"\.(jpg|png)$")
    outputs, printed = execute(
        RETINA,
        {
            'SOURCE = Path("CHASE_DB1")': f"SOURCE = Path({str(source)!r})",
            "DIFFUSION_EPOCHS, SAMPLES = 150, 300, 16": "DIFFUSION_EPOCHS, SAMPLES = 1, 1, 2",
        },
        tmp_path,
        monkeypatch,
    )
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    work = tmp_path / "retina_output"
    summary = json.loads((work / "evaluation" / "metrics.json").read_text())["summary"]
    # Both eyes of the one child whom the split leaves for validation.
    assert summary["num_cases"] == 2
    assert "FILL IN" in printed
    assert "Image_0" in (work / "prediction" / "report.html").read_text()
