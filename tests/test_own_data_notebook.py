"""The notebook on own data is stored without outputs and runs from its first cell to its last on a tiny budget."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "03_your_own_data.ipynb"
BUDGET = "CASES, CODEC_EPOCHS, DIFFUSION_EPOCHS = 48, 60, 120"
SECONDS_A_CELL = 300


def test_notebook_is_stored_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert [cell["cell_type"] for cell in cells].count("code") >= 6
    for cell in cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.integration
def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert BUDGET in first.source
    first.source = first.source.replace(BUDGET, "CASES, CODEC_EPOCHS, DIFFUSION_EPOCHS = 16, 1, 1")
    manager = KernelManager()
    # The interpreter of the tests, not whatever kernel a user may have registered under the same name.
    manager.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    NotebookClient(
        notebook, km=manager, timeout=SECONDS_A_CELL, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    work = tmp_path / "own_data_output"
    assert {path.name for path in (work / "run" / "models").iterdir()} >= {"mask_codec.pt", "model.pt"}
    summary = json.loads((work / "evaluation" / "metrics.json").read_text())["summary"]
    assert summary["num_cases"] == 2
    printed = "".join(output.get("text", "") for output in outputs if output.get("name") == "stdout")
    assert "FILL IN" in printed
    assert "codec_mask_dice" in printed
