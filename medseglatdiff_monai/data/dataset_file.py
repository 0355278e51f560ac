"""``dataset.json``: what a prepared folder holds, part by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError
from .sources.source import Case, Source, natural_key
from .splits import SPLITS, SplitRule, portable_name, split_by_ratio

__all__ = ["make_dataset"]

DEFAULT_RATIOS = "8:1:1"


def make_dataset(
    source: str,
    instance: Source,
    cases: list[Case],
    records: Mapping[str, dict[str, Any]],
    rule: SplitRule,
    chosen: Mapping[str, str],
    left_out: Counter[str],
) -> dict[str, Any]:
    """Assemble the datalist.

    Args:
        source: name of the source.
        instance: the source itself.
        cases: what the source found.
        records: the journal's record of each case.
        rule: which group goes where.
        chosen: case keys to splits, where a split file decides.
        left_out: counts by reason; what the cases left out is added.

    Raises:
        InputError: no case, or cases that differ in kind or in their number of masks.
    """
    info = instance.info
    entries = [(case, item) for case in cases for item in records[case.key]["items"]]
    for case in cases:
        left_out.update(records[case.key]["left_out"])
    if not entries:
        raise InputError(f"{info.name}: no case is left; left out were {dict(left_out) or 'none'}.")
    channels, _, raters, *volume = _find_layout([records[case.key] for case in cases])
    if info.num_raters is not None and raters != info.num_raters:
        raise InputError(f"{info.name}: {raters} masks per case; expected {info.num_raters}.")
    split, side = _split_items(instance, cases, entries, rule, chosen)
    entries.sort(key=lambda entry: natural_key(entry[1]["case"]))
    return {
        "name": info.name,
        "source": source,
        "modality": info.modality,
        "description": info.description,
        "num_channels": channels,
        "num_raters": raters,
        **({"raters": list(instance.rater_names)} if instance.rater_names else {}),
        **({"spatial_dims": 3} if volume else {}),
        "labels": dict(info.labels),
        "consensus": {"level": 0.5, "tie": "foreground"},
        "split": split,
        **{name: [item for _, item in entries if side[id(item)] == name] for name in SPLITS},
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


def _split_items(
    instance: Source,
    cases: list[Case],
    entries: Sequence[tuple[Case, dict[str, Any]]],
    rule: SplitRule,
    chosen: Mapping[str, str],
) -> tuple[dict[str, Any], dict[int, str]]:
    """The split as ``dataset.json`` describes it, and the part of each item, by the item's ``id``."""
    unit = {"group_unit": instance.info.group_unit}
    if rule.table is not None:
        split = {**rule.table.describe(), "listed_but_absent": rule.table.count_absent(cases), **unit}
        return split, {id(item): chosen[case.key] for case, item in entries}
    groups = sorted({item["group"] for _, item in entries}, key=natural_key)
    by_group = instance.default_split(groups) if rule.ratios is None else None
    split = {"method": "the data set's own"}
    if by_group is None:
        ratios = DEFAULT_RATIOS if rule.ratios is None else rule.ratios
        by_group = split_by_ratio(groups, ratios, rule.seed)
        split = {"method": "ratios", "ratios": portable_name(ratios), "seed": rule.seed}
    return {**split, **unit}, {id(item): by_group[item["group"]] for _, item in entries}
