"""The notebook is stored without outputs and runs from its first cell to its last."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient
from small_runs import LUNG, copy_bundle

from medseglatdiff_monai.bundle import bundles_dir

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "01_quickstart.ipynb"
SECONDS_A_CELL = 300


def test_notebook_is_stored_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert [cell["cell_type"] for cell in cells].count("code") >= 5
    for cell in cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.integration
def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    if not (bundles_dir() / LUNG / "models" / "model.pt").is_file():
        # A checkout without weights: the same cells on a copy of the bundle with random ones.
        first = next(cell for cell in notebook.cells if cell.cell_type == "code")
        assert f'BUNDLE = "{LUNG}"' in first.source
        first.source = first.source.replace(f'"{LUNG}"', repr(str(copy_bundle(LUNG, tmp_path / "bundle"))))
    manager = KernelManager()
    # The interpreter of the tests, not whatever kernel a user may have registered under the same name.
    manager.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    NotebookClient(
        notebook, km=manager, timeout=SECONDS_A_CELL, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    printed = "".join(output.get("text", "") for output in outputs)
    assert "16 samples       GED" in printed
    predicted = {path.name.rpartition("_")[2] for path in (tmp_path / "quickstart_output" / "prediction").iterdir()}
    assert predicted == {"confidence.nii.gz", "consensus.nii.gz", "panel.png", "prediction.json", "samples.npz"}
