"""What MONAI Label is answered with, drawn with tiny networks of random weights."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from small_runs import LUNG, SKIN, copy_bundle, small_sizes

from medseglatdiff_monai.bundle.segmenter import Segmenter, load_segmenter
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.integrations.monai_label.answer import answer_request
from medseglatdiff_monai.io import RasterInput, open_input
from medseglatdiff_monai.io.planes import index_to_point
from medseglatdiff_monai.predict.command import predict
from medseglatdiff_monai.predict.image import segment_image

AFFINE = np.array([[-0.7, 0, 0, 60], [0, -0.8, 0, 70], [0, 0, 2.0, -100], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def lung(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    sizes = small_sizes(LUNG)
    root = copy_bundle(LUNG, tmp_path_factory.mktemp("lung"), **sizes)
    return load_segmenter(root, device="cpu", **{name: value for name, value in sizes.items() if name != "device"})


@pytest.fixture(scope="module")
def skin(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    sizes = small_sizes(SKIN)
    root = copy_bundle(SKIN, tmp_path_factory.mktemp("skin"), **sizes)
    return load_segmenter(root, device="cpu", **{name: value for name, value in sizes.items() if name != "device"})


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    array = np.random.default_rng(0).normal(-800, 40, (150, 140, 3)).astype(np.int16)
    array[60:75, 50:66, 1] = 30
    nibabel.Nifti1Image(array, AFFINE).to_filename(tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def test_volume_is_what_predict_writes(lung: Segmenter, volume: Path, tmp_path: Path) -> None:
    answer = answer_request(lung, {"image": str(volume), "foreground": [[67, 58, 1]]})
    sizes = {name: value for name, value in small_sizes(LUNG).items() if name != "device"}
    (expected,) = predict(
        lung.bundle_dir, volume, tmp_path / "out", index=(67, 58, 1), device="cpu", dicom=False, **sizes
    )
    consensus = nibabel.load(expected["files"]["consensus"])
    assert answer.mask.any()
    np.testing.assert_array_equal(answer.mask, np.asarray(consensus.dataobj))
    np.testing.assert_allclose(answer.affine, AFFINE)
    (nodule,) = answer.result["nodules"]
    (found,) = expected["nodules"]
    for key in ("volume_mm3", "longest_diameter_mm", "area_mm2"):
        assert nodule[key] == {name: found[key][name] for name in ("consensus", "median", "interval")}
    assert nodule["volume_mm3"]["consensus"] == pytest.approx(answer.mask.sum() * 0.7 * 0.8 * 2.0, abs=1e-3)
    assert nodule["disagreement"] == pytest.approx(1 - found["agreement"]["mean_pairwise_iou"], abs=1e-3)
    assert answer.result["disagreement"] == nodule["disagreement"]
    assert 0.0 <= answer.result["mean_entropy"] <= 1.0


def test_millimetres_text_and_repeated_clicks_mean_the_same(lung: Segmenter, volume: Path) -> None:
    point = index_to_point((67, 58, 1), AFFINE).tolist()
    drawings = [
        answer_request(lung, {"image": str(volume), **place})
        for place in (
            {"foreground": [[67, 58, 1]], "background": []},
            {"foreground": "[[67, 58, 1], [67, 58, 1]]"},
            {"foreground": [67.2, 57.9, 1.0]},
            {"point": point, "foreground": []},
        )
    ]
    for other in drawings[1:]:
        np.testing.assert_array_equal(other.mask, drawings[0].mask)
        assert len(other.result["nodules"]) == 1


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({}, r"no nodule was clicked.*'foreground': \[\[i, j, k\]\]"),
        ({"foreground": []}, "no nodule was clicked"),
        ({"foreground": [[67, 58, 9]]}, "'foreground' 67,58,9 is outside"),
        ({"foreground": [[67, 58]]}, "expected"),
        ({"foreground": "[[67, 58"}, "expected lists of three numbers"),
        ({"foreground": [[67, 58, 1]], "point": [0, 0, 0]}, "one of them"),
        ({"point": [1000, 0, 0]}, "'point' 1000,0,0 is outside"),
    ],
)
def test_place_that_is_missing_or_wrong_is_an_error(lung: Segmenter, volume: Path, place: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        answer_request(lung, {"image": str(volume), **place})


def test_picture_is_answered_x_first(skin: Segmenter, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (50, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "lesion.png")
    answer = answer_request(skin, {"image": str(tmp_path / "lesion.png")})
    source = open_input(tmp_path / "lesion.png", 3)
    assert isinstance(source, RasterInput)
    expected = segment_image(skin, source)
    assert answer.mask.shape == (90, 50)
    assert answer.affine is None
    np.testing.assert_array_equal(answer.mask.T, expected.consensus())
    area = answer.result["area_pixels"]
    counts = sorted(int(mask.sum()) for mask in expected.samples)
    assert area["consensus"] == int(expected.consensus().sum())
    assert area["median"] == pytest.approx(np.median(counts), abs=1e-3)
    assert area["interval"] is None  # of two samples


def test_slice_keeps_its_geometry(lung: Segmenter, tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(-800, 40, (128, 128)).astype(np.int16)
    nibabel.Nifti1Image(array, AFFINE).to_filename(tmp_path / "crop.nii.gz")
    answer = answer_request(lung, {"image": str(tmp_path / "crop.nii.gz")})
    assert answer.mask.shape == (128, 128, 1)
    assert "nodules" not in answer.result
    assert answer.result["area_mm2"]["consensus"] == pytest.approx(answer.mask.sum() * 0.56, abs=1e-3)
