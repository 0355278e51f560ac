"""Reuse of earlier work: runs with the same data and settings, and codecs that several systems share."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..bundle.training_record import RECORD_FILE, read_record
from ..errors import InputError
from ..files import clean_json, save_bytes, save_json
from ..networks.weights import stage_finished
from ..training.run import TRAINING_STAGES
from .member import Member
from .notes import Notes
from .request import Request
from .results import SuiteRecord
from .suite import CODEC_STAGES

# Keys that change where or how fast a stage is trained, not its result.
WITHOUT_EFFECT = {
    "bundle_root", "output_dir", "dataset_dir", "weights", "image_codec_weights", "mask_codec_weights", "tracking_uri",
    "experiment_name", "max_minutes", "deadline", "num_workers", "cache_workers", "cache_rate", "checkpoint_interval",
    "log_interval", "device", "stage", "training_stages",
}  # fmt: skip


def check_runs(members: Iterable[Member], request: Request, record: SuiteRecord, notes: Notes) -> None:
    """Note a failure for every run whose weights were trained on something else than this call asks for."""
    checked: set[Path] = set()
    for member in members:
        if member.given or member.run in checked or not any((member.run / "models").glob("*.pt")):
            continue
        checked.add(member.run)
        try:
            _check_run(member, request, record)
        except Exception as error:
            notes.refuse(member, error)


def _check_run(member: Member, request: Request, record: SuiteRecord) -> None:
    remedy = (
        "Repeat the arguments that it was trained with, choose another --output-dir, or move the folder away to "
        f"train again; --run '{member.system.name}={member.run}' scores it as it is."
    )
    kept = record.runs.get(member.run.name)
    if kept is None:
        raise InputError(
            f"{member.run} holds weights, and no {record.path} says what they were trained on. {remedy}"
        )  # fmt: skip
    found = _differences(kept, clean_json(trained_on(member, request)))
    if found:
        raise InputError(f"{member.run} was trained on something else: {'; '.join(found)}. {remedy}")


def trained_on(member: Member, request: Request) -> dict[str, Any]:
    """What the weights of a member's run depend on: the data set, and what each stage's run reaches."""
    name = member.system.shares or member.system.name
    owner = replace(member, system=next(system for system in request.suite.systems if system.name == name))
    return {
        "bundle": request.bundle.name,
        "dataset_sha256": request.fingerprint,
        "stages": {stage: _reached(owner.config(stage, request)) for stage in owner.stages(request)},
    }


def _reached(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a stage's configuration that its result depends on: what its run reaches by references."""
    reached: dict[str, Any] = {}
    queue = ["run", "initialize"]
    while queue:
        name = queue.pop()
        if name in reached or name in WITHOUT_EFFECT or name not in config:
            continue
        reached[name] = config[name]
        queue += re.findall(r"@([A-Za-z_]\w*)", json.dumps(config[name]))
    return dict(sorted(reached.items()))


def _differences(kept: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """What a run was trained on and this call does not ask for, in words; [] if it fits."""

    def short(value: Any) -> str:
        text = json.dumps(value)
        return text if len(text) <= 40 else f"{text[:37]}..."

    found = []
    if kept.get("dataset_sha256") != asked["dataset_sha256"]:
        found.append("another data set, or the same one prepared again (dataset.json differs)")
    for stage, reached in asked["stages"].items():
        before = kept.get("stages", {}).get(stage)
        if before is None:
            found.append(f"without the stage {stage}")
            continue
        keys = [key for key in sorted({*before, *reached}) if before.get(key) != reached.get(key)]
        # Plain values say more than the blocks that refer to them.
        keys.sort(key=lambda key: isinstance(reached.get(key), (dict, list)))
        changes = [f"{key} = {short(before.get(key))}, now {short(reached.get(key))}" for key in keys[:3]]
        more = [f"{len(keys) - 3} more"] if len(keys) > 3 else []
        if keys:
            found.append(f"{stage}: {', '.join([*changes, *more])}")
    if found and kept.get("bundle") != asked["bundle"]:
        found.insert(0, f"bundle {kept.get('bundle')}, now {asked['bundle']}")
    return found


def stage_minutes(run: Path) -> dict[str, float]:
    """Minutes of training that each stage of a run has had, reused ones included."""
    return {stage: float(took.get("minutes", 0.0)) for stage, took in read_record(run).get("stages", {}).items()}


def share_codecs(member: Member, stages: Sequence[str], request: Request, record: SuiteRecord) -> None:
    """Copy into a run the codecs that an earlier one was trained with in the same way, with what they took."""
    for stage in stages:
        target = member.run / "models" / TRAINING_STAGES[stage]
        if stage not in CODEC_STAGES or target.is_file():
            continue
        key, kept = _find_codec(member, stage, request)
        if kept.is_file() and key in record.codecs:
            costs = read_record(member.run)
            costs["stages"] = {**costs.get("stages", {}), stage: record.codecs[key]}
            save_json(costs, member.run / RECORD_FILE)
            save_bytes(kept.read_bytes(), target)


def keep_codecs(member: Member, stages: Sequence[str], request: Request, record: SuiteRecord) -> None:
    """Keep the codecs of a run for those systems that would train the same."""
    for stage in stages:
        weights = member.run / "models" / TRAINING_STAGES[stage]
        if stage not in CODEC_STAGES or not stage_finished(weights):
            continue
        key, kept = _find_codec(member, stage, request)
        if key not in record.codecs or not kept.is_file():
            save_bytes(weights.read_bytes(), kept)
            costs = read_record(member.run).get("stages", {}).get(stage, {})
            record.codecs[key] = {"trained_by": member.run.name, **costs}
            record.save()


def _find_codec(member: Member, stage: str, request: Request) -> tuple[str, Path]:
    """Key of a member's codec, and where it is kept."""
    reached = [request.fingerprint, _reached(member.config(stage, request))]
    key = hashlib.sha256(json.dumps(reached, sort_keys=True).encode()).hexdigest()[:20]
    return key, request.output / "codecs" / f"{key}.pt"
