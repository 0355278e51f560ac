"""The engine of `prepare` and the sources, on synthetic folders and on a few real files."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medseglatdiff_monai.bundle.folders import bundles_dir
from medseglatdiff_monai.command_help import describe_source
from medseglatdiff_monai.data.prepare import prepare
from medseglatdiff_monai.data.sources.cvc import CVCSource
from medseglatdiff_monai.data.sources.folder import FolderSource
from medseglatdiff_monai.data.sources.images import read_mask
from medseglatdiff_monai.data.sources.source import (
    SOURCES,
    Case,
    LeftOut,
    PreparedCase,
    SourceInfo,
    default_bundle,
    make_source,
    natural_key,
)
from medseglatdiff_monai.data.summary import summarise_dataset
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.io.prepared import LoadCased

HEIGHT, WIDTH = 10, 14


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def make_folder(root: Path, count: int = 6, raters: int = 2, colour: bool = False) -> Path:
    """Images of noise; rater r marks rows from r on in columns from 3 on."""
    generator = np.random.default_rng(0)
    for number in range(count):
        shape = (HEIGHT, WIDTH, 3) if colour else (HEIGHT, WIDTH)
        save(root / "images" / f"p{number // 2}_{number}.png", generator.integers(0, 256, shape, dtype=np.uint8))
        for rater in range(raters):
            mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
            mask[rater:5, 3:] = 255
            save(root / f"masks-{rater}" / f"p{number // 2}_{number}.png", mask)
    return root


def read_dataset(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def list_items(dataset: dict) -> list[dict]:
    return [item for split in ("training", "validation", "test") for item in dataset[split]]


def read_tree(folder: Path) -> dict[str, bytes]:
    """All files of a prepared folder but the journal, whose order is that of the workers."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".prepare.jsonl")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def assert_no_leftovers(output: Path) -> None:
    assert not (output / ".unpacked").exists()
    assert not list(output.rglob(".tmp-*"))
    assert not (output / "dataset.json").exists()


# -- what is written ---------------------------------------------------------------------------------------------------


def test_prepared_folder_holds_what_the_contract_says(tmp_path):
    src = make_folder(tmp_path / "mine")
    path = prepare("folder", src, output_dir=tmp_path / "out", group_pattern=r"^(p\d+)_", workers=1, ratios="1:1:1")
    assert path == tmp_path / "out" / "dataset.json"
    dataset = read_dataset(path)
    assert (dataset["num_channels"], dataset["num_raters"], dataset["source"]) == (1, 2, "folder")
    assert dataset["consensus"] == {"level": 0.5, "tie": "foreground"}
    assert dataset["split"] == {"method": "ratios", "ratios": "1:1:1", "seed": 0, "group_unit": "group"}
    assert dataset["provenance"]["source"] == "mine"
    assert str(tmp_path) not in path.read_text()
    assert len(list_items(dataset)) == 6
    item = next(item for item in list_items(dataset) if item["case"] == "p1_3")
    assert item == {
        "image": "images/p1_3.png",
        "label": "masks/p1_3.nii.gz",
        "case": "p1_3",
        "group": "p1",
        "spacing_mm": None,
    }
    mask = np.asarray(nibabel.load(tmp_path / "out" / item["label"]).dataobj)
    assert mask.dtype == np.uint8
    assert mask.shape == (HEIGHT, WIDTH, 2)
    assert [int(mask[..., rater].sum()) for rater in range(2)] == [5 * 11, 4 * 11]
    original = np.array(Image.open(src / "images" / "p1_3.png"))
    loaded = LoadCased()({key: str(tmp_path / "out" / item[key]) for key in ("image", "label")})
    np.testing.assert_array_equal(loaded["image"][0].numpy(), original)
    np.testing.assert_array_equal(loaded["label"].numpy(), np.moveaxis(mask, -1, 0))


def test_no_group_is_on_two_sides_and_items_are_in_natural_order(tmp_path):
    src = make_folder(tmp_path / "mine", count=24, raters=1)
    path = prepare("folder", src, output_dir=tmp_path / "out", group_pattern=r"^(p\d+)_", workers=1)
    dataset = read_dataset(path)
    sides = {split: {item["group"] for item in dataset[split]} for split in ("training", "validation", "test")}
    assert [len(sides[split]) for split in sides] == [10, 1, 1]
    assert not sides["training"] & sides["validation"] | sides["training"] & sides["test"]
    assert not sides["validation"] & sides["test"]
    cases = [item["case"] for item in dataset["training"]]
    assert cases == sorted(cases, key=natural_key)
    assert cases != sorted(cases)  # p10_20 sorts after p9_18


def test_two_runs_and_any_number_of_workers_give_the_same_bytes(tmp_path):
    src = make_folder(tmp_path / "mine", colour=True)
    prepare("folder", src, output_dir=tmp_path / "one", workers=1)
    prepare("folder", src, output_dir=tmp_path / "two", workers=2)
    assert read_tree(tmp_path / "one") == read_tree(tmp_path / "two")
    assert read_dataset(tmp_path / "one" / "dataset.json")["num_channels"] == 3
    before = read_tree(tmp_path / "one")
    prepare("folder", src, output_dir=tmp_path / "one", workers=2)
    assert read_tree(tmp_path / "one") == before


@pytest.mark.parametrize("suffix", [".tar", ".tar.xz"])
def test_an_archive_gives_what_its_folder_gives(tmp_path, suffix):
    src = make_folder(tmp_path / "mine")
    archive = tmp_path / f"mine{suffix}"
    with tarfile.open(archive, "w:xz" if suffix.endswith("xz") else "w") as tar:
        tar.add(src, arcname="mine")
    prepare("folder", src, output_dir=tmp_path / "a", workers=1)
    prepare("folder", archive, output_dir=tmp_path / "b", workers=1)
    first, second = read_tree(tmp_path / "a"), read_tree(tmp_path / "b")
    text = first.pop("dataset.json").decode().replace('"source": "mine"', f'"source": "mine{suffix}"')
    assert second.pop("dataset.json").decode() == text
    assert first == second
    assert not (tmp_path / "b" / ".unpacked").exists()


def test_two_dimensional_nifti_is_transposed_with_its_affine(tmp_path):
    # Axis 0 of a NIfTI is x: 3 columns, 2 rows here, 0.5 mm by 2 mm.
    affine = np.diag([-0.5, -2.0, 1.0, 1.0])
    affine[:3, 3] = (10, 20, 30)
    image = np.array([[0, 1], [-1000, 5], [7, 400]], dtype=np.int16)
    for folder, array in (("images", image), ("masks", (image > 6).astype(np.uint8)[..., None])):
        (tmp_path / "mine" / folder).mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "mine" / folder / "a.nii.gz")
    dataset = read_dataset(prepare("folder", tmp_path / "mine", output_dir=tmp_path / "out", workers=1))
    (item,) = list_items(dataset)
    assert item["spacing_mm"] == [2.0, 0.5]
    loaded = LoadCased()({key: str(tmp_path / "out" / item[key]) for key in ("image", "label")})
    assert loaded["image"].tolist() == [[[0, -1000, 7], [1, 5, 400]]]
    assert loaded["label"].tolist() == [[[0, 0, 1], [0, 0, 1]]]
    # Row 1, column 2 is voxel (2, 1) of the file.
    expected = affine @ [2, 1, 0, 1]
    np.testing.assert_allclose(loaded["image"].affine.numpy() @ [1, 2, 0, 1], expected)


def test_split_file_leaves_groups_out_and_counts_them(tmp_path):
    src = make_folder(tmp_path / "mine")
    (tmp_path / "s.csv").write_text("group,split\np0_0,training\np0_1,val\np9_9,test\n")
    path = prepare("folder", src, output_dir=tmp_path / "out", split_file=tmp_path / "s.csv", workers=1)
    dataset = read_dataset(path)
    assert [[item["case"] for item in dataset[s]] for s in ("training", "validation", "test")] == [
        ["p0_0"],
        ["p0_1"],
        [],
    ]
    assert dataset["provenance"]["left_out"] == {"groups absent from the split file": 4}
    assert dataset["split"]["listed_but_absent"] == 1
    assert len(list((tmp_path / "out" / "images").iterdir())) == 2


def test_a_case_may_give_several_prepared_cases_and_leave_some_out(tmp_path, monkeypatch):
    class Slices(FolderSource):
        info = SourceInfo("slices", "CT", "Test.", {"0": "background", "1": "nodule"}, "patient", num_raters=2)

        def read(self, case: Case):
            yield LeftOut("clusters of more than four raters", 2)
            for number in range(2):
                image = np.full((4, 4), -1000 + number, dtype=np.int16)
                yield PreparedCase(
                    f"{case.key}_slice-{number}", image, np.zeros((2, 4, 4), bool), (0.7, 0.7), extra={"slice": number}
                )

    monkeypatch.setattr("medseglatdiff_monai.data.sources.folder.FolderSource", Slices)
    dataset = read_dataset(prepare("folder", make_folder(tmp_path / "m", 3), output_dir=tmp_path / "out", workers=1))
    assert len(list_items(dataset)) == 6
    assert dataset["provenance"]["left_out"] == {"clusters of more than four raters": 6}
    item = dataset["training"][1]
    assert item["slice"] == 1
    assert item["image"].endswith(".nii.gz")
    loaded = LoadCased()({key: str(tmp_path / "out" / item[key]) for key in ("image", "label")})
    assert loaded["image"].shape == (1, 4, 4)
    assert loaded["image"].min() == -999


# -- errors ------------------------------------------------------------------------------------------------------------


def break_missing_mask(src: Path) -> None:
    (src / "masks-1" / "p1_3.png").unlink()


def break_size(src: Path) -> None:
    save(src / "masks-1" / "p1_3.png", np.zeros((HEIGHT, WIDTH + 1), dtype=np.uint8))


def break_truncated(src: Path) -> None:
    path = src / "images" / "p1_3.png"
    path.write_bytes(path.read_bytes()[:60])


def break_label_map(src: Path) -> None:
    save(src / "masks-0" / "p1_3.png", np.full((HEIGHT, WIDTH), 3, dtype=np.uint8))


def break_no_masks(src: Path) -> None:
    for rater in range(2):
        shutil.rmtree(src / f"masks-{rater}")


def break_empty_images(src: Path) -> None:
    shutil.rmtree(src / "images")
    (src / "images").mkdir()


def break_everything(src: Path) -> None:
    shutil.rmtree(src)
    src.mkdir()


def break_kind(src: Path) -> None:
    save(src / "images" / "p1_3.png", np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8))


def break_twice(src: Path) -> None:
    save(src / "images" / "p1_3.bmp", np.zeros((HEIGHT, WIDTH), dtype=np.uint8))


def break_volume(src: Path) -> None:
    (src / "images" / "p1_3.png").unlink()
    nibabel.save(nibabel.Nifti1Image(np.zeros((WIDTH, HEIGHT, 5), np.int16), np.eye(4)), src / "images" / "p1_3.nii.gz")


def test_files_that_are_no_images_are_passed_over_with_a_word(tmp_path, caplog):
    src = make_folder(tmp_path / "mine")
    (src / "images" / "photo.heic").write_bytes(b"ftypheic")
    prepare("folder", src, output_dir=tmp_path / "out", workers=1)
    assert f"{src / 'images'}: passed over 1 file, such as photo.heic; images are .png" in caplog.text


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_missing_mask, r"p1_3\.png: has no mask in .*masks-1; expected p1_3\.png there"),
        (break_size, r"masks-1.p1_3\.png is 15×10 .*images.p1_3\.png is 14×10; expected the same size"),
        (break_truncated, r"images.p1_3\.png: unreadable or truncated image"),
    ],
)
def test_damaged_folders_are_refused_by_file_name_by_any_number_of_workers(tmp_path, damage, message, workers):
    src = make_folder(tmp_path / "mine")
    damage(src)
    with pytest.raises(InputError, match=message):
        prepare("folder", src, output_dir=tmp_path / "out", workers=workers)
    assert_no_leftovers(tmp_path / "out")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_label_map, r"masks-0.p1_3\.png: mask values run up to 3; expected 0 and 1, or 0 and 255"),
        (break_no_masks, r"mine: no masks/ in it; expected masks/, masks-0/"),
        (break_empty_images, r"images: holds no image"),
        (break_everything, r"mine: the folder is empty"),
        (break_kind, r"the cases differ in kind .*1 channel.*3 channel"),
        (break_twice, r"two files of one name"),
        (break_volume, r"p1_3\.nii\.gz: a NIfTI of shape \(14, 10, 5\); expected one 2D slice.*--volumes"),
    ],
)
def test_other_damaged_folders(tmp_path, damage, message):
    src = make_folder(tmp_path / "mine")
    damage(src)
    with pytest.raises(InputError, match=message):
        prepare("folder", src, output_dir=tmp_path / "out", workers=1)
    assert_no_leftovers(tmp_path / "out")


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        ("lidc-slice", {}, r"unknown source 'lidc-slice'\. Did you mean 'lidc-slices'"),
        ("folder", {"seed": 1.5}, r"--seed is 1\.5"),
        ("folder", {"crop": 128}, r"--crop does not concern the source 'folder'"),
        ("folder", {"whole_slice": 128}, r"--whole-slice does not concern"),
        ("lidc-slices", {"crop": 64}, r"--crop 64: the published crops are 128×128; leave --crop out"),
        ("folder", {"group_patern": "x"}, r"--group-patern is no option .*Did you mean '--group-pattern'"),
        ("folder", {"group_pattern": "("}, r"--group-pattern '\(': no regular expression"),
        ("folder", {"group_pattern": "^q"}, r"'\^q' does not match 'p0_0'"),
        ("folder", {"images": "x"}, r"needs --images and --masks together"),
        ("folder", {"workers": 0}, r"--workers is 0"),
        ("folder", {"ratios": "8:1"}, r"--ratios '8:1'"),
        ("folder", {"ratios": "8:1:1", "split_file": "s.csv"}, r"exclude each other"),
        ("isic2018", {}, r"no ISIC_\*\.jpg in it"),
        ("cvc-clinicdb", {}, r"no folder 'Original' in it"),
        ("chase", {}, r"no Image_NNL\.jpg"),
        ("lidc-slices", {}, r"expected the layout of LIDC-IDRI-slices"),
    ],
)
def test_bad_arguments_are_named(tmp_path, source, arguments, message):
    src = make_folder(tmp_path / "mine", count=1)
    with pytest.raises(InputError, match=message):
        prepare(source, src, output_dir=tmp_path / "out", **{"workers": 1, **arguments})
    assert not (tmp_path / "out").exists()


def test_src_must_be_given_and_exist(tmp_path):
    with pytest.raises(InputError, match="'isic2018' needs SRC"):
        prepare("isic2018", output_dir=tmp_path / "out")
    with pytest.raises(InputError, match=r"absent: no such folder or archive"):
        prepare("isic2018", tmp_path / "absent", output_dir=tmp_path / "out")
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"x\.zip: not an archive of the kinds"):
        prepare("isic2018", tmp_path / "x.zip", output_dir=tmp_path / "out")


def test_a_split_file_of_another_data_set_is_refused(tmp_path):
    (tmp_path / "s.csv").write_text("patient,split\nLIDC-IDRI-0001,train\n")
    with pytest.raises(InputError, match=r"none of its 1 groups .*'LIDC-IDRI-0001'"):
        prepare(
            "folder", make_folder(tmp_path / "m"), output_dir=tmp_path / "out", split_file=tmp_path / "s.csv", workers=1
        )
    assert not (tmp_path / "out").exists()


def test_a_truncated_archive_leaves_nothing_behind(tmp_path):
    with tarfile.open(tmp_path / "whole.tar.xz", "w:xz") as tar:
        tar.add(make_folder(tmp_path / "mine"), arcname="mine")
    content = (tmp_path / "whole.tar.xz").read_bytes()
    (tmp_path / "cut.tar.xz").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cut\.tar\.xz: unreadable or truncated archive"):
        prepare("folder", tmp_path / "cut.tar.xz", output_dir=tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_an_archive_cannot_write_outside_its_folder(tmp_path):
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.add(save(tmp_path / "x.png", np.zeros((2, 2), np.uint8)), arcname="../../escaped.png")
    with pytest.raises(InputError, match="points outside the archive"):
        prepare("folder", tmp_path / "evil.tar", output_dir=tmp_path / "deep" / "out", workers=1)
    assert not list(tmp_path.rglob("escaped.png"))


def test_an_output_folder_of_something_else_is_left_alone(tmp_path):
    src = make_folder(tmp_path / "mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"out: is not empty \(it holds 'thesis\.txt'\)"):
        prepare("folder", src, output_dir=tmp_path / "out", workers=1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_images_without_a_group_pattern_are_split_with_a_warning(tmp_path):
    src = make_folder(tmp_path / "mine")
    with pytest.warns(UserWarning, match=r"--group-pattern '\^\(p") as warned:
        dataset = read_dataset(prepare("folder", src, output_dir=tmp_path / "images", workers=1))
    assert len(warned) == 1
    assert len({item["group"] for item in list_items(dataset)}) == 6
    (tmp_path / "s.csv").write_text(
        "group,split\n" + "".join(f"{item['case']},train\n" for item in list_items(dataset))
    )
    with warnings.catch_warnings():
        # Neither with a pattern, be it one that calls every image a patient, nor with a split that the user made.
        warnings.simplefilter("error")
        for number, options in enumerate(
            ({"group_pattern": r"^(p\d+)_"}, {"group_pattern": ".+"}, {"split_file": tmp_path / "s.csv"})
        ):
            prepare("folder", src, output_dir=tmp_path / str(number), workers=1, **options)


def test_an_output_folder_of_another_preparation_is_left_alone(tmp_path, monkeypatch):
    src = make_folder(tmp_path / "mine")
    prepare("folder", src, output_dir=tmp_path / "out", seed=0, workers=1)
    before = read_tree(tmp_path / "out")
    with pytest.raises(InputError, match=r"another preparation \(seed was 0 and is now 1\)"):
        prepare("folder", src, output_dir=tmp_path / "out", seed=1, workers=1)
    with pytest.raises(InputError, match=r"another preparation \(group_pattern was None"):
        prepare("folder", src, output_dir=tmp_path / "out", group_pattern="p", workers=1)
    shutil.copytree(src, tmp_path / "elsewhere" / "mine")
    with pytest.raises(InputError, match=r"another preparation \(of .*elsewhere"):
        prepare("folder", tmp_path / "elsewhere" / "mine", output_dir=tmp_path / "out", workers=1)
    monkeypatch.setattr(sys.modules["medseglatdiff_monai.data.prepare"], "PREPARATION_VERSION", 99)
    with pytest.raises(InputError, match=r"another preparation \(by version 1 of prepare, now 99\)"):
        prepare("folder", src, output_dir=tmp_path / "out", seed=0, workers=1)
    assert read_tree(tmp_path / "out") == before


# -- interruption ------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_is_continued_and_half_written_cases_are_done_again(tmp_path, monkeypatch):
    src = make_folder(tmp_path / "mine")
    prepare("folder", src, output_dir=tmp_path / "whole", workers=1)
    read, seen = FolderSource.read, []

    def read_until_interrupted(self, case):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(case.key)
        return read(self, case)

    output = tmp_path / "out"
    monkeypatch.setattr(FolderSource, "read", read_until_interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare("folder", src, output_dir=output, workers=1)
    assert seen == ["p0_0", "p0_1", "p1_2"]
    assert_no_leftovers(output)
    # What a power cut may leave besides: a cut-off line for p1_3 with its half-written files, an emptied finished file.
    journal = output / ".prepare.jsonl"
    line = journal.read_text().splitlines()[-1].replace("p1_2", "p1_3")
    journal.write_text(journal.read_text() + line[:40])
    (output / "images" / "p1_3.png").write_bytes(b"\x89PNG")
    (output / "masks" / ".tmp-1-p1_3.nii.gz").write_bytes(b"half")
    (output / "masks" / "p0_1.nii.gz").write_bytes(b"")

    again = []
    monkeypatch.setattr(FolderSource, "read", lambda self, case: (again.append(case.key), read(self, case))[1])
    prepare("folder", src, output_dir=output, workers=1)
    assert again == ["p0_1", "p1_3", "p2_4", "p2_5"]
    assert read_tree(output) == read_tree(tmp_path / "whole")


def test_a_repaired_file_is_read_again(tmp_path, monkeypatch):
    src, output = make_folder(tmp_path / "mine"), tmp_path / "out"
    break_kind(src)
    with pytest.raises(InputError, match="differ in kind"):
        prepare("folder", src, output_dir=output, workers=1)
    save(src / "images" / "p1_3.png", np.full((HEIGHT, WIDTH), 7, dtype=np.uint8))
    read, again = FolderSource.read, []
    monkeypatch.setattr(FolderSource, "read", lambda self, case: (again.append(case.key), read(self, case))[1])
    prepare("folder", src, output_dir=output, workers=1)
    assert again == ["p1_3"]
    assert set(np.array(Image.open(output / "images" / "p1_3.png")).ravel()) == {7}


def test_an_archive_that_was_prepared_is_not_read_again(tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "mine.tar", "w") as tar:
        tar.add(make_folder(tmp_path / "mine"), arcname="mine")
    prepare("folder", tmp_path / "mine.tar", output_dir=tmp_path / "out", workers=1)
    before = read_tree(tmp_path / "out")
    monkeypatch.setattr(FolderSource, "read", lambda self, case: pytest.fail(f"{case.key} was read again"))
    prepare("folder", tmp_path / "mine.tar", output_dir=tmp_path / "out", workers=1)
    assert read_tree(tmp_path / "out") == before


def test_an_unexpected_failure_names_the_case_and_keeps_the_finished_ones(tmp_path, monkeypatch):
    src, read = make_folder(tmp_path / "mine"), FolderSource.read

    def fail_late(self, case):
        if case.key == "p1_2":
            yield from read(self, case)
            raise ZeroDivisionError("late")
        yield from read(self, case)

    monkeypatch.setattr(FolderSource, "read", fail_late)
    with pytest.raises(RuntimeError, match="p1_2: ZeroDivisionError: late"):
        prepare("folder", src, output_dir=tmp_path / "out", workers=1)
    assert_no_leftovers(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == ["p0_0.png", "p0_1.png"]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"  # a dead process that nobody has fetched yet does not run


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the worker processes in /proc")
def test_a_killed_run_leaves_no_workers_and_is_continued(tmp_path):
    src = tmp_path / "mine"
    generator = np.random.default_rng(0)
    for number in range(40):
        save(src / "images" / f"{number}.png", generator.integers(0, 256, (300, 300, 3), dtype=np.uint8))
        save(src / "masks" / f"{number}.png", np.zeros((300, 300), dtype=np.uint8))
    prepare("folder", src, output_dir=tmp_path / "whole", workers=1)
    output = tmp_path / "out"
    program = (
        "import sys\nfrom medseglatdiff_monai.data.prepare import prepare\n"
        "if __name__ == '__main__':\n    prepare('folder', sys.argv[1], output_dir=sys.argv[2], workers=2)\n"
    )
    (tmp_path / "program.py").write_text(program)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), str(src), str(output)],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    journal = output / ".prepare.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (journal.exists() and len(journal.read_text().splitlines()) > 3):
        time.sleep(0.005)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert children
    assert len(journal.read_text().splitlines()) < 41, "the run was over before it could be killed"
    deadline = time.monotonic() + 20
    while any(is_running(int(child)) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [child for child in children if is_running(int(child))]
    finished = {path: path.stat().st_mtime_ns for path in (output / "masks").glob("[0-9]*")}
    prepare("folder", src, output_dir=output, workers=1)
    kept = [path for path, stamp in finished.items() if path.stat().st_mtime_ns == stamp]
    assert len(kept) >= 3
    assert read_tree(output) == read_tree(tmp_path / "whole")


# -- the sources on synthetic folders ----------------------------------------------------------------------------------


def test_cvc_is_split_by_sequence_and_cut_above_127(tmp_path):
    mask = np.array([[0, 127], [128, 255]], dtype=np.uint8)
    for frame in (1, 25, 26, 384, 478, 479, 612):
        save(tmp_path / "CVC-ClinicDB" / "PNG" / "Original" / f"{frame}.png", np.zeros((2, 2, 3), np.uint8))
        save(tmp_path / "CVC-ClinicDB" / "PNG" / "Ground Truth" / f"{frame}.png", np.stack([mask] * 3, axis=-1))
    path = prepare("cvc-clinicdb", tmp_path / "CVC-ClinicDB", output_dir=tmp_path / "out", workers=1)
    dataset = read_dataset(path)
    groups = {split: [item["group"] for item in dataset[split]] for split in ("training", "validation", "test")}
    assert groups == {"training": ["1", "1", "2"], "validation": ["19", "23"], "test": ["24", "29"]}
    label = nibabel.load(tmp_path / "out" / dataset["test"][0]["label"])
    assert np.asarray(label.dataobj)[..., 0].tolist() == [[0, 0], [1, 1]]


def test_lidc_is_split_as_published(tmp_path):
    # The published file lists 2 as training, 1 as validation; patients that it leaves out are its test part.
    for patient in (1, 2, 5):
        nodule = tmp_path / "LIDC-IDRI-slices" / f"LIDC-IDRI-000{patient}" / "nodule-0"
        save(nodule / "images" / "slice-0.png", np.zeros((128, 128), np.uint8))
        for slot in range(4):
            save(nodule / f"mask-{slot}" / "slice-0.png", np.zeros((128, 128), np.uint8))
    path = prepare("lidc-slices", tmp_path / "LIDC-IDRI-slices", output_dir=tmp_path / "out", workers=1)
    dataset = read_dataset(path)
    groups = {split: [item["group"][-1] for item in dataset[split]] for split in ("training", "validation", "test")}
    assert groups == {"training": ["2"], "validation": ["1"], "test": ["5"]}
    listed = make_source("lidc")[0].default_split([f"LIDC-IDRI-{number:04d}" for number in range(1, 1013)])
    assert [list(listed.values()).count(part) for part in ("training", "validation")] == [526, 175]


def test_summary_says_who_outlined_and_how_far_they_agree(tmp_path):
    src = make_folder(tmp_path / "mine")
    save(src / "masks-1" / "p0_0.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    path = prepare("folder", src, output_dir=tmp_path / "out", group_pattern=r"^(p\d+)_", workers=1, ratios="2:1:0")
    # Three training pairs share 44 of 55 and 44 pixels, and in the fourth a rater saw nothing: (3 * 88 / 99 + 0) / 4.
    assert summarise_dataset(path) == [
        "6 cases of 3 groups, 1 channel; 2 raters (masks-0, masks-1)",
        "training 4 (2 groups), validation 2 (1 group), test 0 (0 groups)",
        "12% of the masks are empty; raters agree with Dice 0.67 (measured on 4 training cases)",
    ]


def test_summary_warns_of_few_groups_for_validation(tmp_path):
    src = make_folder(tmp_path / "mine", count=10, raters=1)
    for ratios, warned in ((None, True), ("7:3:0", False)):
        path = prepare("folder", src, output_dir=tmp_path / str(warned), workers=1, ratios=ratios)
        warnings = [line for line in summarise_dataset(path) if line.startswith("warning")]
        assert bool(warnings) == warned
        assert all("--ratios 7:3:0 --output-dir ANOTHER" in line for line in warnings)


def test_summary_warns_of_data_that_cannot_be_trained_on(tmp_path):
    src = make_folder(tmp_path / "mine", count=2, raters=1)
    path = prepare("folder", src, output_dir=tmp_path / "out", group_pattern=".+", workers=1, ratios="1:0:0")
    assert "warning: the validation part is empty" in summarise_dataset(path)[-1]


@pytest.mark.parametrize("source", SOURCES)
def test_help_of_a_source_says_where_it_is_published(source):
    text = describe_source(source)
    row = SOURCES[source]
    assert all(fact in text for fact in (row.address, row.licence, row.layout, row.split))


def test_cvc_with_sequences_of_ones_own(tmp_path):
    for frame in "ab":
        save(tmp_path / "src" / "Original" / f"{frame}.png", np.zeros((2, 2, 3), np.uint8))
        save(tmp_path / "src" / "Ground Truth" / f"{frame}.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(InputError, match=r"a\.png: not a frame of CVC-ClinicDB .*--sequences-file"):
        prepare("cvc-clinicdb", tmp_path / "src", output_dir=tmp_path / "out", workers=1)
    sequences = tmp_path / "sequences.csv"
    # The line of the file, blank lines counted.
    sequences.write_text("frame,sequence\n\na,x\na,y\n")
    with pytest.raises(InputError, match=r"sequences\.csv, line 4: the frame a is listed twice"):
        make_source("cvc-clinicdb", sequences_file=str(sequences))
    sequences.write_text("frame,sequence\na,x\nb,x\n")
    path = prepare(
        "cvc-clinicdb", tmp_path / "src", output_dir=tmp_path / "out", sequences_file=str(sequences), workers=1
    )
    dataset = read_dataset(path)
    assert {item["group"] for item in dataset["training"]} == {"x"}
    assert dataset["provenance"]["arguments"]["sequences_file"] == "sequences.csv"


def test_chase_keeps_the_eyes_of_a_patient_together(tmp_path):
    for patient in range(1, 11):
        for eye in "LR":
            name = f"Image_{patient:02d}{eye}"
            save(tmp_path / "src" / f"{name}.jpg", np.zeros((4, 4, 3), np.uint8))
            for observer in ("1stHO", "2ndHO"):
                save(tmp_path / "src" / f"{name}_{observer}.png", np.eye(4, dtype=bool))
    dataset = read_dataset(prepare("chase", tmp_path / "src", output_dir=tmp_path / "out", workers=1))
    # As the shipped weights were trained.
    groups = {part: [item["group"] for item in dataset[part]] for part in ("validation", "test")}
    assert groups == {"validation": ["03", "03"], "test": ["09", "09", "10", "10"]}
    assert len(dataset["training"]) == 14
    assert dataset["num_raters"] == 2
    (tmp_path / "src" / "Image_03R_2ndHO.png").unlink()
    with pytest.raises(InputError, match=r"Image_03R\.jpg: has no mask; expected .*Image_03R_2ndHO\.png"):
        prepare("chase", tmp_path / "src", output_dir=tmp_path / "out2", workers=1)


def test_lidc_slices_with_a_missing_mask_names_it(tmp_path):
    nodule = tmp_path / "LIDC-IDRI-slices" / "LIDC-IDRI-0007" / "nodule-0"
    for folder in ("images", "mask-0", "mask-1", "mask-2"):
        save(nodule / folder / "slice-0.png", np.zeros((128, 128), np.uint8))
    with pytest.raises(InputError, match=r"mask-3.slice-0\.png: missing mask of .*images.slice-0\.png"):
        prepare("lidc-slices", tmp_path, output_dir=tmp_path / "out", workers=1)


def test_isic_without_a_mask_names_the_image(tmp_path):
    save(tmp_path / "ISIC2018_Task1-2_Training_Input" / "ISIC_0000001.jpg", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match=r"ISIC_0000001\.jpg: has no mask; expected ISIC_0000001_segmentation\.png"):
        prepare("isic2018", tmp_path, output_dir=tmp_path / "out", workers=1)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 1]], np.uint8), [[0, 1]]),
        (np.array([[False, True]]), [[0, 1]]),
        (np.array([[0, 255]], np.uint8), [[0, 1]]),
        (np.array([[127, 128]], np.uint8), [[0, 1]]),
        (np.array([[0, 0]], np.uint8), [[0, 0]]),
        (np.array([[0, 65535]], np.uint16), [[0, 1]]),
        (np.array([[[0, 0, 0], [255, 0, 0]]], np.uint8), [[0, 1]]),  # red on black
        (np.array([[[0, 0, 0, 255], [255, 255, 255, 255]]], np.uint8), [[0, 1]]),  # opaque alpha is no foreground
    ],
)
def test_read_mask(tmp_path, array, expected):
    assert read_mask(save(tmp_path / "m.png", array)).tolist() == expected


# -- the sources on real files -----------------------------------------------------------------------------------------


@pytest.mark.data
def test_real_lidc_crops(data_dir, unpack, tmp_path):
    src = unpack("lidc_idri_slices_train_val.tar.xz", r"/LIDC-IDRI-000[1-4]/", stop_at="/LIDC-IDRI-0006/")
    path = prepare(
        "lidc-slices", src, output_dir=tmp_path / "out", split_file=data_dir / "lidc_split.csv", crop=128, workers=2
    )
    dataset = read_dataset(path)
    assert (dataset["num_channels"], dataset["num_raters"]) == (1, 4)
    with (data_dir / "lidc_split.csv").open() as handle:
        table = {row["patient"]: row["split"] for row in csv.DictReader(handle)}
    assert {item["group"] for item in list_items(dataset)} == {f"LIDC-IDRI-000{number}" for number in range(1, 5)}
    for short, split in (("train", "training"), ("val", "validation")):
        assert {table[item["group"]] for item in dataset[split]} <= {short}
    for item in list_items(dataset)[::5]:
        nodule = src / "LIDC-IDRI-slices" / Path(*item["case"].split("_")[:2])
        name = item["case"].split("_")[2] + ".png"
        loaded = LoadCased()({key: str(tmp_path / "out" / item[key]) for key in ("image", "label")})
        np.testing.assert_array_equal(loaded["image"][0], np.array(Image.open(nodule / "images" / name)))
        for slot in range(4):
            mask = np.array(Image.open(nodule / f"mask-{slot}" / name)) > 127
            np.testing.assert_array_equal(loaded["label"][slot], mask)


@pytest.mark.data
def test_real_cvc_sequences_are_the_published_ones(data_dir):
    with (data_dir / "cvc_clinicdb_sequences.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 478
    source = CVCSource()
    assert all(source._find_sequence(row["frame"], Path()) == row["sequence"] for row in rows)


@pytest.mark.data
def test_real_cvc_frames(unpack, tmp_path):
    src = unpack("cvc_clinicdb_seq01-23.tar", r"/(1|2|400)\.png$")
    dataset = read_dataset(prepare("cvc-clinicdb", src, output_dir=tmp_path / "out", workers=1))
    assert [item["case"] for item in dataset["training"]] == ["sequence-1_frame-1", "sequence-1_frame-2"]
    assert [item["group"] for item in dataset["validation"]] == ["19"]
    original = np.array(Image.open(src / "CVC-ClinicDB" / "PNG" / "Ground Truth" / "400.png").convert("L")) > 127
    label = np.asarray(nibabel.load(tmp_path / "out" / dataset["validation"][0]["label"]).dataobj)
    assert label.shape == (288, 384, 1)
    np.testing.assert_array_equal(label[..., 0], original)


@pytest.mark.data
def test_real_isic_images(data_dir, unpack, tmp_path):
    src = unpack("isic2018_task1_256_train_val.tar", r"ISIC_000001\d")
    path = prepare("isic2018", src, output_dir=tmp_path / "out", split_file=data_dir / "isic2018_split.csv", workers=1)
    dataset = read_dataset(path)
    assert dataset["num_channels"] == 3
    assert 2 <= len(list_items(dataset)) <= 10
    loaded = LoadCased()({key: str(tmp_path / "out" / list_items(dataset)[0][key]) for key in ("image", "label")})
    assert loaded["image"].shape == (3, 256, 256)
    assert set(np.unique(loaded["label"])) == {0, 1}


@pytest.mark.data
def test_real_chase_images(unpack, tmp_path):
    src = unpack("chase_db1_01-09.tar", r"Image_01")
    dataset = read_dataset(prepare("chase", src, output_dir=tmp_path / "out", ratios="0:0:1", workers=1))
    assert [item["case"] for item in dataset["test"]] == ["Image_01L", "Image_01R"]
    label = np.asarray(nibabel.load(tmp_path / "out" / dataset["test"][0]["label"]).dataobj)
    assert label.shape == (960, 999, 2)
    first, second = (label[..., rater].astype(bool) for rater in range(2))
    dice = 2 * (first & second).sum() / (first.sum() + second.sum())
    assert 0.6 < dice < 0.95  # two observers of the same vessels: alike, not the same


def test_every_source_imports_and_its_default_bundle_exists() -> None:
    for name, row in SOURCES.items():
        source, _ = make_source(name)
        assert source.info.name
        assert (
            row.default_bundle is None or (bundles_dir() / row.default_bundle / "configs" / "metadata.json").is_file()
        )
        assert default_bundle(name) == row.default_bundle
    assert default_bundle("chase") == "retinal_vessel_fundus_latent_diffusion"
    assert [default_bundle(source) for source in ("folder", "unheard-of", None)] == [None] * 3
