"""Running a suite: train what is missing, score what is not scored, compare, write ``results.json`` and the report.

Everything is kept under the output folder: ``runs/`` (a bundle a system and seed), ``codecs/`` (codecs that several
systems share), ``evaluations/`` (scores, reused while weights, settings and data are the same). ``suite.json`` in a run
keeps what it was trained on; weights of another configuration or data set are refused. A run that is interrupted goes
on with the same call; a system that fails is recorded with its message, and the others go on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from .. import evaluation as scoring_of_systems
from ..bundle.config import find_bundle, load_stage_config
from ..data.datalist import load_dataset_info
from ..data.splits import normalize_split
from ..errors import InputError
from ..files import clean_json, read_json, save_json, weights_sha256
from ..networks.weights import stage_finished
from ..provenance import provenance
from ..training.run import TRAINING_STAGES, stage_weights, train
from .report import write_report
from .results import SUITE_RESULT_VERSION, check_version, save_csv, versions
from .scoring import score_reconstruction, score_subsamples
from .statistics import compare_groups, group_interval, holm
from .suite import CODEC_STAGES, METRICS, RECONSTRUCTION_METRICS, Evaluation, Suite, System, slug

__all__ = ["SuiteRun"]

# How a system's share of the time is parted among its stages.
STAGE_SHARES = {"image_codec": 0.15, "mask_codec": 0.2, "train": 0.35, "scoring": 0.3}
TRAINING_SHARE = 0.7
# In each run: what its weights were trained on.
RUN_RECORD = "suite.json"
# All samples of a deterministic system are alike; two of them define what one leaves undefined (NCC, CI score).
DETERMINISTIC_SAMPLES = 2
# With a budget, fewer cases than these are not worth an evaluation.
MIN_CASES = 10
EVALUATION_SEED = 0
POOLED = ("ece", "ece_band")
BUNDLES = {"isic2018": "skin_lesion_dermoscopy_latent_diffusion", "cvc-clinicdb": "polyp_colonoscopy_latent_diffusion"}
LUNG = "lung_nodule_ct_latent_diffusion"
# Keys that change where or how fast a stage is trained, not what comes out.
WITHOUT_EFFECT = {
    "bundle_root", "output_dir", "dataset_dir", "weights", "image_codec_weights", "mask_codec_weights", "tracking_uri",
    "tracker", "tracked_parameters", "experiment_name", "max_minutes", "num_workers", "cache_workers", "cache_rate",
    "checkpoint_interval", "device", "stage",
}  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """A system with one seed and the folder of its run."""

    system: System
    seed: int
    run: Path
    given: bool


class SuiteRun:
    """One call of a suite: members, what is left of the time, what was left out and what failed."""

    def __init__(
        self,
        suite: Suite,
        dataset_dir: Path,
        output: Path,
        bundle: str | Path | None,
        max_minutes: float | None,
        max_cases: int | None,
        systems: Sequence[str] | None,
        seeds: Sequence[int],
        split: str,
        runs: Mapping[str, str | Path],
        overrides: Mapping[str, Any],
    ) -> None:
        for name, value in {"--max-minutes": max_minutes, "--max-cases": max_cases}.items():
            if value is not None and (value < 0 or (name == "--max-cases" and value < 1)):
                raise InputError(f"{name} must be positive, found {value}.")
        self.suite, self.dataset_dir, self.output = suite, dataset_dir.absolute(), output.absolute()
        self.info = load_dataset_info(dataset_dir)
        self.split = normalize_split(split)
        if not self.info.get(self.split):
            raise InputError(f"The {self.split} part of {dataset_dir} is empty: choose another --split.")
        self.bundle = find_bundle(bundle or _bundle_for(self.info, dataset_dir))
        self.fingerprint = hashlib.sha256((self.dataset_dir / "dataset.json").read_bytes()).hexdigest()
        self.max_minutes, self.max_cases, self.overrides = max_minutes, max_cases, dict(overrides)
        # 0 is no budget of no time: it forbids training and does not limit scoring.
        self.deadline = time.monotonic() + 60.0 * max_minutes if max_minutes else None
        self.left_out: list[dict[str, str]] = []
        # Members whose absence is explained, and runs whose weights must not be scored.
        self.reported: set[tuple[str, int]] = set()
        self.refused: set[Path] = set()
        self.failures: list[dict[str, str]] = []
        self.not_applicable: dict[str, str] = {}
        self.results_path = self.output / "results.json"
        if self.results_path.is_file():
            found = read_json(self.results_path)
            check_version(found, SUITE_RESULT_VERSION, self.results_path)
            if found.get("suite") != suite.name:
                raise InputError(
                    f"{self.results_path} holds results of the suite {found.get('suite')!r}, and {suite.name!r} would "
                    "overwrite them. Choose another --output-dir, or move the file away."
                )
        self.members = self._members(systems, seeds, runs)

    def _members(
        self, wanted: Sequence[str] | None, seeds: Sequence[int], runs: Mapping[str, str | Path]
    ) -> list[Member]:
        known = {slug(system.name): system for system in self.suite.systems}
        for name in [*(wanted or []), *runs]:
            if slug(name) not in known:
                names = ", ".join(system.name for system in self.suite.systems)
                raise InputError(f"The suite {self.suite.name} has no system {name!r}; it has {names}.")
        given = {slug(name): find_bundle(folder) for name, folder in runs.items()}
        for name, place in given.items():
            if not any((place / "models").glob("*.pt")):
                raise InputError(f"--run {name}={place}: no weights in its models/. Train it, or give another folder.")
        members = []
        for key, system in known.items():
            if wanted is not None and key not in {slug(name) for name in wanted}:
                self._leave_out(system.name, "not among --systems")
                continue
            source = slug(system.shares or system.name)
            folder: Path | None = given.get(key, given.get(source))
            for seed in seeds[:1] if folder else seeds:
                run = folder or self.output / "runs" / f"{source}_seed{seed}"
                members.append(Member(system, seed, run, folder is not None))
        return members

    def _leave_out(self, what: str, why: str) -> None:
        logger.info("Left out: %s: %s", what, why)
        self.left_out.append({"what": what, "why": why})

    def _fail(self, what: str, error: Exception) -> None:
        logger.error("Failed: %s: %s", what, error)
        if not isinstance(error, InputError):
            logger.error("This is unexpected:", exc_info=error)
        self.failures.append({"what": what, "message": str(error) or type(error).__name__})

    def _report(self, member: Member, why: str | Exception, what: str = "") -> None:
        """Say of a member why it is left out (a text) or how it failed (an exception)."""
        self.reported.add((member.system.name, member.seed))
        label = ", ".join(part for part in (_label(member), what) if part)
        if isinstance(why, Exception):
            self._fail(label, why)
        else:
            self._leave_out(label, why)

    def _minutes_left(self) -> float:
        return math.inf if self.deadline is None else (self.deadline - time.monotonic()) / 60.0

    # -- training ------------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Train, score and compare; returns the contents of ``results.json``."""
        self._check_runs()
        untrained = [
            m for m in self.members
            if not m.given and m.system.shares is None and m.run not in self.refused and not self._trained(m)
        ]  # fmt: skip
        training_ends = None if self.max_minutes is None else time.monotonic() + 60 * TRAINING_SHARE * self.max_minutes
        for number, member in enumerate(untrained):
            share = None
            if self.max_minutes == 0:
                self._report(member, "not trained to the end: --max-minutes 0 only scores")
                continue
            if training_ends is not None and self.max_minutes is not None:
                # What a system does not use goes to the scoring: those that come later must not get more for it.
                share = min(
                    TRAINING_SHARE * self.max_minutes / len(untrained),
                    (training_ends - time.monotonic()) / 60.0 / (len(untrained) - number),
                )
                if share <= 0:
                    self._report(member, "not trained: the time was up")
                    continue
            try:
                self._train(member, share)
            except Exception as error:
                # Weights may lie there from before, but not those that this call was asked for.
                self.refused.add(member.run)
                self._report(member, error, "training")
        scored = self._score_all()
        # As the file has it: what is undefined is None, in a first call as in a repeated one.
        results = clean_json(self._assemble(scored))
        save_json(results, self.results_path)
        save_csv(pd.DataFrame(results["measurements"]), self.output / "results.csv")
        write_report(self.suite, results, self.output / "report.html", self._panels(scored))
        return results

    def _needed(self, system: System) -> str:
        return TRAINING_STAGES[system.reconstruction] if system.reconstruction else "model.pt"

    def _trained(self, member: Member) -> bool:
        return stage_finished(member.run / "models" / self._needed(member.system))

    def _check_runs(self) -> None:
        """Record a failure for every run whose weights were trained on something else than this call asks for."""
        checked: set[Path] = set()
        for member in self.members:
            if member.given or member.run in checked or not any((member.run / "models").glob("*.pt")):
                continue
            checked.add(member.run)
            try:
                self._check_run(member)
            except Exception as error:
                self.refused.add(member.run)
                self._report(member, error, "training")

    def _check_run(self, member: Member) -> None:
        record = member.run / RUN_RECORD
        remedy = (
            "Repeat the arguments that it was trained with, choose another --output-dir, or move the folder away to "
            f"train anew; --run '{member.system.name}={member.run}' scores it as it is."
        )
        if not record.is_file():
            raise InputError(
                f"{member.run} holds weights, and no {RUN_RECORD} says what they were trained on. {remedy}"
            )
        differences = _differences(read_json(record), clean_json(self._trained_on(member)))
        if differences:
            raise InputError(f"{member.run} was trained on something else: {'; '.join(differences)}. {remedy}")

    def _trained_on(self, member: Member) -> dict[str, Any]:
        """What the weights of a member's run depend on: the data set, and what each stage's run reaches."""
        name = member.system.shares or member.system.name
        owner = replace(member, system=next(system for system in self.suite.systems if system.name == name))
        overrides = self._training_overrides(owner)
        return {
            "bundle": self.bundle.name,
            "dataset_sha256": self.fingerprint,
            "stages": {
                stage: _reached(load_stage_config(self.bundle, stage, owner.system.experiment, overrides))
                for stage in self._stages(owner, overrides)
            },
        }

    def _stages(self, member: Member, overrides: Mapping[str, Any]) -> list[str]:
        config = load_stage_config(self.bundle, "train", member.system.experiment, overrides)
        return [stage for stage in TRAINING_STAGES if stage in config.get("training_stages", TRAINING_STAGES)]

    def _training_overrides(self, member: Member) -> dict[str, Any]:
        own = _merge(member.system.overrides, self.overrides)
        if member.system.reconstruction:
            own["training_stages"] = [member.system.reconstruction]
        return {**own, "seed": member.seed}

    def _train(self, member: Member, minutes: float | None) -> None:
        overrides = self._training_overrides(member)
        stages = self._stages(member, overrides)
        save_json(self._trained_on(member), member.run / RUN_RECORD)
        self._share_codecs(member, stages, overrides)
        arguments = (self.bundle, self.dataset_dir, member.system.experiment, member.run)
        logger.info("Training %s%s", _label(member), "" if minutes is None else f", {minutes:.1f} minutes")
        if minutes is None:
            train(*arguments, None, **overrides)
        else:
            ends = time.monotonic() + 60.0 * minutes
            whole = sum(STAGE_SHARES[stage] for stage in stages)
            before = _stage_minutes(member.run)
            for stage in stages:
                weights = member.run / "models" / stage_weights(stage, stages)
                if stage_finished(weights):
                    continue
                # A stage's share is the same whether the codecs are trained here or taken over: a system must not gain
                # by another one's training. A codec that ends early lets `train` go on with the next stage: counted.
                spent = _stage_minutes(member.run).get(stage, 0.0) - before.get(stage, 0.0)
                left = min((ends - time.monotonic()) / 60.0, minutes * STAGE_SHARES[stage] / whole - spent)
                if left > 0:
                    train(*arguments, left, **overrides)
                if stage != stages[-1] and weights.is_file() and not stage_finished(weights):
                    # Weights without a training state are a finished stage: it stays as its share left it, or the next
                    # one would never get its own.
                    weights.with_name(f"training_state_{weights.name}").unlink()
                    self._leave_out(f"{_label(member)}, {stage}", "the budget ended it before its last epoch")
            if stages[-1] not in CODEC_STAGES and not self._trained(member):
                self._report(member, "the budget ended it before its last epoch", "training")
        self._keep_codecs(member, stages, overrides)

    def _codec_key(self, member: Member, stage: str, overrides: Mapping[str, Any]) -> str:
        config = load_stage_config(self.bundle, stage, member.system.experiment, overrides)
        reached = [self.fingerprint, _reached(config)]
        return hashlib.sha256(json.dumps(reached, sort_keys=True).encode()).hexdigest()[:20]

    def _share_codecs(self, member: Member, stages: Sequence[str], overrides: Mapping[str, Any]) -> None:
        for stage in stages:
            target = member.run / "models" / TRAINING_STAGES[stage]
            if stage not in CODEC_STAGES or target.is_file():
                continue
            source = self.output / "codecs" / f"{self._codec_key(member, stage, overrides)}.pt"
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                record = member.run / "shared_stages.json"
                shared = read_json(record) if record.is_file() else {}
                save_json({**shared, stage: read_json(source.with_suffix(".json"))}, record)
                shutil.copyfile(source, target.with_suffix(".part"))
                target.with_suffix(".part").replace(target)

    def _keep_codecs(self, member: Member, stages: Sequence[str], overrides: Mapping[str, Any]) -> None:
        for stage in stages:
            weights = member.run / "models" / TRAINING_STAGES[stage]
            if stage not in CODEC_STAGES or not stage_finished(weights):
                continue
            target = self.output / "codecs" / f"{self._codec_key(member, stage, overrides)}.pt"
            if not target.is_file():
                costs = _read_if_there(member.run / "training.json").get("stages", {}).get(stage, {})
                save_json({"trained_by": member.run.name, **costs}, target.with_suffix(".json"))
                shutil.copyfile(weights, target.with_suffix(".part"))
                target.with_suffix(".part").replace(target)

    # -- scoring -------------------------------------------------------------------------------------------------------

    def _score_all(self) -> list[dict[str, Any]]:
        due = []
        for member in self.members:
            weights = member.run / "models" / self._needed(member.system)
            if member.run in self.refused or not weights.is_file():
                if (member.system.name, member.seed) not in self.reported:
                    why = "their training failed" if member.run in self.refused else "there are no weights"
                    self._report(member, f"not scored: {why}")
                continue
            due += [(member, e) for e in self.suite.evaluations if self.suite.applies(member.system, e)]
        limit = self._choose_cases(due)
        scored = []
        for member, evaluation in due:
            label = f"{_label(member)}, {_title(evaluation)}"
            cases = min((n for n in (limit, evaluation.max_cases) if n is not None), default=None)
            try:
                entry = self._score(member, evaluation, cases, label)
            except Exception as error:
                self._fail(label, error)
                continue
            if entry is not None:
                scored.append(entry)
        return scored

    def _choose_cases(self, due: Sequence[tuple[Member, Evaluation]]) -> int | None:
        """Cases that the rest of the budget allows, the same for every system; kept for later calls."""
        if self.max_cases is not None or self.max_minutes is None:
            return self.max_cases
        plan = self.output / "plan.json"
        available = len(self.info[self.split])
        made_for = {
            "suite": self.suite.name, "split": self.split, "bundle": self.bundle.name,
            "dataset_sha256": self.fingerprint,
        }  # fmt: skip
        found = _read_if_there(plan)
        fits = all(found.get(key) == value for key, value in made_for.items())
        if fits and self.max_minutes in (0, found.get("max_minutes")):
            cases = int(found["max_cases"])
        elif self.max_minutes == 0:
            return None
        else:
            seconds = 0.0
            for member, evaluation in due:
                if member.system.reconstruction or self._minutes_left() <= 0:
                    continue
                try:
                    seconds += self._seconds_per_case(member, evaluation)
                except Exception:
                    # The evaluation itself will fail and be recorded.
                    logger.debug("No estimate for %s", _label(member), exc_info=True)
            if seconds == 0.0:
                return None
            left = 60.0 * max(self._minutes_left(), 0.0)
            cases = min(available, max(MIN_CASES, int(left / seconds)))
            save_json(
                {**made_for, "max_minutes": self.max_minutes, "max_cases": cases, "seconds_per_case": seconds}, plan
            )
        if cases >= available:
            return None
        self._leave_out(
            f"{available - cases} of {available} {self.split} cases", "the budget; plan.json keeps the number"
        )
        return cases

    def _seconds_per_case(self, member: Member, evaluation: Evaluation) -> float:
        """Estimate from one case, at most two samples and two steps, extended to the evaluation's own."""
        settings = self._settings(member.system, evaluation, 1)
        samples = settings["num_samples"] or 16
        config = load_stage_config(member.run, "evaluate")
        steps = settings["num_inference_steps"] or config.get("num_inference_steps") or 1
        steps = 1 if member.system.deterministic else int(steps)
        probe = {
            **settings, "num_samples": min(samples, 2), "save_samples": False,
            "num_inference_steps": None if member.system.deterministic else min(steps, 2),
        }  # fmt: skip
        folder = self.output / "evaluations" / "estimate"
        result = scoring_of_systems.evaluate(member.run, self.dataset_dir, folder, **probe)
        shutil.rmtree(folder)
        scale = samples / min(samples, 2) * steps / min(steps, 2)
        return float(result["summary"]["seconds_per_case"]) * scale

    def _settings(self, system: System, evaluation: Evaluation, max_cases: int | None) -> dict[str, Any]:
        settings = {
            "split": self.split,
            "num_samples": DETERMINISTIC_SAMPLES if system.deterministic else evaluation.num_samples,
            "num_inference_steps": None if system.deterministic else evaluation.num_inference_steps,
            "max_cases": max_cases, "seed": EVALUATION_SEED, "save_samples": evaluation.save_samples,
            **_merge(evaluation.overrides, system.evaluation),
        }  # fmt: skip
        # The row says this point, whatever the system's own settings are.
        axis = evaluation.axis
        if axis is not None and not (system.deterministic and axis in ("num_samples", "num_inference_steps")):
            settings[axis] = evaluation.point
        return settings

    def _score(
        self, member: Member, evaluation: Evaluation, max_cases: int | None, label: str
    ) -> dict[str, Any] | None:
        system = member.system
        folder = self.output / "evaluations" / f"{slug(system.name)}_seed{member.seed}" / evaluation.key
        weights = member.run / "models" / self._needed(system)
        settings = self._settings(system, evaluation, max_cases)
        wanted = {
            "version": scoring_of_systems.RESULT_VERSION,
            "settings": {
                **settings, "reconstruction": system.reconstruction, "subsample": list(evaluation.subsample),
                "draws": evaluation.draws, "metrics": self.suite.shown(evaluation),
            },
            # What the run's own configuration says of drawing, e.g. test-time augmentation.
            "evaluate_sha256": hashlib.sha256((member.run / "configs" / "evaluate.json").read_bytes()).hexdigest(),
            "weights_sha256": weights_sha256(weights), "dataset_sha256": self.fingerprint,
        }  # fmt: skip
        record = folder / "record.json"
        if record.is_file():
            found = read_json(record)
            check_version(found, scoring_of_systems.RESULT_VERSION, record)
        if not record.is_file() or found != json.loads(json.dumps(wanted)):
            if self._minutes_left() <= 0:
                self._leave_out(label, "not scored: the time was up")
                return None
            logger.info("Scoring %s", label)
            shutil.rmtree(folder, ignore_errors=True)
            self._write_scores(member, evaluation, settings, folder)
            save_json(wanted, record)
        result = scoring_of_systems.load_result(folder / "metrics.json")
        points = folder / "points.csv"
        return {
            "member": member, "evaluation": evaluation, "result": result, "folder": folder,
            "weights_sha256": wanted["weights_sha256"], "frames": _frames(points if points.is_file() else
                                                                         folder / "cases.csv"),
            "num_samples": settings["num_samples"],
        }  # fmt: skip

    def _write_scores(
        self, member: Member, evaluation: Evaluation, settings: dict[str, Any], folder: Path
    ) -> None:  # fmt: skip
        if member.system.reconstruction:
            started = time.perf_counter()
            frame = score_reconstruction(
                member.run, member.system.reconstruction, self.dataset_dir, self.split, settings["max_cases"],
                EVALUATION_SEED,
            )  # fmt: skip
            save_csv(frame, folder / "cases.csv")
            means = {name: float(frame[name].mean()) for name in RECONSTRUCTION_METRICS}
            seconds = (time.perf_counter() - started) / len(frame)
            reason = (
                "images have no overlap" if member.system.reconstruction == "image_codec" else "no mask has a pixel"
            )
            save_json(
                {
                    "version": scoring_of_systems.RESULT_VERSION,
                    "summary": {**means, "num_cases": len(frame), "num_samples": 1, "seconds_per_case": seconds},
                    "not_applicable": {name: reason for name, value in means.items() if math.isnan(value)},
                    "provenance": provenance(),
                },
                folder / "metrics.json",
            )
            return
        scoring_of_systems.evaluate(member.run, self.dataset_dir, folder, **settings)
        if evaluation.subsample:
            cases = pd.read_csv(folder / "cases.csv", dtype={"case": str, "group": str}, keep_default_na=False)
            metrics = self.suite.shown(evaluation)
            fusing = scoring_of_systems.load_result(folder / "metrics.json")["settings"]
            points = score_subsamples(
                folder / "samples", cases, evaluation.subsample, metrics, evaluation.draws, fusing
            )  # fmt: skip
            save_csv(points, folder / "points.csv")

    # -- results -------------------------------------------------------------------------------------------------------

    def _assemble(self, scored: list[dict[str, Any]]) -> dict[str, Any]:
        tables = _mean_over_seeds(scored)
        measurements, raw = [], []
        for (name, key, point), (frame, entries) in tables.items():
            evaluation = entries[0]["evaluation"]
            system = entries[0]["member"].system
            # A deterministic network is called once, however many equal samples are made of its mask.
            drawn = 1 if system.deterministic else entries[0]["result"]["summary"]["num_samples"]
            seconds = [entry["result"]["summary"]["seconds_per_case"] / drawn for entry in entries]
            for metric in self.suite.shown(evaluation):
                row = {
                    "system": name, "evaluation": evaluation.name, "key": key,
                    "axis": "num_samples" if evaluation.subsample else evaluation.axis, "point": point,
                    "metric": metric, **self._figure(metric, frame, entries, evaluation),
                    "num_seeds": len(entries), **self._costs([entry["member"] for entry in entries]),
                    # A codec on its own draws no sample.
                    "seconds_per_sample": None if system.reconstruction else sum(seconds) / len(seconds),
                }  # fmt: skip
                measurements.append(row)
        for name, key, point, metric, other in self._pairs(tables):
            reference = self.suite.reference
            first, second = tables[name, key, point][0], tables[other, key, point][0]
            compared = asdict(compare_groups(first, second, metric))
            if compared["num_cases"]:
                raw.append(
                    {"system": name, "reference": reference, "key": key, "point": point, "metric": metric, **compared}
                )
        for row, p in zip(raw, holm([row["p"] for row in raw]), strict=True):
            row.update(p_holm=p)
        return {
            "version": SUITE_RESULT_VERSION,
            "suite": self.suite.name,
            "title": self.suite.title,
            "bundle": self.bundle.name,
            "dataset": {
                "name": self.info.get("name"), "description": self.info.get("description", ""),
                "num_raters": self.info.get("num_raters"), "split": self.split, "cases": len(self.info[self.split]),
                "group_unit": self.info.get("split", {}).get("group_unit", "group"),
                "arguments": self.info.get("provenance", {}).get("arguments", {}), "sha256": self.fingerprint,
            },
            "options": {
                "max_minutes": self.max_minutes, "max_cases": self.max_cases,
                "training_seeds": sorted({member.seed for member in self.members}),
                "evaluation_seed": EVALUATION_SEED, "overrides": self.overrides,
            },
            "provenance": versions(),
            "measurements": measurements,
            "comparisons": raw,
            "calibration": _calibration(scored),
            "evaluations": [
                {
                    "system": entry["member"].system.name, "seed": entry["member"].seed,
                    "key": entry["evaluation"].key, "weights_sha256": entry["weights_sha256"],
                    "num_cases": entry["result"]["summary"]["num_cases"], "num_samples": entry["num_samples"],
                    "scored_with": entry["result"].get("provenance", {}),
                }
                for entry in scored
            ],
            "not_applicable": self.not_applicable,
            "left_out": self.left_out,
            "failures": self.failures,
        }  # fmt: skip

    def _figure(
        self, metric: str, frame: pd.DataFrame, entries: list[dict[str, Any]], evaluation: Evaluation
    ) -> dict[str, Any]:
        """Mean, interval and numbers of cases and groups; why it is missing goes to ``not_applicable``."""
        if metric in POOLED:
            values = [entry["result"]["summary"].get(metric) for entry in entries]
            known = [value for value in values if value is not None]
            figure = {
                "mean": sum(known) / len(known) if known else math.nan, "low": math.nan, "high": math.nan,
                "num_cases": len(frame), "num_groups": frame["group"].nunique(),
            }  # fmt: skip
        elif metric in frame:
            figure = asdict(group_interval(frame[metric], frame["group"]))
        else:
            figure = asdict(group_interval(pd.Series(dtype=float), pd.Series(dtype=str)))
        if math.isnan(figure["mean"]):
            system = entries[0]["member"].system.name
            reason = entries[0]["result"].get("not_applicable", {}).get(metric, "undefined in every case")
            where = evaluation.name if evaluation.axis is None else f"{evaluation.name}, {_title(evaluation)}"
            self.not_applicable[f"{METRICS[metric].title}, {system}, {where}"] = reason
        return figure

    def _pairs(self, tables: Mapping[tuple, Any]) -> list[tuple]:
        """(system, evaluation, point, metric, reference) of every comparison that the suite asks for."""
        reference, pairs = self.suite.reference, []
        evaluations = {evaluation.key: evaluation for evaluation in self.suite.evaluations}
        for name, key, point in tables:
            evaluation = evaluations[key]
            points = evaluation.compare_at
            skipped = evaluation.axis is not None if points is None else point not in points
            if reference is None or name == reference or skipped or (reference, key, point) not in tables:
                continue
            frames = tables[name, key, point][0], tables[reference, key, point][0]
            shown = self.suite.shown(evaluation)
            for metric in shown if not self.suite.compare else [name for name in self.suite.compare if name in shown]:
                if metric not in POOLED and all(metric in frame and frame[metric].notna().any() for frame in frames):
                    pairs.append((name, key, point, metric, reference))
        return pairs

    def _costs(self, members: Sequence[Member]) -> dict[str, Any]:
        minutes = []
        costs: dict[str, Any] = {}
        for member in members:
            costs = _read_if_there(member.run / "training.json")
            stages = {**_read_if_there(member.run / "shared_stages.json"), **costs.get("stages", {})}
            if stages:
                minutes.append(sum(float(stage.get("minutes", 0.0)) for stage in stages.values()))
        # training.json counts the whole segmenter, which is not what a codec on its own is.
        counted = {} if members[0].system.reconstruction else costs
        return {
            "parameters": counted.get("parameters"),
            "multiply_accumulates": counted.get("multiply_accumulates"),
            "training_minutes": sum(minutes) / len(minutes) if minutes else None,
        }

    def _panels(self, scored: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What the report draws: folder of saved samples, system, and the items of the first cases."""
        items = {item["case"]: item for item in self.info[self.split]}
        panels = []
        for entry in scored:
            number = entry["evaluation"].panels
            if number and entry["member"].seed == self.members[0].seed:
                frame = next(iter(entry["frames"].values()))
                # Cases in which the readers see something, spread over the data set.
                shown = frame[frame["dice"].notna()].index if "dice" in frame else frame.index
                shown = list(shown if len(shown) else frame.index)
                cases = [shown[i * len(shown) // number] for i in range(min(number, len(shown)))]
                panels.append(
                    {
                        "system": entry["member"].system.name,
                        "cases": [
                            {"case": case, "image": self.dataset_dir / items[case]["image"],
                             "samples": entry["folder"] / "samples" / f"{case}.npz"}
                            for case in cases
                        ],
                    }
                )  # fmt: skip
        return panels


def _bundle_for(info: Mapping[str, Any], dataset_dir: Path) -> str:
    if info.get("source") in BUNDLES:
        return BUNDLES[str(info["source"])]
    if info.get("num_channels") == 1:
        return LUNG
    raise InputError(f"No bundle is made for {dataset_dir} ({info.get('name')}): choose one with --bundle.")


def _merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """``second`` over ``first``; the blocks of ``stages`` are merged, not replaced."""
    merged = {**first, **second}
    if "stages" in first and "stages" in second:
        names = {**first["stages"], **second["stages"]}
        merged["stages"] = {n: {**first["stages"].get(n, {}), **second["stages"].get(n, {})} for n in names}
    return merged


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
    """What of a run's ``suite.json`` is another than what this call asks for, in words; [] if it fits."""

    def short(value: Any) -> str:
        text = json.dumps(value)
        return text if len(text) <= 40 else f"{text[:37]}..."

    found = []
    if kept.get("dataset_sha256") != asked["dataset_sha256"]:
        found.append("another data set, or the same one prepared anew (dataset.json differs)")
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


def _stage_minutes(run: Path) -> dict[str, float]:
    """Minutes of training that each stage of a run has had."""
    stages = _read_if_there(run / "training.json").get("stages", {})
    return {stage: float(entry.get("minutes", 0.0)) for stage, entry in stages.items()}


def _label(member: Member) -> str:
    return member.system.name if member.given else f"{member.system.name}, seed {member.seed}"


def _title(evaluation: Evaluation) -> str:
    return evaluation.name if evaluation.axis is None else f"{evaluation.axis} = {evaluation.point:g}"


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _frames(path: Path) -> dict[float | None, pd.DataFrame]:
    """Scores indexed by case, one frame a point; ``None`` where there is only one."""
    frame = pd.read_csv(path, dtype={"case": str, "group": str})
    # A data set without groups: every case is its own.
    frame["group"] = frame["group"].where(frame["group"].notna(), frame["case"])
    if "point" not in frame:
        return {None: frame.set_index("case")}
    return {float(point): part.drop(columns="point").set_index("case") for point, part in frame.groupby("point")}


def _mean_over_seeds(
    scored: Sequence[dict[str, Any]],
) -> dict[tuple[str, str, float | None], tuple[pd.DataFrame, list[dict[str, Any]]]]:
    """(system, evaluation, point) → each case's mean over the seeds, and the evaluations behind it."""
    grouped: dict[tuple, list[tuple[pd.DataFrame, dict[str, Any]]]] = {}
    for entry in scored:
        evaluation = entry["evaluation"]
        for point, frame in entry["frames"].items():
            at = evaluation.point if point is None else point
            grouped.setdefault((entry["member"].system.name, evaluation.key, at), []).append((frame, entry))
    tables = {}
    for key, parts in grouped.items():
        frames = [frame for frame, _ in parts]
        # A case counts only with all seeds: else the mean would mix them unequally.
        common = frames[0].index
        for frame in frames[1:]:
            common = common.intersection(frame.index)
        numbers = [frame.loc[common].drop(columns="group").astype(float) for frame in frames]
        mean = sum(numbers[1:], numbers[0]) / len(numbers)
        tables[key] = (mean.assign(group=frames[0].loc[common, "group"]), [entry for _, entry in parts])
    return tables


def _calibration(scored: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "system": entry["member"].system.name, "seed": entry["member"].seed, "key": entry["evaluation"].key,
            **{region: bins for region, bins in entry["result"].get("calibration", {}).items()},
        }
        for entry in scored
        if entry["evaluation"].reliability
    ]  # fmt: skip
