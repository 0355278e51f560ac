from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from small_runs import LUNG, copy_bundle

from medseglatdiff_monai import demo as demo_module
from medseglatdiff_monai.bundle.config import bundles_dir
from medseglatdiff_monai.demo import demo
from medseglatdiff_monai.plots.comparison import ComparedCase, plot_comparison

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


def test_comparison_shows_outlines_and_shares(tmp_path: Path) -> None:
    image = np.linspace(0.0, 1.0, 32 * 32).reshape(32, 32)
    masks = np.zeros((4, 32, 32), dtype=bool)
    masks[:2, 8:24, 8:24] = True
    pictures = []
    for name, samples in (("empty", np.zeros_like(masks)), ("marked", masks)):
        plot_comparison([ComparedCase("case", image, masks, samples)], tmp_path / f"{name}.png", "Title")
        with Image.open(tmp_path / f"{name}.png") as picture:
            pictures.append(np.asarray(picture.convert("RGB")).astype(int))
    assert pictures[0].shape == pictures[1].shape
    changed = np.abs(pictures[0] - pictures[1]).sum(-1).any(0)
    # Only the columns of samples differ, the third and the fifth of five.
    side = (2.1 + 0.08) * 120
    columns = {int((x - 0.3 * 120) // side) for x in changed.nonzero()[0]}
    assert columns == {2, 4}
