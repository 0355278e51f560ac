"""Which group of cases is for training, validation or test: from a split file, or by ratio and seed.

A ratio never splits a group (patient, sequence, image). The order of the groups under a seed is that of the
SHA-256 of "seed:group", so it depends neither on the platform nor on the other groups.
"""

from __future__ import annotations

import csv
import hashlib
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, check_integer
from .sources.source import Case

SPLITS = ("training", "validation", "test")
SYNONYMS = {
    **{name: name for name in SPLITS},
    "train": "training", "val": "validation", "valid": "validation", "testing": "test",
}  # fmt: skip


def normalize_split(value: str) -> str:
    """The datalist's name of a split: ``training``, ``validation`` or ``test``.

    Raises:
        InputError: not one of these nor of their short forms ``train`` and ``val``.
    """
    name = SYNONYMS.get(str(value).strip().lower())
    if name is None:
        raise InputError(f"split {value!r}: expected train (training), val (validation) or test.")
    return name


@dataclass(frozen=True)
class SplitTable:
    """A split file.

    Attributes:
        path: the file.
        column: header of its first column, in lower case; says what is listed ("patient", "frame").
        splits: listed value to split, in the order of the file.
        sha256: of the file's bytes.
    """

    path: Path
    column: str
    splits: Mapping[str, str]
    sha256: str

    def find(self, case: Case) -> str | None:
        """The listed value that matches this case, or None. Leading zeros of numbers are ignored ("01" is "1")."""
        value = case.columns.get(self.column, case.group)
        if value in self.splits:
            return value
        if value.isdecimal():
            same = [listed for listed in self.splits if listed.isdecimal() and int(listed) == int(value)]
            return same[0] if len(same) == 1 else None
        return None

    def select(self, cases: Sequence[Case]) -> tuple[list[Case], dict[str, str], int]:
        """Keep the cases that the file lists.

        Returns:
            The cases kept, {case key: split}, and how many units of the source (groups, or frames …) are absent from
            the file. A file that splits groups (by frame, say) is obeyed with a warning.
        """
        kept, chosen, absent = [], {}, set()
        sides: dict[str, set[str]] = {}
        for case in cases:
            listed = self.find(case)
            if listed is None:
                absent.add(case.columns.get(self.column, case.group))
                continue
            kept.append(case)
            chosen[case.key] = self.splits[listed]
            sides.setdefault(case.group, set()).add(self.splits[listed])
        torn = [group for group, where in sides.items() if len(where) > 1]
        if torn:
            warnings.warn(
                f"{self.path}: puts {len(torn)} groups on more than one side (the first: {torn[0]!r}); scores on such "
                "a split are too good. Split by group for a fair one.",
                stacklevel=4,
            )
        return kept, chosen, len(absent)

    def describe(self, cases: Iterable[Case]) -> dict[str, Any]:
        """The file as ``dataset.json`` names it, with the number of listed values that match none of these cases."""
        found = {listed for case in cases if (listed := self.find(case)) is not None}
        return {
            "method": "file", "file": self.path.name, "sha256": self.sha256, "column": self.column,
            "listed_but_absent": len(self.splits) - len(found),
        }  # fmt: skip


@dataclass(frozen=True)
class SplitRule:
    """Which group goes where: as a file says, or by ratio and seed.

    Attributes:
        table: the split file.
        ratios: as for :func:`split_by_ratio`; ``None`` is the source's own split, or 8:1:1.
        seed: of the split by ratio.
    """

    table: SplitTable | None
    ratios: str | Sequence[float] | None
    seed: int

    @classmethod
    def read(cls, split_file: str | Path | None, ratios: str | Sequence[float] | None, seed: int) -> SplitRule:
        """Check the arguments, and read the file if there is one.

        Raises:
            InputError: both a file and ratios, one of them cannot be used, or a seed that is no integer.
        """
        if split_file is not None and ratios is not None:
            raise InputError("--split-file and --ratios exclude each other: give one of them.")
        if ratios is not None:
            parse_ratios(ratios)  # a bad value is an error now, not after an hour of reading
        check_integer("--seed", seed)
        return cls(None if split_file is None else read_split_file(split_file), ratios, seed)

    def arguments(self) -> dict[str, Any]:
        """The arguments as ``dataset.json`` keeps them."""
        if self.table is not None:
            return {"split_file": self.table.path.name}
        return {**({} if self.ratios is None else {"ratios": portable_name(self.ratios)}), "seed": self.seed}


def portable_name(value: Any, is_path: bool = False) -> Any:
    """A JSON value of an option, without folders of this machine."""
    if isinstance(value, (list, tuple)):
        return [portable_name(entry, is_path) for entry in value]
    if is_path and isinstance(value, str) and "," in value:
        return [portable_name(entry, True) for entry in value.split(",")]
    if is_path or isinstance(value, Path):
        return Path(value).name
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def read_split_file(path: str | Path) -> SplitTable:
    """Read a split file: a header, then two columns, the group and ``train``, ``val`` or ``test``.

    Raises:
        InputError: naming the file and the line: no such file, no header, not two columns, a bad split value, a group
            listed twice, no group at all.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot read the split file ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8; save the split file as CSV.") from error
    column: str | None = None
    splits: dict[str, str] = {}
    lines: dict[str, int] = {}
    reader = csv.reader(io.StringIO(text, newline=""))
    for raw in reader:
        row = [cell.strip() for cell in raw]
        line = reader.line_num
        if not any(row):
            continue
        if len(row) != 2:
            raise InputError(f"{path}, line {line}: found {len(row)} columns; expected two, the group and its split.")
        group, value = row
        if column is None:
            if value.lower() in SYNONYMS:
                raise InputError(
                    f"{path}, line {line}: the header is missing; begin the file with a line like 'group,split'."
                )
            column = group.lower()
            continue
        if not group:
            raise InputError(f"{path}, line {line}: the group is missing.")
        if value.lower() not in SYNONYMS:
            raise InputError(f"{path}, line {line}: split {value!r} of {group!r}; expected train, val or test.")
        if group in splits:
            raise InputError(
                f"{path}, line {line}: the group {group!r} is listed already on line {lines[group]}; keep one."
            )
        splits[group] = SYNONYMS[value.lower()]
        lines[group] = line
    if column is None or not splits:
        raise InputError(f"{path}: lists no group; expected a header and lines like 'LIDC-IDRI-0001,train'.")
    return SplitTable(path, column, splits, hashlib.sha256(content).hexdigest())


def parse_ratios(ratios: str | Sequence[float]) -> tuple[float, float, float]:
    """The three shares of "8:1:1" (training:validation:test), which sum to 1.

    Raises:
        InputError: not three numbers, a negative one, or all of them 0.
    """
    parts = ratios.split(":") if isinstance(ratios, str) else list(ratios) if isinstance(ratios, (list, tuple)) else []
    try:
        values = [float(part) for part in parts]
    except (TypeError, ValueError):
        values = []
    if len(values) != 3 or not all(0 <= value < float("inf") for value in values) or sum(values) <= 0:
        raise InputError(f"--ratios {ratios!r}: expected training:validation:test, three numbers like 8:1:1.")
    total = sum(values)
    return values[0] / total, values[1] / total, values[2] / total


def split_by_ratio(groups: Iterable[str], ratios: str | Sequence[float], seed: int) -> dict[str, str]:
    """Split groups by ratio and seed.

    Sizes follow the ratios by largest remainder. While there are enough groups, every part whose ratio is not 0 gets at
    least one (3 groups at 8:1:1 are 1, 1, 1). No group at all gives an empty dictionary.

    Args:
        groups: group ids; repeated ones count once.
        ratios: as for `parse_ratios`.
        seed: decides the order of the groups.

    Returns:
        {group: "training" | "validation" | "test"}.

    Raises:
        InputError: bad ratios.
    """
    shares = parse_ratios(ratios)
    order = sorted(set(groups), key=lambda group: (hashlib.sha256(f"{seed}:{group}".encode()).digest(), group))
    # Rounded first: 0.1 * 10 must not lose against its own rounding error.
    exact = [round(share * len(order), 9) for share in shares]
    sizes = [int(value) for value in exact]
    by_remainder = sorted(range(3), key=lambda part: (sizes[part] - exact[part], part))
    for part in by_remainder[: len(order) - sum(sizes)]:
        sizes[part] += 1
    if len(order) >= sum(share > 0 for share in shares):
        for part in range(3):
            if shares[part] > 0 and sizes[part] == 0:
                sizes[sizes.index(max(sizes))] -= 1
                sizes[part] += 1
    names = [name for name, size in zip(SPLITS, sizes, strict=True) for _ in range(size)]
    return dict(zip(order, names, strict=True))
