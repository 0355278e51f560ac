"""Scoring the members of a suite; scores are reused while weights, settings and data are the same."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError
from ..evaluation import RESULT_VERSION, evaluate, evaluate_codec, load_result
from ..evaluation.predictions import hash_predictions, list_predictions, score
from ..evaluation.result import VERSION_ADVICE
from ..files import file_sha256, read_versioned, save_json
from ..networks.noise import SAMPLE_NOISE
from .member import Member, merge_overrides
from .request import Request
from .results import save_csv
from .subsamples import score_subsamples
from .suite import Evaluation, System, slug

EVALUATION_SEED = 0
# All samples of a deterministic system are alike; NCC and CI score are undefined for one sample, so two are taken.
DETERMINISTIC_SAMPLES = 2
RECORD = "record.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Scored:
    """The scores of a member in an evaluation.

    Attributes:
        member: what was scored.
        evaluation: how it was scored.
        folder: where the scores are.
        depends_on: ``settings``, ``weights_sha256`` and whatever else the scores depend on.
        result: the evaluation's ``metrics.json``.
        frames: point → scores indexed by case, with the column ``group``; the only point is ``None`` where nothing was
            sub-sampled.
    """

    member: Member
    evaluation: Evaluation
    folder: Path
    depends_on: dict[str, Any]
    result: dict[str, Any]
    frames: dict[float | None, pd.DataFrame]


def evaluation_settings(system: System, evaluation: Evaluation, split: str, max_cases: int | None) -> dict[str, Any]:
    """Arguments of ``evaluate``: those of the evaluation, and over them the system's own."""
    settings = {
        "split": split,
        "num_samples": DETERMINISTIC_SAMPLES if system.deterministic else evaluation.num_samples,
        "num_inference_steps": None if system.deterministic else evaluation.num_inference_steps,
        "max_cases": max_cases, "seed": EVALUATION_SEED, "save_samples": evaluation.save_samples,
        **merge_overrides(evaluation.overrides, system.evaluation),
    }  # fmt: skip
    # The row stands for this point, whatever the system's own settings are.
    axis = evaluation.axis
    if axis is not None and not (system.deterministic and axis in ("num_samples", "num_inference_steps")):
        settings[axis] = evaluation.point
    return settings


def find_scores(member: Member, evaluation: Evaluation, request: Request, max_cases: int | None) -> Scored | None:
    """The scores of an earlier call, if they are what this one asks for.

    Raises:
        InputError: they are of another version.
    """
    folder = _folder(member, evaluation, request)
    record = folder / RECORD
    if not record.is_file():
        return None
    found = read_versioned(record, RESULT_VERSION, VERSION_ADVICE)
    wanted = _wanted(member, evaluation, request, max_cases)
    return _read(member, evaluation, folder, wanted) if found == json.loads(json.dumps(wanted)) else None


def score_member(member: Member, evaluation: Evaluation, request: Request, max_cases: int | None) -> Scored:
    """Score a member, and keep the scores in place of earlier ones.

    Raises:
        InputError: see :func:`~medseglatdiff_monai.evaluation.run.evaluate` and
            :func:`~medseglatdiff_monai.suites.subsamples.score_subsamples`.
    """
    folder = _folder(member, evaluation, request)
    shutil.rmtree(folder, ignore_errors=True)
    system, codec = member.system, member.system.reconstruction
    if member.predicted:
        if codec is not None or evaluation.subsample or evaluation.axis is not None:
            raise InputError(
                f"{member.run} holds masks as they were predicted; this evaluation samples others. Leave it out, or "
                "give a run."
            )
        score(member.run, request.dataset_dir, folder, request.split, max_cases=max_cases, seed=EVALUATION_SEED)
    elif codec is not None:
        evaluate_codec(member.run, codec, request.dataset_dir, folder, request.split, max_cases, EVALUATION_SEED)
    else:
        settings = evaluation_settings(system, evaluation, request.split, max_cases)
        result = evaluate(member.run, request.dataset_dir, folder, **settings)
        if evaluation.subsample:
            cases = pd.read_csv(folder / "cases.csv", dtype={"case": str, "group": str}, keep_default_na=False)
            points = score_subsamples(
                folder / "samples", cases, evaluation.subsample, request.suite.shown(evaluation), evaluation.draws,
                result["settings"],
            )  # fmt: skip
            save_csv(points, folder / "points.csv")
    wanted = _wanted(member, evaluation, request, max_cases)
    save_json(wanted, folder / RECORD)
    return _read(member, evaluation, folder, wanted)


def _folder(member: Member, evaluation: Evaluation, request: Request) -> Path:
    return request.output / "evaluations" / f"{slug(member.system.name)}_seed{member.seed}" / evaluation.key


def _wanted(member: Member, evaluation: Evaluation, request: Request, max_cases: int | None) -> dict[str, Any]:
    """Everything that the scores depend on."""
    return {
        "version": RESULT_VERSION,
        "sample_noise": SAMPLE_NOISE,
        "settings": {
            **evaluation_settings(member.system, evaluation, request.split, max_cases),
            "reconstruction": member.system.reconstruction, "subsample": list(evaluation.subsample),
            "draws": evaluation.draws, "metrics": request.suite.shown(evaluation),
        },
        **_describe(member), "dataset_sha256": request.fingerprint,
    }  # fmt: skip


def _describe(member: Member) -> dict[str, Any]:
    """What was scored; of another program's masks, instead of weights, the masks themselves."""
    if member.predicted:
        return {"weights_sha256": hash_predictions(list_predictions(member.run))}
    return {
        # What the run's own configuration says of sampling, e.g. test-time augmentation.
        "evaluate_sha256": file_sha256(member.run / "configs" / "evaluate.json"),
        "weights_sha256": file_sha256(member.weights),
    }


def _read(member: Member, evaluation: Evaluation, folder: Path, wanted: dict[str, Any]) -> Scored:
    points = folder / "points.csv"
    frames = _read_frames(points if points.is_file() else folder / "cases.csv")
    return Scored(member, evaluation, folder, wanted, load_result(folder / "metrics.json"), frames)


def _read_frames(path: Path) -> dict[float | None, pd.DataFrame]:
    """Scores indexed by case, one frame for each point; ``None`` where there is only one."""
    frame = pd.read_csv(path, dtype={"case": str, "group": str})
    # A data set without groups: every case is its own.
    frame["group"] = frame["group"].where(frame["group"].notna(), frame["case"])
    # A perfect reconstruction has an infinite PSNR, which no mean survives.
    frame = frame.replace([np.inf, -np.inf], np.nan)
    if "point" not in frame:
        return {None: frame.set_index("case")}
    return {float(point): part.drop(columns="point").set_index("case") for point, part in frame.groupby("point")}
