"""The notebooks run from their first cell to their last, and are stored with outputs of the phantom."""

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


# What is shown in the repository comes from the phantom: a photograph of somebody's eye is not.
WITHOUT_OUTPUTS = {"04_retinal_vessels"}
MOST_BYTES, MOST_TEXT = 500_000, 1_500


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_stored_outputs_are_whole_short_and_of_the_phantom(path: Path) -> None:
    """A notebook can be read where it is not run: pictures are there, and no warnings, errors or paths."""
    cells = json.loads(path.read_text())["cells"]
    assert [cell["cell_type"] for cell in cells].count("code") >= 5
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    if path.stem in WITHOUT_OUTPUTS:
        assert outputs == []
        return
    assert path.stat().st_size < MOST_BYTES
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr"
        text = "".join(output.get("text", [])) + "".join(output.get("data", {}).get("text/plain", []))
        assert len(text) < MOST_TEXT
        assert "/home/" not in text
        assert "/tmp/" not in text
    counts = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))


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
