"""Writing: the input's shape, affine and header survive; nothing is left of an error; the panel shows the samples."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medseglatdiff_monai.io import open_input, output_folder, save_png, save_volume
from medseglatdiff_monai.plots.panel import plot_panel


def test_nifti_keeps_shape_codes_and_oblique_affine(tmp_path: Path):
    affine = np.array([[0.7, 0.1, 0.0, -5.0], [-0.1, 0.7, 0.2, 3.0], [0.0, -0.1, 2.0, 9.0], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(np.zeros((5, 6, 3, 1), np.int16), affine)
    image.header.set_slope_inter(2.0, -1000.0)
    image.set_sform(affine, code="talairach")
    nibabel.save(image, tmp_path / "scan.nii.gz")
    values = np.random.default_rng(0).random((5, 6, 3)).astype(np.float32)
    save_volume(values, open_input(tmp_path / "scan.nii.gz", 1), tmp_path / "out.nii.gz")
    written = nibabel.load(tmp_path / "out.nii.gz")
    assert written.shape == (5, 6, 3, 1)
    np.testing.assert_allclose(written.get_fdata()[..., 0], values)
    np.testing.assert_allclose(written.affine, affine, atol=1e-6)
    assert int(written.header["sform_code"]) == 3


def test_png_values(tmp_path: Path):
    save_png(np.array([[0.0, 0.2, 1.0]]), tmp_path / "a.png")
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "a.png")), [[0, 51, 255]])
    save_png(np.array([[True, False]]), tmp_path / "b.png")
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "b.png")), [[255, 0]])


def test_output_folder_is_all_or_nothing(tmp_path: Path):
    with pytest.raises(RuntimeError), output_folder(tmp_path / "a" / "b") as staging:  # noqa: PT012
        (staging / "x").write_text("new")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with output_folder(tmp_path / "a") as staging:
        (staging / "x").write_text("new")
        assert not (tmp_path / "a" / "x").exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]
    assert (tmp_path / "a" / "x").read_text() == "new"


@pytest.mark.parametrize("number", [1, 5, 13])
@pytest.mark.parametrize("colour", [False, True])
def test_panel_shows_the_samples(tmp_path: Path, number: int, colour: bool):
    """Amber outlines are there with masks and are not without; all sizes fit, constant images and full masks too."""
    image = np.full((40, 60, 3), 90, np.uint8) if colour else np.zeros((40, 60), np.float32)
    amber = []
    for filled in (True, False):
        samples = np.zeros((number, 40, 60), bool)
        samples[:, 10:20, 15:30] = filled
        confidence = samples.mean(0)
        plot_panel(image, samples, confidence, confidence >= 0.5, confidence * 0, tmp_path / "panel.png", title="A")
        pixels = np.array(Image.open(tmp_path / "panel.png").convert("RGB")).astype(int)
        amber.append(int((np.abs(pixels - [0xFF, 0xB0, 0x00]).sum(-1) < 12).sum()))
    assert amber[0] > 100
    assert amber[1] == 0
