"""DICOM SEG and SR: place of every voxel in the patient, codes, references, empty results, conformance, bad series."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
import torch
from tiny_dicom import CORNER_MM, write_series

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.extras import Extra
from medseglatdiff_monai.io import DicomWriter, SegmentedNodule, open_input

highdicom = pytest.importorskip("highdicom", reason="extra 'dicom' is not installed")

RECORD = {
    "bundle": "lung",
    "bundle_version": "1.0",
    "weights_sha256": "ab" * 32,
    "num_samples": 5,
    "seed": 0,
    "confidence": "samples",
}
MEASURED = {
    "volume_mm3": {"consensus": 101.5, "samples": [90.0, 120.0], "median": 105.0, "interval": [91.5, 118.5]},
    "longest_diameter_mm": {"consensus": 6.5, "samples": [6.0, 7.0], "median": 6.5, "interval": [6.05, 6.95]},
    "area_mm2": {"consensus": 20.0, "samples": [19.0, 21.0], "median": 20.0, "interval": [19.1, 20.9]},
    "agreement": {"mean_pairwise_iou": 0.75},
}
SPACING_MM = (0.5, 0.75, 2.0)
SHAPE = (9, 40, 48)


def _turn(degrees: float, axis: int) -> np.ndarray:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    first, second = [k for k in range(3) if k != axis]
    turn = np.eye(3)
    turn[first, first], turn[first, second], turn[second, first], turn[second, second] = cos, -sin, sin, cos
    return turn


OBLIQUE = _turn(17.0, 0) @ _turn(-9.0, 1)
# ImageOrientationPatient, and whether slices follow the planes' normal or run against it.
SERIES = {
    "axial": ([1, 0, 0, 0, 1, 0], 1),
    "slices reversed": ([1, 0, 0, 0, 1, 0], -1),
    "rows reversed": ([-1, 0, 0, 0, 1, 0], 1),
    "columns reversed": ([1, 0, 0, 0, -1, 0], -1),
    "oblique": ([*OBLIQUE[:, 0], *OBLIQUE[:, 1]], 1),
    "oblique reversed": ([*-OBLIQUE[:, 0], *OBLIQUE[:, 1]], -1),
    "coronal": ([1, 0, 0, 0, 0, -1], 1),
}


def _positions(orientation: list[float], step: int) -> np.ndarray:
    """LPS millimetres of every voxel (slice, row, column) by DICOM's own equation (PS3.3 C.7.6.2.1.1)."""
    row_direction, column_direction = np.array(orientation[:3], float), np.array(orientation[3:], float)
    normal = np.cross(row_direction, column_direction)
    z, y, x = np.indices(SHAPE)
    return (
        np.array(CORNER_MM)
        + z[..., None] * step * SPACING_MM[2] * normal
        + y[..., None] * SPACING_MM[0] * column_direction
        + x[..., None] * SPACING_MM[1] * row_direction
    )


def _ellipsoid(positions: np.ndarray, center: np.ndarray) -> np.ndarray:
    """A body without any symmetry of a box: three different axes, turned, with a bulge on one side."""
    local = (positions - center) @ (_turn(30, 2) @ _turn(20, 0))
    body = ((local / [7.0, 4.0, 5.0]) ** 2).sum(-1) < 1
    return body | (((local - [3.0, 3.0, 1.0]) ** 2).sum(-1) < 9.0)


@pytest.fixture(params=SERIES)
def written(request: pytest.FixtureRequest, tmp_path: Path):
    """The series' ground truth, and what was cut as planes, pasted and written as SEG."""
    orientation, step = SERIES[request.param]
    positions = _positions(orientation, step)
    center = positions[4, 22, 20]
    truth = _ellipsoid(positions, center)
    assert truth.any((1, 2)).sum() >= 3
    folder = write_series(
        tmp_path / "series", np.where(truth, 40, -800).astype(np.int16), SPACING_MM, orientation=orientation, step=step
    )
    source = open_input(folder, 1)
    cut_plane = source.open_planes(center.tolist(), 64)
    below, above = 0, 0
    while cut_plane(below - 1) is not None:
        below -= 1
    while cut_plane(above + 1) is not None:
        above += 1
    planes = [cut_plane(offset) for offset in range(below, above + 1)]
    masks = torch.stack([plane.as_tensor()[0] > -300 for plane in planes]).to(torch.uint8)
    start, consensus = source.paste_stack(masks, planes)
    _, confidence = source.paste_stack(masks.float() * 0.6, planes)
    names = DicomWriter(source, RECORD).write([SegmentedNodule(start, consensus, confidence, MEASURED)], tmp_path, "a")
    return source, truth, positions, tmp_path, names


def test_every_voxel_is_at_its_place_in_the_patient(written):
    source, truth, positions, folder, names = written
    expected = {tuple(np.round(point, 2) + 0.0) for point in positions[truth]}
    files = {pydicom.dcmread(path).SOPInstanceUID: pydicom.dcmread(path) for path in source.series.files}
    for kind, value in (("seg_consensus", 1), ("seg_confidence", 0.6)):
        # By pydicom and DICOM's equation alone, frame by frame.
        seg = pydicom.dcmread(folder / names[kind])
        frames = highdicom.seg.segread(folder / names[kind]).get_pixels_by_source_instance
        shared = seg.SharedFunctionalGroupsSequence[0]
        orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
        spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float)
        pixels = seg.pixel_array.reshape(-1, *SHAPE[1:])
        found = set()
        for plane, group in zip(pixels, seg.PerFrameFunctionalGroupsSequence, strict=True):
            corner = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
            for row, column in zip(*np.nonzero(plane), strict=True):
                point = corner + row * spacing[0] * orientation[3:] + column * spacing[1] * orientation[:3]
                found.add(tuple(np.round(point, 2) + 0.0))
            # The frame's source is the slice at the same place.
            reference = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
            np.testing.assert_allclose(np.array(files[reference].ImagePositionPatient, float), corner, atol=1e-4)
        assert found == expected
        # By highdicom, against the slices of the series in any order.
        uids = [str(uid) for uid in files if uid in _referenced(seg)]
        stack = frames(source_sop_instance_uids=uids, rescale_fractional=True)[..., 0]
        assert {float(v) for v in np.unique(stack)} <= {0.0, float(np.float32(value))}
        for uid, plane in zip(uids, stack, strict=True):
            hounsfield = files[uid].pixel_array.astype(int) - 1024
            np.testing.assert_array_equal(plane > 0, hounsfield > -300)


def _referenced(seg) -> set[str]:
    (series,) = seg.ReferencedSeriesSequence
    return {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}


def test_headers_and_codes(written):
    source, _, _, folder, names = written
    first = pydicom.dcmread(source.series.files[0])
    types = {"seg_consensus": ("BINARY", None, 1), "seg_confidence": ("FRACTIONAL", "PROBABILITY", 8)}
    for kind, (segmentation, fractional, bits) in types.items():
        seg = pydicom.dcmread(folder / names[kind])
        assert seg.SegmentationType == segmentation
        assert seg.get("SegmentationFractionalType") == fractional
        assert seg.BitsStored == bits
        for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
            assert seg[keyword].value == first[keyword].value
        assert seg.SeriesInstanceUID != first.SeriesInstanceUID
        (segment,) = seg.SegmentSequence
        codes = [
            segment.SegmentedPropertyTypeCodeSequence[0],
            segment.SegmentedPropertyCategoryCodeSequence[0],
            segment.AnatomicRegionSequence[0],
        ]
        assert [(code.CodeValue, code.CodingSchemeDesignator) for code in codes] == [
            ("27925004", "SCT"),
            ("49755003", "SCT"),
            ("39607008", "SCT"),
        ]
        assert segment.SegmentAlgorithmType == "SEMIAUTOMATIC"


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian's dicom3tools) is not installed")
def test_files_conform_to_the_standard(written, tmp_path: Path):
    _, _, _, folder, names = written
    assert set(names) == {"seg_consensus", "seg_confidence", "seg_levels", "map_confidence", "report"}
    for name in names.values():
        dataset = pydicom.dcmread(folder / name)
        if dataset.file_meta.TransferSyntaxUID.is_deflated:
            # dciodvfy does not inflate files.
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.save_as(tmp_path / name)
        done = subprocess.run(["dciodvfy", "-new", str(tmp_path / name)], capture_output=True, text=True, timeout=60)
        assert [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")] == []


def _write(folder: Path, nodules: list[SegmentedNodule], slices: int = 4, **changes) -> dict[str, Path]:
    series = write_series(folder / "series", np.zeros((slices, 8, 10), np.int16))
    names = DicomWriter(open_input(series, 1), {**RECORD, **changes}).write(nodules, folder, "a")
    return {kind: folder / name for kind, name in names.items()}


def _nodule(start: int, depth: int, value: float) -> SegmentedNodule:
    confidence = np.zeros((10, 8, depth), np.float32)
    confidence[2:5, 3:6] = value
    return SegmentedNodule(start, confidence >= 0.5, confidence, MEASURED)


def test_several_nodules_are_segments_of_one_file(tmp_path: Path):
    """The second one overlaps the first in a slice; the slice between them and the third is not referred to."""
    paths = _write(tmp_path, [_nodule(0, 2, 0.8), _nodule(1, 1, 0.6), _nodule(4, 1, 1.0)], slices=6)
    seg = highdicom.seg.segread(paths["seg_consensus"])
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["Nodule 1", "Nodule 2", "Nodule 3"]
    pairs = [
        (
            float(group.PlanePositionSequence[0].ImagePositionPatient[2]),
            group.SegmentIdentificationSequence[0].ReferencedSegmentNumber,
        )
        for group in seg.PerFrameFunctionalGroupsSequence
    ]
    assert sorted(pairs) == [(10.0, 1), (12.0, 1), (12.0, 2), (18.0, 3)]
    assert len(_referenced(seg)) == 3
    report = highdicom.sr.srread(paths["report"])
    assert len(report.content.get_volumetric_roi_measurement_groups()) == 3


def test_levels_are_nested_and_for_viewers_without_fractions(tmp_path: Path):
    confidence = np.zeros((10, 8, 2), np.float32)
    # Shares of ten samples in a row: 0.1, 0.2 … 1.
    confidence[:, 3, 1] = np.arange(1, 11, dtype=np.float32) / 10
    nodule = SegmentedNodule(0, confidence >= 0.5, confidence, MEASURED)
    paths = _write(tmp_path, [nodule, _nodule(3, 1, 0.6)], num_samples=10)
    seg = pydicom.dcmread(paths["seg_levels"])
    labels = [segment.SegmentLabel for segment in seg.SegmentSequence]
    assert labels == [f"Nodule {i}, in {percent}% of the samples" for i in (1, 2) for percent in (10, 50, 90)]
    marked = {number: 0 for number in range(1, 7)}
    for plane, group in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        marked[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber] += int(plane.sum())
    # Ten, six and two pixels of the first; nine of the second, which is in 60% of the samples.
    assert marked == {1: 10, 2: 6, 3: 2, 4: 9, 5: 9, 6: 0}
    colours = {tuple(segment.RecommendedDisplayCIELabValue) for segment in seg.SegmentSequence}
    assert len(colours) == 3


def test_map_holds_the_confidence_as_an_image(tmp_path: Path):
    nodules = [_nodule(0, 1, 0.8), _nodule(1, 1, 0.6)]
    map_ = pydicom.dcmread(_write(tmp_path, nodules)["map_confidence"])
    groups = map_.SharedFunctionalGroupsSequence[0]
    mapping = groups.RealWorldValueMappingSequence[0]
    values = map_.pixel_array * mapping.RealWorldValueSlope + mapping.RealWorldValueIntercept
    # 3D Slicer's reader ends without either.
    assert "FloatPixelData" in map_
    assert groups.FrameAnatomySequence[0].AnatomicRegionSequence[0].CodeMeaning == "Lung"
    expected = np.zeros((2, 8, 10))
    expected[:, 3:6, 2:5] = np.reshape([0.8, 0.6], (2, 1, 1))
    places = [
        float(group.PlanePositionSequence[0].ImagePositionPatient[2]) for group in map_.PerFrameFunctionalGroupsSequence
    ]
    np.testing.assert_allclose(values, expected, atol=1e-6)
    # The same reader does not look at the positions of the frames.
    assert places == sorted(places)


def test_compressed_files_are_small_and_decoded_by_others(tmp_path: Path):
    import itk

    series = write_series(tmp_path / "series", np.zeros((4, 512, 512), np.int16))
    confidence = np.zeros((512, 512, 4), np.float32)
    confidence[100:130, 200:240] = 0.6
    nodule = SegmentedNodule(0, confidence >= 0.5, confidence, MEASURED)
    names = DicomWriter(open_input(series, 1), RECORD).write([nodule], tmp_path, "a")
    for kind, bytes_a_voxel in (("seg_confidence", 1), ("map_confidence", 2)):
        assert (tmp_path / names[kind]).stat().st_size < bytes_a_voxel * 4 * 512 * 512 / 20
    # GDCM's decoder, not pydicom's.
    path = str(tmp_path / names["seg_confidence"])
    read = itk.array_from_image(itk.imread(path, itk.UC, imageio=itk.GDCMImageIO.New())).reshape(-1, 512, 512)
    np.testing.assert_array_equal(read, np.broadcast_to(confidence.transpose(2, 1, 0) > 0, read.shape) * 153)


@pytest.mark.skipif(shutil.which("dcmconv") is None, reason="dcmconv (Debian's dcmtk) is not installed")
def test_map_is_decompressed_by_dcmtk(tmp_path: Path):
    path = _write(tmp_path, [_nodule(0, 2, 0.8)])["map_confidence"]
    subprocess.run(["dcmconv", "+te", str(path), str(tmp_path / "plain.dcm")], check=True, timeout=60)
    plain = pydicom.dcmread(tmp_path / "plain.dcm")
    assert plain.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    values = np.frombuffer(plain.FloatPixelData, "<f4")
    np.testing.assert_allclose(values[values > 0], [0.8] * 2 * 9)


@pytest.mark.skipif(shutil.which("paramap2itkimage") is None, reason="dcmqi (pip install dcmqi) is not installed")
def test_results_are_read_by_slicers_own_reader(tmp_path: Path):
    paths = _write(tmp_path, [_nodule(0, 1, 0.8), _nodule(1, 1, 0.6)])
    shares = np.zeros((2, 8, 10))
    shares[:, 3:6, 2:5] = np.reshape([0.8, 0.6], (2, 1, 1))
    for command, name, image, expected in (
        ("segimage2itkimage", "seg_consensus", "2.nrrd", 2 * (shares == 0.6)),
        ("paramap2itkimage", "map_confidence", "pmap.nrrd", shares),
    ):
        folder = tmp_path / name
        folder.mkdir()
        options = ["--inputDICOM", str(paths[name]), "--outputDirectory", str(folder)]
        subprocess.run([command, *options], check=True, timeout=60)
        found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(folder / image))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_same_weights_are_the_same_device(tmp_path: Path):
    def device(name: str, **changes) -> str:
        (tmp_path / name).mkdir()
        report = pydicom.dcmread(_write(tmp_path / name, [_nodule(0, 1, 0.8)], **changes)["report"])
        (uid,) = [item.UID for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "121012"]
        return uid

    assert device("a") == device("b") != device("c", weights_sha256="cd" * 32)


@pytest.mark.parametrize("number", [3, 5, 16, 32, 300])
def test_shares_of_samples_are_exact(tmp_path: Path, number: int):
    share = (number - 1) / number
    paths = _write(tmp_path, [_nodule(0, 1, share)], num_samples=number)
    seg = highdicom.seg.segread(paths["seg_confidence"])
    value = seg.pixel_array.max() / seg.MaximumFractionalValue
    assert value == pytest.approx(share, abs=1e-9 if number <= 255 else 0.5 / 255)


def test_empty_result_is_a_valid_file(tmp_path: Path):
    paths = _write(tmp_path, [_nodule(1, 3, 0.0)])
    for kind in ("seg_consensus", "seg_confidence"):
        assert pydicom.dcmread(paths[kind]).pixel_array.max() == 0


def test_report_states_the_numbers(tmp_path: Path):
    paths = _write(tmp_path, [_nodule(1, 1, 0.8)])
    report = highdicom.sr.srread(paths["report"])
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    found = {
        (item.name.value, item.derivation.meaning[:3] if item.derivation else None): (item.value, item.unit.value)
        for item in group.get_measurements()
    }
    assert found == {
        ("118565006", None): (101.5, "mm3"),
        ("118565006", "Med"): (105.0, "mm3"),
        ("118565006", "5th"): (91.5, "mm3"),
        ("118565006", "95t"): (118.5, "mm3"),
        ("103339001", None): (6.5, "mm"),
        ("103339001", "Med"): (6.5, "mm"),
        ("103339001", "5th"): (6.05, "mm"),
        ("103339001", "95t"): (6.95, "mm"),
        ("MEAN-PAIR-IOU", None): (0.75, "1"),
    }
    assert group.finding_type.value == "27925004"
    assert group.reference_type.value == "121191"  # Referenced Segment
    seg = pydicom.dcmread(paths["seg_consensus"])
    assert group.referenced_segment.referenced_sop_instance_uid == seg.SOPInstanceUID
    assert group.tracking_uid == seg.SegmentSequence[0].TrackingUID


def _code(item: pydicom.Dataset) -> str:
    return item.ConceptNameCodeSequence[0].CodeValue


@pytest.mark.parametrize("complete", [True, False])
def test_remarks_and_parts_are_told(tmp_path: Path, complete: bool):
    measured = {**MEASURED, "complete": complete, "notes": ["The scan ends.", "All else is background."]}
    measured["volume_mm3"] = {**MEASURED["volume_mm3"], "interval": None}
    nodule = _nodule(1, 1, 0.8)
    paths = _write(tmp_path, [SegmentedNodule(nodule.start, nodule.consensus, nodule.confidence, measured)])
    report = pydicom.dcmread(paths["report"])
    assert report.CompletionFlag == ("COMPLETE" if complete else "PARTIAL")
    (measurements,) = [item for item in report.ContentSequence if _code(item) == "126010"]
    (group,) = measurements.ContentSequence
    (comment,) = [item for item in group.ContentSequence if _code(item) == "121106"]
    assert comment.TextValue == "The scan ends. All else is background."
    # No percentile of the volume; those of the diameter stay.
    assert sum(_code(item) == "118565006" for item in group.ContentSequence) == 2
    assert sum(_code(item) == "103339001" for item in group.ContentSequence) == 4
    (segment,) = pydicom.dcmread(paths["seg_consensus"]).SegmentSequence
    assert segment.SegmentDescription == comment.TextValue


def test_series_without_a_frame_of_reference(tmp_path: Path):
    series = write_series(tmp_path / "series", np.zeros((3, 8, 10), np.int16))
    path = sorted(series.iterdir())[1]
    header = pydicom.dcmread(path)
    del header.FrameOfReferenceUID
    header.save_as(path)
    with pytest.raises(InputError, match=rf"{path.name}: no FrameOfReferenceUID.*Fix the series\.$"):
        DicomWriter(open_input(series, 1), RECORD)


def test_without_highdicom_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    series = write_series(tmp_path / "series", np.zeros((3, 8, 10), np.int16))
    monkeypatch.setattr(Extra, "is_installed", lambda self: False)
    with pytest.raises(InputError, match=r"pip install 'medseglatdiff_monai\[dicom\]'\.$"):
        DicomWriter(open_input(series, 1), RECORD)
