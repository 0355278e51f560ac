from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from small_runs import LUNG, copy_bundle

from medseglatdiff_monai import demo as demo_module
from medseglatdiff_monai.bundle.folders import bundles_dir
from medseglatdiff_monai.demo import demo

NUM_CASES = 4


@pytest.mark.integration
def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if not (bundles_dir() / LUNG / "models" / "model.pt").is_file():
        # A checkout without weights: random ones, from which no score is asked.
        monkeypatch.setattr(demo_module, "BUNDLE", str(copy_bundle(LUNG, tmp_path / "bundle")))
    output = demo(tmp_path / "out", num_cases=NUM_CASES)
    figures = json.loads((output / "demo.json").read_text())
    assert figures["num_cases"] == NUM_CASES
    assert figures["num_samples"] == 16
    assert 0.0 <= figures["ged_v"] <= 2.0
    with Image.open(output / "raters_and_samples.png") as picture:
        assert picture.size[1] > 1000
        assert np.asarray(picture.convert("L")).std() > 20
    # The crops and the series, five files each; of the series DICOM, too, where the extra is installed.
    files = [path.name for path in (output / "prediction").iterdir() if path.suffix != ".dcm"]
    assert len(files) == 5 * (NUM_CASES + 1)
    assert sum(name.endswith("_panel.png") for name in files) == NUM_CASES + 1

    (series,) = (output / "dicom").iterdir()
    volume = nibabel.load(output / "prediction" / f"{series.name}_confidence.nii.gz")
    assert volume.shape == (512, 512, len(list(series.glob("*.dcm"))))
    assert np.asarray(volume.dataobj).any()
    printed = capsys.readouterr().out
    for name in ("raters_and_samples.png", f"{series.name}_consensus.nii.gz", "demo.json"):
        assert name in printed
    assert all(Path(word).exists() for word in printed.split() if word.startswith(str(tmp_path)) and ":" not in word)

    # A second run finds its data prepared and ends with the same figures.
    if (bundles_dir() / LUNG / "models" / "model.pt").is_file():
        demo(tmp_path / "out", num_cases=NUM_CASES)
        assert json.loads((output / "demo.json").read_text()) == figures
