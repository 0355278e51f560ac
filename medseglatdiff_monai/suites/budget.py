"""How a suite's minutes are divided among trainings and their stages, and how many cases the rest can score."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from ..bundle.config import load_stage_config
from ..evaluation import evaluate
from .member import Member
from .notes import Notes
from .request import Request
from .results import SuiteRecord
from .scoring import evaluation_settings
from .suite import Evaluation

TRAINING_SHARE = 0.7
# With a budget, fewer cases than these are not worth an evaluation.
MIN_CASES = 10

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

    def minutes_left(self) -> float:
        """Minutes until the time is up."""
        return math.inf if not self.max_minutes else self.max_minutes - self._spent()

    def training_minutes(self, number: int, of: int) -> float | None:
        """Minutes of the training ``number`` of ``of``, counted from 0; ``None`` is no limit, at most 0 no time left.

        Time that a system does not use goes to the scoring, so that later systems do not get more.
        """
        if self.max_minutes is None:
            return None
        whole = TRAINING_SHARE * self.max_minutes
        return min(whole / of, (whole - self._spent()) / (of - number))

    def _spent(self) -> float:
        return (time.monotonic() - self._started) / 60.0


def choose_cases(
    due: Sequence[tuple[Member, Evaluation]], request: Request, record: SuiteRecord, budget: Budget, notes: Notes
) -> int | None:
    """Cases that the rest of the budget allows, the same for every system; ``None`` is all. Kept for later calls."""
    if request.max_cases is not None or request.max_minutes is None:
        return request.max_cases
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
        return None
    else:
        seconds = _estimate(due, request, budget)
        if seconds == 0.0:
            return None
        left = 60.0 * max(budget.minutes_left(), 0.0)
        cases = min(available, max(MIN_CASES, int(left / seconds)))
        record.cases = {
            **made_for, "max_minutes": request.max_minutes, "max_cases": cases, "seconds_per_case": seconds,
        }  # fmt: skip
        record.save()
    if cases >= available:
        return None
    why = f"the budget; {record.path.name} keeps the number"
    notes.leave_out(f"{available - cases} of {available} {request.split} cases", why)
    return cases


def _estimate(due: Sequence[tuple[Member, Evaluation]], request: Request, budget: Budget) -> float:
    """Seconds that one case takes in all evaluations together; 0 if none can be estimated."""
    seconds = 0.0
    for member, evaluation in due:
        if member.system.reconstruction or budget.minutes_left() <= 0:
            continue
        try:
            seconds += _seconds_per_case(member, evaluation, request)
        except Exception:
            # The evaluation itself will fail and be recorded.
            logger.debug("No estimate for %s", member.label, exc_info=True)
    return seconds


def _seconds_per_case(member: Member, evaluation: Evaluation, request: Request) -> float:
    """Estimate from one case, at most two samples and two steps, extrapolated to the evaluation's own."""
    settings = evaluation_settings(member.system, evaluation, request.split, max_cases=1)
    samples = settings["num_samples"] or 16
    config = load_stage_config(member.run, "evaluate")
    steps = settings["num_inference_steps"] or config.get("num_inference_steps") or 1
    steps = 1 if member.system.deterministic else int(steps)
    probe = {
        **settings, "num_samples": min(samples, 2), "save_samples": False,
        "num_inference_steps": None if member.system.deterministic else min(steps, 2),
    }  # fmt: skip
    folder: Path = request.output / "evaluations" / "estimate"
    result = evaluate(member.run, request.dataset_dir, folder, **probe)
    shutil.rmtree(folder)
    return float(result["summary"]["seconds_per_case"]) * samples / min(samples, 2) * steps / min(steps, 2)
