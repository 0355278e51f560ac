"""Which images a path stands for: a folder of pictures, or one series of DICOM files."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.io.formats import list_inputs


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def test_pictures_of_a_folder_come_in_order_without_what_predict_wrote(tmp_path: Path) -> None:
    pictures = ("b.png", "a.JPG", "c.jpeg", "d_panel.png")
    written = ("b_consensus.png", "b_confidence.png", "b_panel.png", "b_samples.npz", "b_prediction.json")
    touch(tmp_path, *pictures, *written, ".hidden.png", "notes.txt", "deeper/e.png")
    assert [path.name for path in list_inputs(tmp_path)] == ["a.JPG", "b.png", "c.jpeg", "d_panel.png"]
    assert list_inputs(tmp_path / "b.png") == [tmp_path / "b.png"]


@pytest.mark.parametrize("name", ["1.dcm", "deep/below/0001"])
def test_a_series_stays_one_input(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name, "notes.txt", "deep/preview.png")
    (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    assert list_inputs(tmp_path) == [tmp_path]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), r"holds neither pictures \(\.png, \.jpg, \.jpeg\) nor DICOM files; found no file"),
        (("a.nii.gz",), r"found a\.nii\.gz\. Give the folder that holds them itself; NIfTI files are given one by one"),
        (("a.txt", "b", "c", "d", "e"), r"found a\.txt, b, c and 2 more"),
        (("a.png", "series/1.dcm"), r"holds pictures \(a\.png\) and DICOM files \(series/1\.dcm\); expected one kind"),
    ],
)
def test_a_folder_of_neither_or_both_is_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    touch(tmp_path, *names)
    with pytest.raises(InputError, match=message):
        list_inputs(tmp_path)


def test_a_picture_behind_a_broken_link_is_not_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"b\.png: a link to nothing; expected pictures"):
        list_inputs(tmp_path)
