"""From the scores of all members to ``results.json``: means with intervals, costs, comparisons."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd
import torch

from ..bundle.training_record import read_record
from ..evaluation.columns import COLUMNS
from ..provenance import provenance
from ..training.record import count_costs
from .member import Member
from .notes import Notes
from .request import Request
from .results import SUITE_RESULT_VERSION
from .reuse import stage_minutes
from .scoring import EVALUATION_SEED, Scored
from .statistics import compare_groups, group_interval, holm
from .suite import Suite


class Key(NamedTuple):
    """Which table: a system in an evaluation, at a point of its axis."""

    system: str
    evaluation: str
    point: float | None


class Table(NamedTuple):
    """Each case's mean over the seeds, and the scores behind it."""

    frame: pd.DataFrame
    parts: list[Scored]


def assemble(request: Request, members: Sequence[Member], scored: Sequence[Scored], notes: Notes) -> dict[str, Any]:
    """Contents of ``results.json``; undefined figures are noted."""
    tables = _mean_over_seeds(scored)
    info = request.info
    packages = {name: importlib.metadata.version(name) for name in ("scipy", "statsmodels", "pandas")}
    costs: dict[str, dict[str, Any]] = {}
    for key, table in tables.items():
        if key.system not in costs:
            costs[key.system] = _costs([part.member for part in table.parts], notes)
    measurements = [
        row for key, table in tables.items() for row in _measure(key, table, costs[key.system], request.suite, notes)
    ]
    return {
        "version": SUITE_RESULT_VERSION,
        "suite": request.suite.name,
        "title": request.suite.title,
        "bundle": request.bundle.name,
        "dataset": {
            "name": info.get("name"), "description": info.get("description", ""),
            "num_raters": info.get("num_raters"), "split": request.split, "cases": len(info[request.split]),
            "group_unit": info.get("split", {}).get("group_unit", "group"),
            "arguments": info.get("provenance", {}).get("arguments", {}), "sha256": request.fingerprint,
        },
        "options": {
            "max_minutes": request.max_minutes, "max_cases": request.max_cases,
            "training_seeds": sorted({member.seed for member in members}),
            "evaluation_seed": EVALUATION_SEED, "overrides": request.overrides,
        },
        "provenance": {**provenance("cuda" if torch.cuda.is_available() else "cpu"), **packages},
        "measurements": measurements,
        "comparisons": _compare(tables, request.suite),
        "calibration": [
            {
                "system": part.member.system.name, "seed": part.member.seed, "key": part.evaluation.key,
                **part.result.get("calibration", {}),
            }
            for part in scored
            if part.evaluation.reliability
        ],
        "evaluations": [
            {
                "system": part.member.system.name, "seed": part.member.seed,
                "key": part.evaluation.key, "weights_sha256": part.depends_on["weights_sha256"],
                "num_cases": part.result["summary"]["num_cases"],
                "num_samples": part.depends_on["settings"]["num_samples"],
                "scored_with": part.result.get("provenance", {}),
            }
            for part in scored
        ],
        "not_applicable": notes.not_applicable,
        "warnings": notes.warnings,
        "left_out": notes.left_out,
        "failures": notes.failures,
    }  # fmt: skip


def _mean_over_seeds(scored: Sequence[Scored]) -> dict[Key, Table]:
    grouped: dict[Key, list[tuple[pd.DataFrame, Scored]]] = {}
    for part in scored:
        for point, frame in part.frames.items():
            at = part.evaluation.point if point is None else point
            grouped.setdefault(Key(part.member.system.name, part.evaluation.key, at), []).append((frame, part))
    tables = {}
    for key, found in grouped.items():
        frames = [frame for frame, _ in found]
        # A case counts only with all seeds: else the mean would mix them unequally.
        common = frames[0].index
        for frame in frames[1:]:
            common = common.intersection(frame.index)
        numbers = [frame.loc[common].drop(columns="group").astype(float) for frame in frames]
        mean = sum(numbers[1:], numbers[0]) / len(numbers)
        tables[key] = Table(mean.assign(group=frames[0].loc[common, "group"]), [part for _, part in found])
    return tables


def _measure(key: Key, table: Table, costs: Mapping[str, Any], suite: Suite, notes: Notes) -> Iterator[dict[str, Any]]:
    """One row for each metric that the suite shows of a table."""
    first = table.parts[0]
    evaluation = first.evaluation
    for metric in suite.shown(evaluation):
        yield {
            "system": key.system, "evaluation": evaluation.name, "key": key.evaluation,
            "axis": "num_samples" if evaluation.subsample else evaluation.axis, "point": key.point,
            "metric": metric, **_figure(metric, table, notes), "num_seeds": len(table.parts), **costs,
            "seconds_per_sample": _seconds_per_sample(table),
        }  # fmt: skip


def _figure(metric: str, table: Table, notes: Notes) -> dict[str, Any]:
    """Mean, interval and numbers of cases and groups; why it is missing is noted."""
    frame, parts = table
    column = COLUMNS[metric]
    if column.pooled is not None:
        values = pd.Series([part.result["summary"].get(metric) for part in parts], dtype=float)
        figure = {
            "mean": values.mean(), "low": math.nan, "high": math.nan, "num_cases": len(frame),
            "num_groups": frame["group"].nunique(),
        }  # fmt: skip
    else:
        figure = asdict(group_interval(frame.get(metric, pd.Series(dtype=float)), frame["group"]))
    if math.isnan(figure["mean"]):
        evaluation = parts[0].evaluation
        where = evaluation.name if evaluation.axis is None else f"{evaluation.name}, {evaluation.title}"
        reason = parts[0].result.get("not_applicable", {}).get(metric, "undefined in every case")
        notes.not_applicable[f"{column.label}, {parts[0].member.system.name}, {where}"] = reason
    return figure


def _seconds_per_sample(table: Table) -> float | None:
    member = table.parts[0].member
    if member.system.reconstruction or member.predicted:
        # A codec alone does not sample, and another program has not said.
        return None
    # A deterministic network is called once, however many equal samples are made of its mask.
    return fmean(
        part.result["summary"]["seconds_per_case"]
        / (1 if part.member.system.deterministic else part.result["summary"]["num_samples"])
        for part in table.parts
    )


def _costs(members: Sequence[Member], notes: Notes) -> dict[str, Any]:
    minutes = [sum(taken.values()) for member in members if (taken := stage_minutes(member.run))]
    last = members[-1]
    counted: dict[str, Any] = {}
    # What is counted is the whole segmenter, not the codec alone; another program's masks do not say what made them.
    if not last.system.reconstruction and not last.predicted:
        counted = read_record(last.run)
        if "parameters" not in counted:
            # A bundle that was given comes without the record of its training.
            try:
                counted = count_costs(last.run)
            except Exception as error:
                notes.fail(f"{last.label}, costs", error)
    return {
        "parameters": counted.get("parameters"),
        "multiply_accumulates": counted.get("multiply_accumulates"),
        "training_minutes": fmean(minutes) if minutes else None,
    }


def _compare(tables: Mapping[Key, Table], suite: Suite) -> list[dict[str, Any]]:
    """Every comparison that the suite asks for, its p-values corrected for all of them."""
    rows: list[dict[str, Any]] = []
    for key, metric, frame, reference in _pairs(tables, suite):
        compared = compare_groups(frame, reference, metric)
        if compared.num_cases:
            named = {"system": key.system, "reference": suite.reference, "key": key.evaluation, "point": key.point}
            rows.append({**named, "metric": metric, **asdict(compared)})
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row.update(p_holm=p)
    return rows


def _pairs(tables: Mapping[Key, Table], suite: Suite) -> Iterator[tuple[Key, str, pd.DataFrame, pd.DataFrame]]:
    """Key, metric, frame and the reference's frame of every comparison with the reference."""
    for key, table in tables.items():
        evaluation = table.parts[0].evaluation
        points = evaluation.compare_at
        skipped = evaluation.axis is not None if points is None else key.point not in points
        reference = tables.get(key._replace(system=suite.reference or ""))
        if reference is None or reference is table or skipped:
            continue
        shown = suite.shown(evaluation)
        for metric in shown if not suite.compare else [name for name in suite.compare if name in shown]:
            frames = table.frame, reference.frame
            known = all(metric in frame and frame[metric].notna().any() for frame in frames)
            if known and COLUMNS[metric].pooled is None:
                yield key, metric, *frames
