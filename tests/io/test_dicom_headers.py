"""What DICOM files may say: whatever ITK would misread is refused before it sees the file."""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian
from tiny_dicom import make_ct, write_series

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.io import open_input
from medseglatdiff_monai.io.dicom_headers import read_header
from medseglatdiff_monai.io.dicom_series import check_ct, find_series


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """Three slices, 00.dcm to 42.dcm from the feet, with a header of texts that can be replaced byte by byte."""
    folder = write_series(tmp_path / "series", make_ct(slices=3, rows=20, columns=24), uid="1.2.3.4")
    for path in sorted(folder.iterdir()):
        change(path, NumberOfFrames=1, SpacingBetweenSlices="2.0")
    return folder


def change(path: Path, **values: object) -> None:
    """Set attributes of a file; ``None`` removes one."""
    image = pydicom.dcmread(path)
    for name, value in values.items():
        if value is None:
            delattr(image, name)
        else:
            setattr(image, name, value)
    image.save_as(path)


def change_syntax(path: Path) -> None:
    image = pydicom.dcmread(path)
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    image.save_as(path)


def replace(old: bytes, new: bytes) -> Callable[[Path], None]:
    """What no library would write."""

    def write(path: Path) -> None:
        content = path.read_bytes()
        assert content.count(old) == 1
        assert len(old) == len(new)
        path.write_bytes(content.replace(old, new))

    return write


def setting(**values: object) -> Callable[[Path], None]:
    return lambda path: change(path, **values)


FRAMES = b"\x28\x00\x08\x00IS\x02\x00"
DAMAGES = {
    "monochrome1": (setting(PhotometricInterpretation="MONOCHROME1"), "is MONOCHROME1; expected MONOCHROME2"),
    "palette": (setting(PhotometricInterpretation="PALETTE COLOR"), "'PALETTE COLOR'; expected MONOCHROME2"),
    "no kind": (setting(PhotometricInterpretation=None), "PhotometricInterpretation is ''"),
    "samples": (setting(SamplesPerPixel=3), r"SamplesPerPixel is 3; expected 1, a grey image"),
    "no spacing": (setting(PixelSpacing=None), "PixelSpacing is absent; expected two positive numbers"),
    "one spacing": (setting(PixelSpacing="0.5"), "PixelSpacing is '?0.5'?; expected two positive numbers"),
    "zero spacing": (setting(PixelSpacing=["0", "0.75"]), "PixelSpacing is .*0.*; expected two positive numbers"),
    "negative spacing": (setting(PixelSpacing=["-0.5", "0.75"]), "PixelSpacing is .*-0.5.*; expected two positive"),
    "text as spacing": (replace(b"0.5\\0.75", b"one\\0.75"), r"PixelSpacing is .*one.*; expected two positive"),
    "other spacing": (setting(PixelSpacing=["0.5", "0.5"]), r"PixelSpacing \[0\.5, 0\.5\]; expected \[0\.5, 0\.75\]"),
    "text as position": (replace(b"-50.0\\-40", b"south\\-40"), "ImagePositionPatient is .*south.*; expected three"),
    "no number as position": (replace(b"-50.0\\-40", b"  nan\\-40"), "ImagePositionPatient is .*nan.*; expected"),
    "no position": (setting(ImagePositionPatient=None), "ImagePositionPatient is absent; expected three numbers"),
    "long directions": (setting(ImageOrientationPatient=[2, 0, 0, 0, 2, 0]), "expected two directions of length 1"),
    "oblique directions": (
        setting(ImageOrientationPatient=[1, 0, 0, 0.6, 0.8, 0]), "expected two directions of length 1 at a right",
    ),
    "other direction": (setting(ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), r"expected \[1\.0, 0\.0, 0\.0, 0\.0, 1"),
    "other patient": (setting(PatientID="OTHER"), "PatientID differs; expected it as in 00.dcm of"),
    "other study": (setting(StudyInstanceUID="1.2.4"), r"StudyInstanceUID 1\.2\.4; expected 1\.2\.3 as in 00.dcm"),
    "other modality": (setting(Modality="MR"), "Modality MR; expected CT as in 00.dcm"),
    "more bits than room": (setting(BitsAllocated=8), "BitsAllocated 8, BitsStored 16, HighBit 15; expected"),
    "half the bits": (setting(BitsAllocated=8, BitsStored=8, HighBit=7), "960 bytes of pixels; expected 480 for 20x24"),
    "high bit": (setting(BitsStored=12), "BitsAllocated 16, BitsStored 12, HighBit 15; expected"),
    "rows": (setting(Rows=40), "960 bytes of pixels; expected 1920 for 40x24"),
    "text as frames": (replace(FRAMES + b"1 ", FRAMES + b"ab"), "NumberOfFrames is 'ab'; expected one slice per file"),
    "frames": (setting(NumberOfFrames=2), "NumberOfFrames is .*2.*; expected one slice per file"),
    "no slope": (setting(RescaleSlope="0"), "RescaleSlope is .*0.*; expected a number other than 0"),
    "no intercept": (setting(RescaleIntercept=None), "RescaleIntercept is absent; expected a number"),
    "no name": (setting(SOPInstanceUID=None), "no SOPInstanceUID; expected the slice's own"),
    "unknown syntax": (
        replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.9.9\0"), r"transfer syntax 1\.2\.840\.10008\.1\.9\.9; exp",
    ),
    "deflated": (change_syntax, r"transfer syntax 1\.2\.840\.10008\.1\.2\.1\.99; expected one that ITK reads"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_grey_slice_with_a_place_is_refused(series: Path, damage: str):
    write, message = DAMAGES[damage]
    write(series / "71.dcm")
    with pytest.raises(InputError, match=r"71\.dcm: .*" + message):
        open_input(series, 1)
    # A command that goes over many series, as `prepare lidc --keep-going` does, can leave this one out.
    (found,) = find_series(series)
    with pytest.raises(InputError, match=message):
        check_ct(found)


def test_the_first_file_is_the_one_that_differs(series: Path):
    change(series / "00.dcm", Modality="MR")
    with pytest.raises(InputError, match=r"00\.dcm: Modality MR; expected CT as in 42\.dcm"):
        open_input(series, 1)


def test_the_fault_of_another_modality_does_not_matter(series: Path, tmp_path: Path):
    other = write_series(tmp_path / "beside", make_ct(slices=1, rows=8, columns=8), modality="DX")
    for path in other.iterdir():
        change(path, PhotometricInterpretation="MONOCHROME1", PixelSpacing=None, ImagePositionPatient=None)
    assert open_input(tmp_path, 1).shape == (24, 20, 3)


def test_implicit_files_and_odd_numbers_of_bytes_are_read(tmp_path: Path):
    ct = make_ct(slices=2, rows=5, columns=7)
    folder = write_series(tmp_path / "series", ct)
    for path in folder.iterdir():
        image = pydicom.dcmread(path)
        image.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        image.save_as(path, implicit_vr=True, little_endian=True)
    np.testing.assert_array_equal(open_input(folder, 1).read(0, 2)[0].numpy(), ct.transpose(2, 1, 0))
    for path in folder.iterdir():
        change(
            path, BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0, PixelData=bytes(range(35)) + b"\0"
        )
    values = open_input(folder, 1).read(0, 1)[0, ..., 0].numpy()
    np.testing.assert_array_equal(values.T, np.arange(35).reshape(5, 7) - 1024)


def test_pixels_beyond_the_stated_bits(series: Path):
    image = pydicom.dcmread(series / "71.dcm")
    stored = np.frombuffer(image.PixelData, "<i2") - np.int16(400)
    assert stored.min() < -1  # some are negative: the bits above hold their sign
    change(series / "71.dcm", BitsStored=12, HighBit=11, PixelData=stored.tobytes())
    volume = open_input(series, 1).read(1, 2)
    np.testing.assert_array_equal(volume[0, ..., 0].numpy().T.ravel(), stored - 1024)
    stored[7] = 4000
    change(series / "71.dcm", PixelData=stored.tobytes())
    with pytest.raises(InputError, match=r"71\.dcm: pixels need more than the 12 bits that BitsStored states"):
        open_input(series, 1).read(1, 2)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_damaged_bytes_end_in_a_message(tmp_path: Path):
    folder = write_series(tmp_path / "series", make_ct(slices=1, rows=6, columns=8))
    (path,) = folder.iterdir()
    whole, rng = path.read_bytes(), random.Random(0)
    found = Counter()
    for _ in range(400):
        content = bytearray(whole)
        place = rng.randrange(132, len(content) - 96)
        if rng.random() < 0.7:
            content[place] = rng.randrange(256)
        else:
            del content[place : place + rng.randrange(1, 9)]
        path.write_bytes(content)
        try:
            header = read_header(path)
        except InputError as error:
            found["refused" if str(path) in str(error) else "without a name"] += 1
        else:
            found["fault" if header.fault else "fine"] += 1
    # Most bytes of a header matter.
    assert min(found["refused"], found["fault"]) > 50
    assert found["fine"] > 10
    assert not found["without a name"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_and_broken_links(series: Path):
    os.mkfifo(series / "pipe")
    with pytest.raises(InputError, match="pipe: no regular file; expected DICOM files"):
        open_input(series, 1)
    (series / "pipe").unlink()
    (series / "IM0001").symlink_to(series / "nothing")
    with pytest.raises(InputError, match="IM0001: a link to nothing; expected DICOM files"):
        open_input(series, 1)
    (series / "IM0001").unlink()
    # A link to a slice is as good as the slice.
    (series / "00.dcm").rename(series.parent / "elsewhere")
    (series / "IM0001").symlink_to(series.parent / "elsewhere")
    assert open_input(series, 1).shape[2] == 3


@pytest.mark.parametrize(
    ("distance_mm", "thickness_mm", "fine"),
    [(15.0, "2", False), (15.0, "", False), (5.0, "2.5", True), (1.0, "5", True), (10.0, "0", True), (2.0, "", True)],
)
def test_slices_too_far_apart_for_a_volume(tmp_path: Path, distance_mm: float, thickness_mm: str, fine: bool):
    folder = write_series(tmp_path / "series", make_ct(slices=2, rows=8, columns=8), (0.5, 0.75, distance_mm))
    for path in folder.iterdir():
        change(path, SliceThickness=thickness_mm)
    if fine:
        assert open_input(folder, 1).shape[2] == 2
        return
    with pytest.raises(InputError, match=re.escape(f"slices {distance_mm:.2f} mm apart")):
        open_input(folder, 1)
