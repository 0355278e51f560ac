"""Opening inputs: what is told about them, and every kind of damage."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from tiny_dicom import CORNER_MM, make_ct, write_series

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.io import DicomInput, NiftiInput, RasterInput, open_input


@pytest.fixture
def ct() -> np.ndarray:
    return make_ct(slices=5, rows=20, columns=24)


def test_series_in_a_parent_folder_beside_an_x_ray(ct: np.ndarray, tmp_path: Path):
    write_series(tmp_path / "patient" / "a", ct)
    write_series(tmp_path / "patient" / "b", ct[:1], modality="DX")
    source = open_input(tmp_path / "patient", 1)
    assert isinstance(source, DicomInput)
    assert (source.stem, source.shape, source.needs_place) == ("patient", (24, 20, 5), True)
    np.testing.assert_array_equal(source.read(0, 5)[0].numpy(), ct.transpose(2, 1, 0))
    np.testing.assert_array_equal(source.read(3, 4)[0, ..., 0].numpy(), ct[3].T)
    # Between slices 1 (z = 12) and 2 (z = 14).
    assert [source.find_slice((0, 0, CORNER_MM[2] + z)) for z in (0.0, 2.9, 3.1, 99.0)] == [0, 1, 2, 4]


def test_several_series_are_listed(ct: np.ndarray, tmp_path: Path):
    write_series(tmp_path / "a", ct, uid="1.2.3.1")
    write_series(tmp_path / "b", ct[:3], uid="1.2.3.2")
    with pytest.raises(InputError, match=r"2 CT series, expected one.*1\.2\.3\.1\), 5 slices.*1\.2\.3\.2\), 3 slices"):
        open_input(tmp_path, 1)


def test_missing_and_doubled_slices(ct: np.ndarray, tmp_path: Path):
    write_series(tmp_path / "gap", ct)
    (tmp_path / "gap" / "42.dcm").unlink()
    with pytest.raises(InputError, match=r"1 slice\(s\) missing between 12\.00 and 16\.00 mm"):
        open_input(tmp_path / "gap", 1)
    write_series(tmp_path / "twice", ct, uid="1.2.3.4")
    (tmp_path / "twice" / "copy.dcm").write_bytes((tmp_path / "twice" / "13.dcm").read_bytes())
    with pytest.raises(InputError, match=r"two slices at 16\.00 mm.*13\.dcm and copy\.dcm; expected one"):
        open_input(tmp_path / "twice", 1)


def test_truncated_and_foreign_dicom(ct: np.ndarray, tmp_path: Path):
    folder = write_series(tmp_path / "cut", ct)
    whole = (folder / "00.dcm").read_bytes()
    (folder / "00.dcm").write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"00\.dcm: truncated DICOM"):
        open_input(folder, 1)
    (folder / "00.dcm").write_bytes(b"no DICOM at all")
    with pytest.raises(InputError, match=r"00\.dcm: unreadable DICOM"):
        open_input(folder, 1)
    with pytest.raises(InputError, match=r"00\.dcm: a single DICOM file; give the folder"):
        open_input(folder / "00.dcm", 1)


def test_empty_folder_and_other_modality(ct: np.ndarray, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no DICOM file in it"):
        open_input(tmp_path / "empty", 1)
    write_series(tmp_path / "mr", ct, modality="MR")
    with pytest.raises(InputError, match="modality MR; expected CT"):
        open_input(tmp_path / "mr", 1)


@pytest.mark.parametrize(
    ("mode", "channels", "message"),
    [
        ("RGB", 1, r"3 channels \(mode RGB\); the bundle expects one grey channel.*convert\('L'\)"),
        ("RGBA", 1, r"4 channels \(mode RGBA\)"),
        ("RGBA", 3, r"4 channels \(mode RGBA\); the bundle expects three channels.*convert\('RGB'\)"),
        ("L", 3, r"1 channel \(mode L\); the bundle expects three channels"),
        ("LA", 1, r"2 channels \(mode LA\)"),
        ("P", 3, r"a palette image"),
        ("1", 1, r"a black-and-white image"),
    ],
)
def test_wrong_channels(tmp_path: Path, mode: str, channels: int, message: str):
    Image.new(mode, (8, 6)).save(tmp_path / "image.png")
    with pytest.raises(InputError, match=r"image\.png: " + message):
        open_input(tmp_path / "image.png", channels)


def test_pictures(tmp_path: Path):
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    Image.fromarray(grey).save(tmp_path / "scan.8.png")
    source = open_input(tmp_path / "scan.8.png", 1)
    assert isinstance(source, RasterInput)
    assert (source.stem, source.size) == ("scan.8", (6, 8))
    np.testing.assert_array_equal(source.read_plane()[0].numpy(), grey)
    Image.fromarray(grey.astype(np.uint16) * 1000).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(open_input(tmp_path / "deep.png", 1).read_plane()[0].numpy(), grey * 1000.0)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    with pytest.raises(InputError, match=r"cut\.png: unreadable or truncated image"):
        open_input(tmp_path / "cut.png", 1)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"notes\.txt: unknown format"):
        open_input(tmp_path / "notes.txt", 1)


def test_a_picture_is_decoded_once_and_not_mistaken_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda path, **options: opened.append(path) or original(path, **options))
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    for number, path in enumerate((first, second)):
        Image.fromarray(np.full((4, 5), number, np.uint8)).save(path)
    one = open_input(first, 1)
    assert float(one.read_plane().max()) == 0
    assert opened == [first]
    two = open_input(second, 1)
    assert (float(one.read_plane().max()), float(two.read_plane().max())) == (0, 1)
    # Opened again, it is what the file holds now.
    Image.fromarray(np.full((4, 5), 7, np.uint8)).save(second)
    assert float(open_input(second, 1).read_plane().max()) == 7


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_truncated_nifti(tmp_path: Path, suffix: str):
    path = tmp_path / f"scan{suffix}"
    voxels = np.random.default_rng(0).integers(0, 1000, (20, 20, 6)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    source = open_input(path, 1)
    assert isinstance(source, NiftiInput)
    np.testing.assert_array_equal(source.read(2, 4)[0].numpy(), voxels[..., 2:4])
    np.testing.assert_array_equal(source.read(2, 4).affine[:3, 3], [0, 0, 2])
    content = path.read_bytes()
    # The end is cut off, beyond the slice that one may want.
    path.write_bytes(content[:-200])
    with pytest.raises(InputError, match=rf"scan{suffix}: unreadable or truncated NIfTI"):
        open_input(path, 1)
    if suffix == ".nii.gz":
        path.write_bytes(gzip.compress(gzip.decompress(content)[:-200]))
        with pytest.raises(InputError, match="expected 5152"):
            open_input(path, 1)


def test_nifti_that_is_no_image(tmp_path: Path):
    for shape, message in (((4, 4, 4, 2), r"shape \(4, 4, 4, 2\); expected a 2D slice"), ((9,), r"shape \(9,\)")):
        nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), tmp_path / "a.nii.gz")
        with pytest.raises(InputError, match=message):
            open_input(tmp_path / "a.nii.gz", 1)
    colours = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), tmp_path / "rgb.nii.gz")
    with pytest.raises(InputError, match=r"rgb\.nii\.gz: voxels of type.*one number per voxel"):
        open_input(tmp_path / "rgb.nii.gz", 1)
    with pytest.raises(InputError, match="a NIfTI holds one channel; the bundle expects three"):
        open_input(tmp_path / "rgb.nii.gz", 3)
