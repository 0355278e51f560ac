"""Reading ``configs/suites/*.json``: which systems a suite has, how they are scored, and what is shown.

A suite is a list of systems (each with an experiment and overrides), a list of evaluations (settings that every system
is scored with; an entry with a ``sweep`` makes several), and the metrics that its tables, curves and comparisons show.
Misspelt keys are errors; a key that begins with an underscore is a comment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..bundle.config import without_comments
from ..errors import InputError, did_you_mean
from ..evaluation.columns import COLUMNS
from ..files import read_keys
from .names import find_suite

CODEC_STAGES = ("image_codec", "mask_codec")
# A report without a picture of masks is half a report.
DEFAULT_PANELS = 3


@dataclass(frozen=True)
class System:
    """One row of a suite's tables.

    Attributes:
        name: as it is written.
        experiment: overlay under ``configs/experiments/``, or a JSON file, looked for beside the suite's file first;
            ``None`` is the bundle's own configuration.
        overrides: configuration keys of its training; ``{"stages": {stage: {...}}}`` for those of one stage.
        deterministic: every sample is the same mask (one-to-one), so that their number changes nothing.
        reconstruction: score the codec of this stage on its own, ``"image_codec"`` or ``"mask_codec"``.
        shares: name of a system whose trained weights this one is scored with; only evaluation settings differ.
        evaluation: configuration keys of its evaluation.
    """

    name: str
    experiment: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    deterministic: bool = False
    reconstruction: str | None = None
    shares: str | None = None
    evaluation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """Settings that systems are scored with.

    Attributes:
        name: as it is written.
        num_samples: samples of each case.
        num_inference_steps: denoiser calls for each sample; ``None`` is each system's own.
        max_cases: score at most this many cases.
        overrides: further configuration keys of the evaluation.
        subsample: sample ``num_samples`` masks once, and also score these smaller numbers of them.
        draws: at most so many runs of neighbouring samples of each number are averaged; 1 takes the first ones.
        systems: names of the systems it applies to; all if empty.
        metrics: what it shows; the suite's if empty.
        compare_at: points at which systems are compared: values of ``subsample``; ``None`` is all of them, and no
            point of a sweep.
        reliability: show the reliability curve.
        panels: how many cases the report shows of each system; if no evaluation of the suite says, the first shows 3.
        axis: set by the loader for one point of a sweep: the key that varies.
        point: its value.
    """

    name: str
    num_samples: int | None = None
    num_inference_steps: int | None = None
    max_cases: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    subsample: Sequence[int] = ()
    draws: int = 1
    systems: Sequence[str] = ()
    metrics: Sequence[str] = ()
    compare_at: Sequence[int] | None = None
    reliability: bool = False
    panels: int = 0
    axis: str | None = None
    point: float | None = None

    @property
    def save_samples(self) -> bool:
        """Whether the samples are needed after the evaluation."""
        return bool(self.subsample or self.panels)

    @property
    def title(self) -> str:
        """Its name in a sentence: the point of a sweep, or else the name."""
        return self.name if self.axis is None else f"{self.axis} = {self.point:g}"

    @property
    def key(self) -> str:
        """Folder name."""
        return slug(self.name if self.axis is None else f"{self.name} {self.axis} {self.point:g}")


@dataclass(frozen=True)
class Suite:
    """A suite.

    Attributes:
        name: its file's name.
        title: heading of the report.
        description: what it shows, and by which protocol.
        systems: rows.
        evaluations: settings, sweeps expanded.
        metrics: columns.
        compare: metrics that systems are compared in; must not exceed ``metrics``.
        reference: system that all others are compared with.
        paper: ``{bundle: {system: {metric: figure}}}`` as printed in the paper.
        paper_protocol: ``{bundle: condition}`` under which the paper's figures may stand beside ours.
    """

    name: str
    title: str
    description: str
    systems: Sequence[System]
    evaluations: Sequence[Evaluation]
    metrics: Sequence[str]
    compare: Sequence[str] = ()
    reference: str | None = None
    paper: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    paper_protocol: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def applies(self, system: System, evaluation: Evaluation) -> bool:
        """Whether ``system`` is scored with ``evaluation``."""
        return not evaluation.systems or system.name in evaluation.systems

    def shown(self, evaluation: Evaluation) -> list[str]:
        """Metrics of an evaluation, in order."""
        return list(evaluation.metrics or self.metrics)


def slug(text: str) -> str:
    """File name made from ``text``: lower case, letters, digits and hyphens; UNet++ is not UNet."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower().replace("+", "plus")).strip("-.")


def load_suite(suite: str | Path) -> Suite:
    """Read a suite given as a JSON file or as a name under ``configs/suites/``.

    Raises:
        InputError: no such suite, or an entry of it is unknown, missing or contradicts another.
    """
    path = find_suite(suite)
    content = without_comments(read_keys(path))
    for key, kind in {"systems": Mapping, "evaluations": Mapping, "metrics": str, "compare": str}.items():
        given = content.get(key, [])
        if not isinstance(given, list) or not all(isinstance(entry, kind) for entry in given):
            entries = "texts" if kind is str else "objects with their keys"
            raise InputError(f"{path}: {key} is {given!r}; expected a list of {entries}.")
    systems = [_find_experiment(_make(System, entry, f"{path}, systems"), path) for entry in content.pop("systems", [])]
    evaluations: list[Evaluation] = []
    for entry in content.pop("evaluations", []):
        evaluations += _expand(without_comments(entry), f"{path}, evaluations")
    if evaluations and not any(evaluation.panels for evaluation in evaluations):
        evaluations[0] = replace(evaluations[0], panels=DEFAULT_PANELS)
    found = _make(Suite, {**content, "name": path.stem, "systems": systems, "evaluations": evaluations}, str(path))
    _check(found, path)
    return found


def _find_experiment(system: System, suite: Path) -> System:
    """A system whose experiment is a file beside the suite's, if there is one."""
    beside = suite.parent / f"{system.experiment}"
    return replace(system, experiment=str(beside)) if beside.suffix == ".json" and beside.is_file() else system


def _make(cls: type, entry: Mapping[str, Any], where: str) -> Any:
    known = [item.name for item in fields(cls) if item.name not in ("axis", "point")]
    entry = without_comments(entry)
    for key in entry:
        if key not in known:
            raise InputError(f"{where}: unknown entry {key!r}.{did_you_mean(key, known)} Known: {', '.join(known)}.")
    try:
        return cls(**entry)
    except TypeError as error:
        raise InputError(f"{where}: {error}.") from error


def _expand(entry: Mapping[str, Any], where: str) -> list[Evaluation]:
    """Evaluations of an entry: one, or one for each value of its ``sweep``."""
    rest = {key: value for key, value in entry.items() if key != "sweep"}
    base = _make(Evaluation, rest, where)
    if "sweep" not in entry:
        return [base]
    if len(entry["sweep"]) != 1:
        raise InputError(f"{where}: a sweep varies one key, found {', '.join(entry['sweep']) or 'none'}.")
    (axis, values), expanded = next(iter(entry["sweep"].items())), []
    for value in values:
        own = axis in ("num_samples", "num_inference_steps")
        varied = {axis: value} if own else {"overrides": {**base.overrides, axis: value}}
        expanded.append(Evaluation(**{**rest, **varied, "axis": axis, "point": value}))
    return expanded


def _check(suite: Suite, path: Path) -> None:
    _check_unique([system.name for system in suite.systems], "systems", path)
    _check_unique([evaluation.key for evaluation in suite.evaluations], "evaluations", path)
    systems = [system.name for system in suite.systems]
    asked = {name for evaluation in suite.evaluations for name in evaluation.systems}
    asked |= {system.shares for system in suite.systems if system.shares}
    asked |= {suite.reference} if suite.reference else set()
    for name in sorted(asked - set(systems)):
        raise InputError(
            f"{path}: no system {name!r}.{did_you_mean(name, systems)} The suite has {', '.join(systems)}."
        )
    for name in [*suite.metrics, *suite.compare, *(m for e in suite.evaluations for m in e.metrics)]:
        if name not in COLUMNS:
            raise InputError(f"{path}: unknown metric {name!r}.{did_you_mean(name, COLUMNS)}")
    beyond = [name for name in suite.compare if name not in suite.metrics]
    if beyond:
        raise InputError(f"{path}: compare has {', '.join(beyond)}, which are not in metrics; add them there.")
    for evaluation in suite.evaluations:
        _check_subsample(suite, evaluation, path)
    for system in suite.systems:
        _check_system(suite, system, path)


def _check_unique(names: Sequence[str], kind: str, path: Path) -> None:
    folders = [slug(name) for name in names]
    twice = [name for name, folder in zip(names, folders, strict=True) if folders.count(folder) > 1]
    if twice or not names:
        found = " and ".join(map(repr, twice)) or "none"
        raise InputError(f"{path}: expected {kind}, each with its own name in letters and digits; found {found}.")


def _check_subsample(suite: Suite, evaluation: Evaluation, path: Path) -> None:
    unscored = sorted(set(evaluation.compare_at or ()) - set(evaluation.subsample))
    if unscored:
        raise InputError(
            f"{path}: {evaluation.name!r} compares at {unscored}, but sub-samples {list(evaluation.subsample)}; "
            "compare_at takes numbers of subsample."
        )
    if not evaluation.subsample:
        return
    if max(evaluation.subsample) > (evaluation.num_samples or 0):
        raise InputError(f"{path}: {evaluation.name!r} has fewer samples than subsample asks for.")
    known = [name for name, column in COLUMNS.items() if column.of_any_samples]
    if not set(suite.shown(evaluation)) <= set(known):
        raise InputError(f"{path}: {evaluation.name!r} sub-samples; it can show {', '.join(known)}.")


def _check_system(suite: Suite, system: System, path: Path) -> None:
    if system.shares and system.reconstruction:
        raise InputError(
            f"{path}: {system.name!r} has both shares and reconstruction; a codec is scored in its own run."
        )
    if system.shares in {other.name for other in suite.systems if other.shares}:
        raise InputError(
            f"{path}: {system.name!r} shares the weights of {system.shares!r}, which has no weights itself; name the "
            "system that is trained."
        )
    if system.reconstruction not in (None, *CODEC_STAGES):
        raise InputError(f"{path}: reconstruction must be one of {CODEC_STAGES}, found {system.reconstruction!r}.")
