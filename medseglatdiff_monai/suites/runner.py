"""Running a suite: train what is missing, score what is not scored, compare, write ``results.json`` and the report.

Everything is kept under the output folder: ``runs/`` (a bundle for each system and seed), ``codecs/`` (codecs that
several systems share), ``evaluations/`` (scores, reused while weights, settings and data are the same). ``suite.json``
keeps what each run was trained on; weights of another configuration or data set are refused. After an interruption
the same call resumes; a system that fails is recorded with its message, and the others continue.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from monai.bundle import ConfigParser

from ..bundle.plan import stage_share
from ..files import clean_json, save_json, save_text
from ..networks.weights import finish_stage, stage_finished
from ..training.run import stage_weights, train
from .assemble import assemble
from .budget import Budget, plan_scoring
from .member import Member, choose_members
from .notes import Notes
from .panels import render_panels
from .report import render_report
from .request import Request
from .results import SuiteRecord, check_results, save_csv
from .reuse import check_runs, keep_codecs, share_codecs, stage_minutes, trained_on
from .scoring import Scored, find_scores, score_member

logger = logging.getLogger(__name__)


def run_request(
    request: Request, systems: Sequence[str] | None, seeds: Sequence[int], runs: Mapping[str, str | Path]
) -> dict[str, Any]:
    """What :func:`~medseglatdiff_monai.suites.command.run_suite` does once its arguments are checked."""
    results_path = request.output / "results.json"
    check_results(results_path, request.suite.name)
    record = SuiteRecord(request.output)
    notes, budget = Notes(), Budget(request.max_minutes)
    members, others = choose_members(request, systems, seeds, runs)
    for name in others:
        notes.leave_out(name, "not among --systems")
    check_runs(members, request, record, notes)
    untrained = [
        member for member in members
        if not member.given and member.system.shares is None and member.run not in notes.refused and not member.trained
    ]  # fmt: skip
    logger.info("%s", budget.describe(len(untrained), len(members), len(request.info[request.split])))
    if request.max_minutes != 0:
        load_data(untrained, request, budget)
    _train_all(untrained, request, record, budget, notes)
    scored = _score_all(members, request, record, budget, notes)
    # As the file has it: what is undefined is None, in a first call as in a repeated one.
    results = clean_json(assemble(request, members, scored, notes))
    save_json(results, results_path)
    save_csv(pd.DataFrame(results["measurements"]), request.output / "results.csv")
    shown = [part for part in scored if part.member.seed == members[0].seed]
    report = render_report(request.suite, results, render_panels(request, shown))
    save_text(report, request.output / "report.html")
    return results


def load_data(members: Sequence[Member], request: Request, budget: Budget) -> None:
    """Load the images before the first training, so that their time is not that of the system which is trained first.

    The data sets of the trainings find them in :mod:`~medseglatdiff_monai.data.shared_cache`.
    """
    deadline = budget.loading_deadline()
    keys = {"dataset_dir": str(request.dataset_dir), "deadline": deadline}
    for member in members:
        try:
            # The last stage takes most of the time and sees the images as the systems without codecs do.
            for stage in reversed(member.stages(request)):
                parser = ConfigParser({**member.config(stage, request), **keys})
                for part in ("train", "validate"):
                    if deadline is None or time.monotonic() < deadline:
                        parser.get_parsed_content(f"{part}#dataset")
        except Exception:
            # The training itself will fail and be recorded.
            logger.debug("Nothing loaded for %s", member.label, exc_info=True)
    budget.end_loading()


def _train_all(
    untrained: Sequence[Member], request: Request, record: SuiteRecord, budget: Budget, notes: Notes
) -> None:
    for number, member in enumerate(untrained):
        minutes = budget.training_minutes(number, len(untrained))
        if request.max_minutes == 0:
            notes.explain(member, "not trained to the end: --max-minutes 0 only scores")
        elif minutes is not None and minutes <= 0:
            notes.explain(member, "not trained: the time was up")
        else:
            try:
                _train(member, minutes, request, record, notes)
            except Exception as error:
                notes.refuse(member, error)


def _train(member: Member, minutes: float | None, request: Request, record: SuiteRecord, notes: Notes) -> None:
    """Train a member, with codecs of earlier members where they are the same."""
    stages = member.stages(request)
    ended = [
        stage for stage in record.ended_by_budget(member.run)
        if (member.run / "models" / stage_weights(stage, stages)).is_file()
    ]  # fmt: skip
    record.runs[member.run.name] = {**trained_on(member, request), "ended_by_budget": ended}
    record.save()
    share_codecs(member, stages, request, record)
    logger.info("Training %s%s", member.label, "" if minutes is None else f", {minutes:.1f} minutes")
    if minutes is None:
        for stage in ended:
            finish_stage(member.run / "models" / stage_weights(stage, stages))
        _call_train(member, None, request)
    else:
        _train_in_shares(member, stages, minutes, request, record)
        if not member.trained:
            why = "the budget ended it before its last epoch; scored as it is"
            if not member.scorable:
                why = "not scored: the budget ended before its last stage began; more minutes or fewer --systems help"
            notes.explain(member, why, "training")
    keep_codecs(member, stages, request, record)


def _train_in_shares(
    member: Member, stages: Sequence[str], minutes: float, request: Request, record: SuiteRecord
) -> None:
    """Train a member's stages, each with its share of the minutes; what a stage had in earlier calls does not count."""
    ends = time.monotonic() + 60.0 * minutes
    before = stage_minutes(member.run)
    for stage in stages:
        weights = member.run / "models" / stage_weights(stage, stages)
        if stage in record.ended_by_budget(member.run):
            finish_stage(weights)
        if stage_finished(weights):
            continue
        # A codec that ends early lets `train` continue with the next stage: counted.
        spent = stage_minutes(member.run).get(stage, 0.0) - before.get(stage, 0.0)
        left = min((ends - time.monotonic()) / 60.0, minutes * stage_share(stage, stages) - spent)
        if left > 0:
            _call_train(member, left, request)
        if stage != stages[-1] and weights.is_file() and not stage_finished(weights):
            # It stays as it is when its share ends, or the next stage would never get its own share.
            record.runs[member.run.name]["ended_by_budget"].append(stage)
            record.save()
            finish_stage(weights)


def _call_train(member: Member, minutes: float | None, request: Request) -> None:
    overrides = member.training_overrides(request)
    experiment = member.system.experiment
    # Systems are compared at the lengths that they were given, in the shares of this suite.
    train(request.bundle, request.dataset_dir, experiment, member.run, minutes, plan=False, **overrides)


def _score_all(
    members: Sequence[Member], request: Request, record: SuiteRecord, budget: Budget, notes: Notes
) -> list[Scored]:
    due = []
    for member in members:
        owns = not member.given and member.system.shares is None
        for stage in record.ended_by_budget(member.run) if owns and member.run not in notes.refused else ():
            notes.leave_out(f"{member.label}, {stage}", "the budget ended it before its last epoch")
        if member.run in notes.refused or not member.scorable:
            if not notes.explains(member):
                why = "their training failed" if member.run in notes.refused else "there are no weights"
                notes.explain(member, f"not scored: {why}")
            continue
        due += [(member, e) for e in request.suite.evaluations if request.suite.applies(member.system, e)]
    budget.keep_scoring_time()
    plan = plan_scoring(due, request, record, budget, notes)
    limit, scored = plan.cases, []
    for member, evaluation in plan.due:
        label = f"{member.label}, {evaluation.title}"
        cases = min((n for n in (limit, evaluation.max_cases) if n is not None), default=None)
        try:
            found = find_scores(member, evaluation, request, cases)
            if found is None and budget.minutes_left() <= 0:
                notes.leave_out(label, "not scored: the time was up")
                continue
            if found is None:
                logger.info("Scoring %s", label)
                found = score_member(member, evaluation, request, cases)
            scored.append(found)
            notes.warn_of_empty_masks(label, found.result["summary"])
        except Exception as error:
            notes.fail(label, error)
    # As the suite lists them.
    return sorted(scored, key=lambda part: due.index((part.member, part.evaluation)))
