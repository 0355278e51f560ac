"""``dataset.json`` of somebody else: what it may not hold is one error that names file and place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from small_runs import LUNG, write_prepared

from medseglatdiff_monai.data.datalist import load_datalist, load_dataset_info
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.io.prepared import LoadCased


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "discs", LUNG, training=2, validation=1)


def item(**changes: Any) -> Callable[[dict], Any]:
    """Change keys of the second training item."""
    return lambda info: info["training"][1].update(changes)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (item(case="../../x"), r"training\[1\]\.case is '\.\./\.\./x'; expected a name for files: at most 200"),
        (item(case="x" * 201), r"training\[1\]\.case is 'x+ \.\.\.; expected a name for files"),
        (item(case=7), r"training\[1\]\.case is 7; expected a valid string"),
        (item(image=["a.png", "b.png"]), r"training\[1\]\.image is \['a\.png', 'b\.png'\]; expected a valid string"),
        (item(image="/etc/passwd"), r"training\[1\]\.image is '/etc/passwd'; expected a path below the folder"),
        (item(image="images/../../x.png"), r"training\[1\]\.image is .*; expected a path below the folder"),
        (item(label="C:\\masks\\x.nii.gz"), r"training\[1\]\.label is .*; expected a path below the folder"),
        (item(spacing_mm="1"), r"training\[1\]\.spacing_mm is '1'; expected a valid list"),
        (item(spacing_mm=[0.7, 0]), r"training\[1\]\.spacing_mm\[1\] is 0; expected greater than 0"),
        (item(group=None), r"training\[1\]\.group is None; expected a valid string"),
        (lambda info: info["training"][1].pop("case"), r"training\[1\]\.case is missing"),
        (lambda info: info["training"].append("x.png"), r"training\[2\] is 'x\.png'; expected keys and values"),
        (lambda info: info.update(validation={"a": 1}), r"validation is \{'a': 1\}; expected a valid list"),
        (lambda info: info.update(num_channels="1"), r"num_channels is '1'; expected a valid integer"),
        (lambda info: info.update(num_raters=True), r"num_raters is True; expected a valid integer"),
        (lambda info: info.update(num_raters=0), r"num_raters is 0; expected greater than or equal to 1"),
        (lambda info: info.update(labels=["disc"]), r"labels is \['disc'\]; expected a valid dictionary"),
    ],
)
def test_malformed_file_is_one_error(
    spoil: Callable[[dict], Any], message: str, prepared: Path, tmp_path: Path
) -> None:
    info = json.loads((prepared / "dataset.json").read_text())
    spoil(info)
    (tmp_path / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match=rf"dataset\.json: {message}"):
        load_datalist(tmp_path, "training")


def test_a_list_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("[]")
    with pytest.raises(InputError, match=r"dataset\.json: the content is \[\]; expected keys and values"):
        load_dataset_info(tmp_path)


@pytest.mark.parametrize("linked", ["images/case-0.png", "images"])
def test_links_out_of_the_folder_are_refused_and_links_inside_are_not(linked: str, tmp_path: Path) -> None:
    folder = write_prepared(tmp_path / "discs", LUNG, training=2, validation=1)
    moved = (folder / linked).rename(folder / "moved")
    (folder / linked).symlink_to(moved)
    assert len(load_datalist(folder, "training")) == 2
    (folder / linked).unlink()
    (folder / linked).symlink_to(moved.rename(tmp_path / "elsewhere"))
    with pytest.raises(InputError, match=r"images/case-0\.png is a link that leads out of"):
        load_datalist(folder, "training")


def test_the_folder_itself_may_be_a_link(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(prepared)
    assert len(load_datalist(tmp_path / "link", "training")) == 2


def test_cases_with_other_raters_or_channels_are_refused(tmp_path: Path) -> None:
    folder = write_prepared(tmp_path / "discs", LUNG, training=2, validation=1)
    load = LoadCased()
    first, second = load_datalist(folder, "training")
    assert not {"num_raters", "num_channels"} & load(first).keys()
    nibabel.Nifti1Image(np.zeros((128, 128, 3), np.uint8), np.eye(4)).to_filename(second["label"])
    with pytest.raises(InputError, match=r"case-1\.nii\.gz: holds 3 raters' masks; expected 4"):
        load(second)
    nibabel.Nifti1Image(np.zeros((128, 128, 4), np.uint8), np.eye(4)).to_filename(second["label"])
    (folder / "images" / "case-0.png").unlink()
    (folder / "images" / "case-0.png").write_bytes(Path(second["image"]).read_bytes())
    load(first)
    with pytest.raises(InputError, match=r"holds 1 channels; expected 3"):
        load({**second, "num_channels": 3})
