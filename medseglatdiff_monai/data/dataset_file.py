"""``dataset.json``: what a prepared folder holds, part by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InputError
from .sources.source import Case, Source, natural_key
from .splits import SPLITS, SplitRule, portable_name, split_by_ratio

DEFAULT_RATIOS = "8:1:1"


@dataclass(frozen=True)
class Preparation:
    """What is prepared, and how.

    Attributes:
        name: of the source.
        source: the source itself.
        options: those of the source that were given.
        src: folder or archive of the data set, or ``None``.
        split: which group goes where.
    """

    name: str
    source: Source
    options: Mapping[str, Any]
    src: Path | None
    split: SplitRule

    def arguments(self) -> dict[str, Any]:
        """The arguments as ``dataset.json`` keeps them, without folders of this machine."""
        options = {
            name: portable_name(value, name in self.source.path_options) for name, value in sorted(self.options.items())
        }
        return {"source": self.name, **options, **self.split.arguments()}


def make_dataset(
    preparation: Preparation,
    cases: list[Case],
    records: Mapping[str, dict[str, Any]],
    chosen: Mapping[str, str],
    left_out: Counter[str],
) -> dict[str, Any]:
    """Assemble the content of ``dataset.json``.

    Args:
        preparation: what is prepared, and how.
        cases: what the source found.
        records: the journal's record of each case.
        chosen: case keys to splits, where a split file decides.
        left_out: counts by reason; what the cases left out is added.

    Raises:
        InputError: no case, or cases that differ in kind or in their number of masks.
    """
    info = preparation.source.info
    entries = [(case, item) for case in cases for item in records[case.key]["items"]]
    for case in cases:
        left_out.update(records[case.key]["left_out"])
    if not entries:
        reasons = ", ".join(f"{number} ({reason})" for reason, number in left_out.items())
        raise InputError(f"{info.name}: no case is left; left out were {reasons or 'none'}.")
    channels, _, raters, *volume = _find_layout([records[case.key] for case in cases])
    if info.num_raters is not None and raters != info.num_raters:
        raise InputError(f"{info.name}: {raters} masks per case; expected {info.num_raters}.")
    split, side = _split_cases(preparation, cases, [case for case, _ in entries], chosen)
    entries.sort(key=lambda entry: natural_key(entry[1]["case"]))
    parts = {name: [item for case, item in entries if side[case.key] == name] for name in SPLITS}
    return {
        "name": info.name,
        "source": preparation.name,
        "modality": info.modality,
        "description": info.description,
        "num_channels": channels,
        "num_raters": raters,
        **({"raters": list(preparation.source.rater_names)} if preparation.source.rater_names else {}),
        **({"spatial_dims": 3} if volume else {}),
        "labels": dict(info.labels),
        "consensus": {"level": 0.5, "tie": "foreground"},
        "split": {**split, "group_unit": info.group_unit},
        "provenance": {
            "source": None if preparation.src is None else preparation.src.name,
            "package_version": __version__,
            "arguments": preparation.arguments(),
            **preparation.source.provenance(),
            "counts": {
                name: {"cases": len(items), "groups": len({item["group"] for item in items})}
                for name, items in parts.items()
            },
            "left_out": dict(sorted(left_out.items())),
        },
        **parts,
    }


def _find_layout(records: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    """Channels, suffix and raters of all cases, and a mark for volumes."""
    layouts: dict[tuple[Any, ...], str] = {}
    for record in records:
        for item, layout in zip(record["items"], record["layouts"], strict=True):
            layouts.setdefault(tuple(layout), item["case"])
    if len(layouts) > 1:
        found = "; ".join(
            f"{case}: {channels} channel(s), {suffix[1:]}, {raters} rater(s){', volume' if volume else ''}"
            for (channels, suffix, raters, *volume), case in layouts.items()
        )
        raise InputError(f"the cases differ in kind ({found}); prepare data of one kind at a time.")
    return next(iter(layouts))


def _split_cases(
    preparation: Preparation, cases: list[Case], written: Sequence[Case], chosen: Mapping[str, str]
) -> tuple[dict[str, Any], Mapping[str, str]]:
    """The split as ``dataset.json`` describes it, and the part of each case that gave items, by its key."""
    rule = preparation.split
    if rule.table is not None:
        return rule.table.describe(cases), chosen
    groups = sorted({case.group for case in written}, key=natural_key)
    by_group = preparation.source.default_split(groups) if rule.ratios is None else None
    split: dict[str, Any] = {"method": "the data set's own"}
    if by_group is None:
        ratios = DEFAULT_RATIOS if rule.ratios is None else rule.ratios
        by_group = split_by_ratio(groups, ratios, rule.seed)
        split = {"method": "ratios", "ratios": portable_name(ratios), "seed": rule.seed}
    return split, {case.key: by_group[case.group] for case in written}
