"""How a suite's minutes are divided among trainings and their stages, and how many cases the rest can score."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..bundle.config import load_stage_config
from ..console import count
from ..evaluation import evaluate, evaluate_codec
from .member import Member
from .notes import Notes
from .request import Request
from .results import SuiteRecord
from .scoring import evaluation_settings
from .suite import Evaluation

TRAINING_SHARE = 0.7
# Of all minutes: what loading the images ahead may take, and what scoring has even where trainings took too long.
LOADING_SHARE = 0.35
LEAST_SCORING_SHARE = 0.1
# With a budget, every system is scored on at least this many cases, or not at all.
MIN_CASES = 4
# Part of the time left that scoring is planned for; the rest is for what the estimate misses, and for the report.
PLANNED_SHARE = 0.9
# Less training than this teaches a network little.
SHORT_MINUTES = 5.0
# More samples than these are not needed for an estimate.
ESTIMATE_SAMPLES = 32

logger = logging.getLogger(__name__)


class Budget:
    """The time that is left to a call.

    Args:
        max_minutes: of training and scoring together; ``None`` is no limit. 0 forbids training and does not limit
            scoring.
    """

    def __init__(self, max_minutes: float | None) -> None:
        self.max_minutes = max_minutes
        self._started = time.monotonic()
        self._loading = 0.0
        self._more = 0.0

    def minutes_left(self) -> float:
        """Minutes until the time is up."""
        return math.inf if not self.max_minutes else self.max_minutes + self._more - self._spent()

    def loading_deadline(self) -> float | None:
        """The point of ``time.monotonic()`` at which loading ahead ends; ``None`` is no limit."""
        return None if not self.max_minutes else self._started + 60.0 * LOADING_SHARE * self.max_minutes

    def end_loading(self) -> None:
        """From now on systems are trained: what was spent so far is taken from all of them alike."""
        self._loading = self._spent()

    def training_minutes(self, number: int, of: int) -> float | None:
        """Minutes of the training ``number`` of ``of``, counted from 0; ``None`` is no limit, at most 0 no time left.

        Time that a system does not use goes to the scoring, so that later systems do not get more.
        """
        if self.max_minutes is None:
            return None
        whole = TRAINING_SHARE * self.max_minutes
        return min((whole - self._loading) / of, (whole - self._spent()) / (of - number))

    def keep_scoring_time(self) -> None:
        """Give scoring some minutes more where trainings, or the estimates, have left it too few."""
        if self.max_minutes:
            self._more += max(0.0, LEAST_SCORING_SHARE * self.max_minutes - self.minutes_left())

    def describe(self, trainings: int, scored: int, cases: int) -> str:
        """What the budget allows, in a line.

        Args:
            trainings: systems to be trained.
            scored: systems to be scored.
            cases: of the data set's part.
        """
        systems = count(scored, "system")
        if self.max_minutes is None:
            return f"No budget: {trainings} to train to the last epoch, {systems} to score on {cases} cases."
        if self.max_minutes == 0:
            return f"Budget of 0 minutes: nothing is trained, {systems} to score where they are trained."
        each = TRAINING_SHARE * self.max_minutes / max(trainings, 1)
        kept = (1.0 - (TRAINING_SHARE if trainings else 0.0)) * self.max_minutes
        training = f"{trainings} to train, {each:.1f} minutes each, loading the images included; " if trainings else ""
        hint = " Fewer --systems have more time each." if trainings > 1 and each < SHORT_MINUTES else ""
        return (
            f"Budget of {self.max_minutes:g} minutes: {training}at least {kept:.1f} minutes to score {systems} on as "
            f"many of {cases} cases as fit.{hint}"
        )

    def _spent(self) -> float:
        return (time.monotonic() - self._started) / 60.0


class Plan(NamedTuple):
    """What is scored, cheapest first, and on how many cases; ``None`` is all."""

    due: list[tuple[Member, Evaluation]]
    cases: int | None


def plan_scoring(
    due: Sequence[tuple[Member, Evaluation]], request: Request, record: SuiteRecord, budget: Budget, notes: Notes
) -> Plan:
    """What the rest of the budget can score: the same cases for every system. Their number is kept for later calls.

    Where even a few cases of everything take too long, the slowest evaluations are left out.
    """
    everything = list(due)
    if request.max_cases is not None or request.max_minutes is None:
        return Plan(everything, request.max_cases)
    available = len(request.info[request.split])
    made_for = {
        "suite": request.suite.name, "split": request.split, "bundle": request.bundle.name,
        "dataset_sha256": request.fingerprint,
    }  # fmt: skip
    found = record.cases
    fits = all(found.get(key) == value for key, value in made_for.items())
    if fits and request.max_minutes in (0, found.get("max_minutes")):
        cases = int(found["max_cases"])
    elif request.max_minutes == 0:
        return Plan(everything, None)
    else:
        estimates = {number: _estimate(*pair, request) for number, pair in enumerate(due)}
        budget.keep_scoring_time()
        left = 60.0 * PLANNED_SHARE * max(budget.minutes_left(), 0.0)
        order = sorted(estimates, key=lambda number: estimates[number])
        while len(order) > 1 and min(available, MIN_CASES) * sum(estimates[number] for number in order) > left:
            slowest = order.pop()
            member, evaluation = due[slowest]
            notes.leave_out(
                f"{member.label}, {evaluation.title}",
                f"not scored: one case takes {estimates[slowest]:.1f} s, too long for this budget; --max-minutes 0 "
                "scores it",
            )
        everything = [due[number] for number in order]
        seconds = sum(estimates[number] for number in order)
        if seconds == 0.0:
            return Plan(everything, None)
        cases = min(available, max(MIN_CASES, int(left / seconds)))
        record.cases = {
            **made_for, "max_minutes": request.max_minutes, "max_cases": cases, "seconds_per_case": seconds,
        }  # fmt: skip
        record.save()
    if cases >= available:
        return Plan(everything, None)
    why = f"the budget; {record.path.name} keeps the number"
    notes.leave_out(f"{available - cases} of {available} {request.split} cases", why)
    return Plan(everything, cases)


def _estimate(member: Member, evaluation: Evaluation, request: Request) -> float:
    """Seconds that one case takes; 0 if it cannot be estimated."""
    if member.predicted:
        return 0.0
    try:
        if member.system.reconstruction:
            return _seconds_per_reconstruction(member, member.system.reconstruction, request)
        return _seconds_per_case(member, evaluation, request)
    except Exception:
        # The evaluation itself will fail and be recorded.
        logger.debug("No estimate for %s", member.label, exc_info=True)
        return 0.0


def _seconds_per_case(member: Member, evaluation: Evaluation, request: Request) -> float:
    """Estimate from a few cases and two steps, extrapolated to the evaluation's own: sampling, and scoring the samples.

    What a second evaluation of two cases more takes longer than the first is the time of these two cases, without that
    of building the network.
    """
    settings = evaluation_settings(member.system, evaluation, request.split, max_cases=1)
    samples = settings["num_samples"] or 16
    config = load_stage_config(member.run, "evaluate")
    steps = settings["num_inference_steps"] or config.get("num_inference_steps") or 1
    steps = 1 if member.system.deterministic else int(steps)
    few = {
        **settings, "num_samples": min(samples, ESTIMATE_SAMPLES), "save_samples": False,
        "num_inference_steps": None if member.system.deterministic else min(steps, 2),
    }  # fmt: skip
    folder: Path = request.output / "evaluations" / "estimate"
    walls, sampling = [], 0.0
    for number in (1, 3):
        started = time.perf_counter()
        result = evaluate(member.run, request.dataset_dir, folder, **{**few, "max_cases": number})
        walls.append(time.perf_counter() - started)
        sampling = float(result["summary"]["seconds_per_case"])
        more = int(result["summary"]["num_cases"]) - 1
        shutil.rmtree(folder)
    scoring = max((walls[1] - walls[0]) / more - sampling, 0.0) if more else 0.0
    return (sampling * steps / min(steps, 2) + scoring) * samples / min(samples, ESTIMATE_SAMPLES)


def _seconds_per_reconstruction(member: Member, codec: str, request: Request) -> float:
    """What a codec takes for a case: of a few more cases the time beyond that of two, which is for building it."""
    folder, walls = request.output / "evaluations" / "estimate", []
    for number in (2, 2 + MIN_CASES):
        started = time.perf_counter()
        evaluate_codec(member.run, codec, request.dataset_dir, folder, request.split, number)
        walls.append(time.perf_counter() - started)
        shutil.rmtree(folder)
    return max(walls[1] - walls[0], 0.0) / MIN_CASES
