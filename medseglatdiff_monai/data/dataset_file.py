"""``dataset.json``: what a prepared folder holds, part by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from .sources.source import CaseStub, Source, natural_key
from .splits import SPLITS, SplitTable, split_by_ratio

__all__ = ["make_dataset", "portable_name"]

DEFAULT_RATIOS = "8:1:1"


def portable_name(value: Any, is_path: bool) -> Any:
    """A JSON value of an option, without folders of this machine."""
    if isinstance(value, (list, tuple)):
        return [portable_name(entry, is_path) for entry in value]
    if is_path and isinstance(value, str) and "," in value:
        return [portable_name(entry, True) for entry in value.split(",")]
    if is_path or isinstance(value, Path):
        return Path(value).name
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def make_dataset(
    source: str,
    instance: Source,
    stubs: list[CaseStub],
    records: Mapping[str, dict[str, Any]],
    chosen: Mapping[str, str],
    table: SplitTable | None,
    ratios: str | Sequence[float] | None,
    seed: int,
    left_out: Counter[str],
) -> dict[str, Any]:
    """Assemble the datalist; `chosen` maps stub keys to splits where a split file decides."""
    info = instance.info
    entries = [(stub, item) for stub in stubs for item in records[stub.key]["items"]]
    for stub in stubs:
        left_out.update(records[stub.key]["left_out"])
    if not entries:
        raise InputError(f"{info.name}: no case is left; left out were {dict(left_out) or 'none'}.")
    layouts: dict[tuple[Any, ...], str] = {}
    for stub in stubs:
        record = records[stub.key]
        for item, layout in zip(record["items"], record["layouts"], strict=True):
            layouts.setdefault(tuple(layout), item["case"])
    if len(layouts) > 1:
        found = "; ".join(
            f"{case}: {channels} channel(s), {suffix[1:]}, {raters} rater(s){', volume' if volume else ''}"
            for (channels, suffix, raters, *volume), case in layouts.items()
        )
        raise InputError(f"the cases differ in kind ({found}); prepare data of one kind at a time.")
    channels, _, raters, *volume = next(iter(layouts))
    if info.num_raters is not None and raters != info.num_raters:
        raise InputError(f"{info.name}: {raters} masks a case; expected {info.num_raters}.")

    groups = sorted({item["group"] for _, item in entries}, key=natural_key)
    if table is not None:
        split: dict[str, Any] = {
            "method": "file",
            "file": table.path.name,
            "sha256": table.sha256,
            "column": table.column,
        }
        split["listed_but_absent"] = table.count_absent(stubs)
        side = {id(item): chosen[stub.key] for stub, item in entries}
    else:
        by_group = instance.default_split(groups) if ratios is None else None
        split = {"method": "the data set's own"}
        if by_group is None:
            ratios = DEFAULT_RATIOS if ratios is None else ratios
            by_group = split_by_ratio(groups, ratios, seed)
            split = {"method": "ratios", "ratios": portable_name(ratios, False), "seed": seed}
        side = {id(item): by_group[item["group"]] for _, item in entries}
    split["group_unit"] = info.group_unit
    entries.sort(key=lambda entry: natural_key(entry[1]["case"]))
    return {
        "name": info.name,
        "source": source,
        "modality": info.modality,
        "description": info.description,
        "num_channels": channels,
        "num_raters": raters,
        **({"spatial_dims": 3} if volume else {}),
        "labels": dict(info.labels),
        "consensus": {"level": 0.5, "tie": "foreground"},
        "split": split,
        **{name: [item for _, item in entries if side[id(item)] == name] for name in SPLITS},
    }
