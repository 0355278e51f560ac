"""The notebooks are stored without outputs and run from their first cell to their last."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
from run_notebook import run_notebook
from small_runs import LUNG, copy_bundle

from medseglatdiff_monai.bundle.folders import bundles_dir

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
SECONDS_A_CELL = 300


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_is_stored_without_outputs(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    assert [cell["cell_type"] for cell in cells].count("code") >= 5
    for cell in cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def _run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, int]:
    """Run a notebook in a folder; returns what it printed, and how many pictures it showed."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    if not (bundles_dir() / LUNG / "models" / "model.pt").is_file():
        # A checkout without weights: the same cells on a copy of the bundle with random ones.
        first = next(cell for cell in notebook.cells if cell.cell_type == "code")
        assert f'BUNDLE = "{LUNG}"' in first.source
        first.source = first.source.replace(f'"{LUNG}"', repr(str(copy_bundle(LUNG, folder / "bundle"))))
    outputs = run_notebook(notebook, folder, SECONDS_A_CELL, monkeypatch)
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    return "".join(output.get("text", "") for output in outputs), pictures


@pytest.mark.integration
def test_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed, pictures = _run("01_quickstart.ipynb", tmp_path, monkeypatch)
    assert pictures == 2
    assert "16 samples       GED" in printed
    predicted = {path.name.rpartition("_")[2] for path in (tmp_path / "quickstart_output" / "prediction").iterdir()}
    assert predicted == {"confidence.nii.gz", "consensus.nii.gz", "panel.png", "prediction.json", "samples.npz"}


@pytest.mark.integration
def test_raters_and_confidence_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed, pictures = _run("02_raters_and_confidence.ipynb", tmp_path, monkeypatch)
    assert pictures == 2
    # Raters set against themselves have no distance.
    assert re.search(r"the raters .* 0\.000\n", printed)
    whole, band = (float(value) for value in re.findall(r"ECE (\d\.\d+)", printed))
    assert 0.0 <= whole < band <= 1.0
    assert printed.count("threshold 0.") == 5
    print(printed)
