"""Split files and ratios."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from medseglatdiff_monai.data.sources.source import Case
from medseglatdiff_monai.data.splits import normalize_split, parse_ratios, read_split_file, split_by_ratio
from medseglatdiff_monai.errors import InputError


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_normalize_split_knows_the_synonyms():
    assert [normalize_split(name) for name in ("train", "Training", "val", "validation", " test")] == [
        "training",
        "training",
        "validation",
        "validation",
        "test",
    ]
    with pytest.raises(InputError, match="'dev'"):
        normalize_split("dev")


def test_read_split_file(tmp_path):
    # A byte order mark, Windows line ends and a blank line, as spreadsheet programs write them.
    path = write(tmp_path / "s.csv", "Patient,split\r\nA,train\r\nB, validation\r\n\r\nC,TEST\r\n", "utf-8-sig")
    table = read_split_file(path)
    assert table.column == "patient"
    assert dict(table.splits) == {"A": "training", "B": "validation", "C": "test"}


def test_a_file_with_only_test_is_fine(tmp_path):
    assert dict(read_split_file(write(tmp_path / "s.csv", "image,split\nX,test\n")).splits) == {"X": "test"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient,split\nA,train\nB,dev\n", r"s\.csv, line 3: split 'dev' of 'B'; expected train, val or test"),
        ("patient,split\nA,train\nB,val\nA,train\n", r"line 4: the group 'A' is listed already on line 2"),
        ("patient,split\nA,train\nA,val\n", r"line 3: the group 'A' is listed already on line 2"),
        ("A,train\nB,val\n", r"line 1: the header is missing"),
        ("patient,split,fold\nA,train,1\n", r"line 1: found 3 columns; expected two"),
        ("patient,split\n,train\n", r"line 2: the group is missing"),
        ("patient,split\n", r"lists no group"),
        ("", r"lists no group"),
    ],
)
def test_faulty_split_files_name_the_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_split_file(write(tmp_path / "s.csv", text))


def test_a_missing_split_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.csv: cannot read"):
        read_split_file(tmp_path / "absent.csv")


def test_select_leaves_absent_groups_out_and_counts_groups_not_cases(tmp_path):
    table = read_split_file(write(tmp_path / "s.csv", "patient,split\nA,train\nC,val\nZ,test\n"))
    cases = [Case("A1", "A"), Case("B1", "B"), Case("B2", "B"), Case("C1", "C")]
    kept, chosen, absent = table.select(cases)
    assert [case.key for case in kept] == ["A1", "C1"]
    assert chosen == {"A1": "training", "C1": "validation"}
    assert absent == 1
    assert table.describe(kept)["listed_but_absent"] == 1  # Z


def test_numbers_match_without_leading_zeros_and_text_does_not(tmp_path):
    table = read_split_file(write(tmp_path / "s.csv", "patient,split\n1,train\nP1,val\n"))
    _, chosen, absent = table.select([Case("a", "01"), Case("b", "P01")])
    assert chosen == {"a": "training"}
    assert absent == 1


def test_a_split_by_frame_is_obeyed_with_a_warning(tmp_path):
    table = read_split_file(write(tmp_path / "s.csv", "frame,split\n7,train\n8,val\n"))
    cases = [Case("x", "1", columns={"frame": "7"}), Case("y", "1", columns={"frame": "8"})]
    with pytest.warns(UserWarning, match="more than one side"):
        _, chosen, _ = table.select(cases)
    assert chosen == {"x": "training", "y": "validation"}


@pytest.mark.parametrize(
    ("count", "ratios", "sizes"),
    [
        (10, "8:1:1", (8, 1, 1)),
        (100, "60:20:20", (60, 20, 20)),
        (7, "8:1:1", (5, 1, 1)),  # 5.6, 0.7, 0.7: the remainders give 5 + 0 + 0 and two more, to the 0.7s
        (3, "8:1:1", (1, 1, 1)),  # rounding would give 3, 0, 0
        (2, "8:1:1", (2, 0, 0)),
        (5, "0:0:1", (0, 0, 5)),
        (4, (0.5, 0.5, 0), (2, 2, 0)),
        (0, "8:1:1", (0, 0, 0)),
    ],
)
def test_sizes_of_a_split_by_ratio(count, ratios, sizes):
    sides = Counter(split_by_ratio([f"g{number}" for number in range(count)], ratios, seed=0).values())
    assert (sides["training"], sides["validation"], sides["test"]) == sizes


def test_a_split_by_ratio_depends_on_the_seed_and_not_on_the_order():
    groups = [f"g{number}" for number in range(50)]
    first = split_by_ratio(groups, "8:1:1", seed=0)
    assert split_by_ratio(reversed(groups), "8:1:1", seed=0) == first
    assert split_by_ratio(groups, "8:1:1", seed=1) != first
    assert set(first) == set(groups)


@pytest.mark.parametrize("ratios", ["8:1", "8:1:x", "-1:1:1", "0:0:0", "nan:1:1", 8])
def test_bad_ratios_are_refused(ratios):
    with pytest.raises(InputError, match="--ratios"):
        parse_ratios(ratios)
