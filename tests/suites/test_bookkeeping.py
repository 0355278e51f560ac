"""What a suite decides before it trains or scores: which weights are its own, how time is parted, which settings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_runs import LUNG, SKIN, write_prepared

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.suites import runner
from medseglatdiff_monai.suites.command import run_suite
from medseglatdiff_monai.suites.report import render_report
from medseglatdiff_monai.suites.runner import SuiteRun
from medseglatdiff_monai.suites.scoring import score_subsamples
from medseglatdiff_monai.suites.suite import load_suite
from medseglatdiff_monai.training.run import TRAINING_STAGES

SUITE = {
    "title": "t",
    "description": "d",
    "systems": [
        {"name": "Ours"},
        {"name": "Ours, few steps", "shares": "Ours", "evaluation": {"num_inference_steps": 2, "threshold": 0.4}},
        {"name": "U-Net", "experiment": "unet", "deterministic": True},
    ],
    "evaluations": [{"name": "e", "num_samples": 4}],
    "metrics": ["ged_v"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("prepared") / "data", LUNG, training=1, validation=30)


def write_suite(folder: Path, name: str = "small", **changes) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**SUITE, **changes}))
    return path


def prepare_run(suite: Path, data: Path, output: Path, minutes: float | None = None, **changes) -> SuiteRun:
    wanted = {
        "bundle": LUNG, "max_minutes": minutes, "max_cases": None, "systems": None, "seeds": (0,),
        "split": "validation", "runs": {}, "overrides": {}, **changes,
    }  # fmt: skip
    return SuiteRun(load_suite(suite), data, output, **wanted)


def leave_weights(bundle, dataset_dir, experiment, run: Path, minutes, **overrides) -> None:
    """Stands for ``train``: weights that a test can recognise, no state of an interrupted stage."""
    (run / "models").mkdir(parents=True, exist_ok=True)
    for name in TRAINING_STAGES.values():
        (run / "models" / name).write_text(str(minutes))


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Labels of what is scored; nothing is trained or scored in truth."""
    labels: list[str] = []
    monkeypatch.setattr(runner, "train", leave_weights)
    monkeypatch.setattr(SuiteRun, "_score", lambda self, member, evaluation, cases, label: labels.append(label))
    return labels


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_epochs": 7}, "max_epochs = 1, now 7"),
        ({"bundle": SKIN}, f"bundle {LUNG}, now {SKIN}"),
        ({"prepared": "anew"}, "dataset.json differs"),
    ],
    ids=["override", "bundle", "data"],
)
def test_weights_of_another_training_are_refused(
    data: Path, tmp_path: Path, scored: list[str], changes: dict, message: str
) -> None:
    suite, output = write_suite(tmp_path), tmp_path / "out"
    assert run_suite(suite, data, output, LUNG, max_epochs=1)["failures"] == []
    assert len(scored) == 3
    scored.clear()
    assert run_suite(suite, data, output, LUNG, max_epochs=1)["failures"] == []
    assert len(scored) == 3
    scored.clear()
    if "prepared" in changes:
        info = json.loads((data / "dataset.json").read_text())
        data = tmp_path
        (data / "dataset.json").write_text(json.dumps({**info, "provenance": {"command": changes["prepared"]}}))
    wanted = {"bundle": LUNG, "max_epochs": 1, **changes}
    wanted.pop("prepared", None)
    results = run_suite(suite, data, output, **wanted)
    assert scored == []
    assert [entry["what"] for entry in results["failures"]] == ["Ours, seed 0, training", "U-Net, seed 0, training"]
    for entry, run in zip(results["failures"], ("ours_seed0", "u-net_seed0"), strict=True):
        assert message in entry["message"]
        assert str(output / "runs" / run) in entry["message"]
        assert "choose another --output-dir" in entry["message"]
    assert results["left_out"] == [{"what": "Ours, few steps, seed 0", "why": "not scored: their training failed"}]


def test_weights_of_unknown_origin_are_refused(data: Path, tmp_path: Path, scored: list[str]) -> None:
    leave_weights(None, None, None, tmp_path / "out" / "runs" / "u-net_seed0", None)
    results = run_suite(write_suite(tmp_path), data, tmp_path / "out", LUNG, systems=["U-Net"])
    assert scored == []
    assert "no suite.json says what they were trained on" in results["failures"][0]["message"]


def test_old_weights_are_not_scored_where_training_fails(
    data: Path, tmp_path: Path, scored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, output = write_suite(tmp_path), tmp_path / "out"
    run_suite(suite, data, output, LUNG)
    scored.clear()
    # An interrupted run: it goes on, and fails.
    (output / "runs" / "ours_seed0" / "models" / "training_state_model.pt").write_text("")

    def fail(*arguments, **options):
        raise InputError("broken")

    monkeypatch.setattr(runner, "train", fail)
    results = run_suite(suite, data, output, LUNG)
    assert [entry["message"] for entry in results["failures"]] == ["broken"]
    assert scored == ["U-Net, seed 0, e"]


def test_no_minutes_score_what_is_trained(data: Path, tmp_path: Path, scored: list[str]) -> None:
    """Seed 10 is trained, seed 1 is not: each is spoken of by itself."""
    suite, output = write_suite(tmp_path), tmp_path / "out"
    run_suite(suite, data, output, LUNG, systems=["U-Net"], seeds=[10])
    scored.clear()
    results = run_suite(suite, data, output, LUNG, systems=["U-Net", "Ours, few steps"], seeds=[1, 10], max_minutes=0)
    assert scored == ["U-Net, seed 10, e"]
    assert [entry["what"] for entry in results["left_out"]] == [
        "Ours", "U-Net, seed 1", "Ours, few steps, seed 1", "Ours, few steps, seed 10",
    ]  # fmt: skip


def test_labels_that_begin_alike_are_told_apart(data: Path, tmp_path: Path, scored: list[str]) -> None:
    """Without weights, a system is reported though another one whose name begins with its own was."""
    run = prepare_run(write_suite(tmp_path), data, tmp_path / "out", seeds=(1, 10))
    run._leave_out("Ours, seed 10, training", "the budget ended it")
    run.reported.add(("Ours", 10))
    assert run._score_all() == []
    assert {"what": "Ours, seed 1", "why": "not scored: there are no weights"} in run.left_out


@pytest.mark.parametrize("shared", [False, True])
def test_a_denoiser_has_the_same_minutes_with_codecs_of_another_system(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    calls = {}

    def fake(bundle, dataset_dir, experiment, run: Path, minutes, **overrides) -> None:
        (run / "models").mkdir(parents=True, exist_ok=True)
        stage = next(s for s, name in TRAINING_STAGES.items() if not (run / "models" / name).is_file())
        calls[stage] = minutes
        (run / "models" / TRAINING_STAGES[stage]).write_text("")
        (run / "training.json").write_text(json.dumps({"stages": {"train": {"minutes": 0.0 if shared else 1.0}}}))

    monkeypatch.setattr(runner, "train", fake)
    run = prepare_run(write_suite(tmp_path), data, tmp_path / "out", 10.0)
    member = run.members[0]
    if shared:
        (member.run / "models").mkdir(parents=True)
        for stage in ("image_codec", "mask_codec"):
            (member.run / "models" / TRAINING_STAGES[stage]).write_text("")
    run._train(member, 10.0)
    if shared:
        assert calls == {"train": pytest.approx(3.5, abs=0.1), "scoring": pytest.approx(3.0, abs=0.1)}
    else:
        # A minute of the denoiser came about in the codecs' time.
        assert calls == {name: pytest.approx(n, abs=0.1) for name, n in
                         {"image_codec": 1.5, "mask_codec": 2.0, "train": 2.5, "scoring": 3.0}.items()}  # fmt: skip


def test_a_sweeps_point_wins_over_the_systems_own_settings(data: Path, tmp_path: Path) -> None:
    entry = {"name": "s", "num_samples": 4, "sweep": {"num_inference_steps": [1, 50]}}
    guided = {"name": "g", "num_samples": 4, "sweep": {"threshold": [0.3]}}
    run = prepare_run(write_suite(tmp_path, evaluations=[entry, guided]), data, tmp_path / "out")
    _, few, unet = run.suite.systems
    settings = [run._settings(few, evaluation, None) for evaluation in run.suite.evaluations]
    assert [entry["num_inference_steps"] for entry in settings] == [1, 50, 2]
    assert [entry["threshold"] for entry in settings] == [0.4, 0.4, 0.3]
    # A network of one pass has no steps to vary.
    assert run._settings(unet, run.suite.evaluations[0], None)["num_inference_steps"] is None


def test_a_plan_is_kept_only_for_what_it_was_made(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"

    def cases(seconds: float, minutes: float = 10.0, name: str = "small", bundle: str = LUNG) -> int | None:
        monkeypatch.setattr(SuiteRun, "_seconds_per_case", lambda *arguments: seconds)
        run = prepare_run(write_suite(tmp_path, name), data, output, minutes, bundle=bundle)
        return run._choose_cases([(run.members[0], run.suite.evaluations[0])])

    assert cases(40.0) == 14
    assert cases(30.0) == 14
    # Scoring the rest without a limit goes on with the same cases.
    assert cases(30.0, minutes=0) == 14
    assert cases(30.0, minutes=9.0) == 17
    assert cases(40.0, minutes=9.0, bundle=SKIN) == 13
    assert cases(30.0, minutes=9.0, bundle=SKIN, name="other") == 17
    assert cases(30.0, minutes=0) is None


def test_results_of_another_suite_are_refused(data: Path, tmp_path: Path, scored: list[str]) -> None:
    run_suite(write_suite(tmp_path), data, tmp_path / "out", LUNG, systems=["U-Net"])
    with pytest.raises(InputError, match="holds results of the suite 'small'"):
        run_suite(write_suite(tmp_path, "other"), data, tmp_path / "out", LUNG)


def test_fewer_samples_are_fused_as_all_are(tmp_path: Path) -> None:
    """Two samples of which one holds the pixel: at least 0.5 is foreground, 0.6 or more than half is not."""
    samples = torch.zeros(2, 4, 4, dtype=torch.bool)
    samples[:, 0, 0] = True
    samples[0, 1, 1] = True
    raters = samples.any(0, keepdim=True)
    np.savez(tmp_path / "a.npz", samples=samples.numpy(), raters=raters.numpy())
    cases = pd.DataFrame({"case": ["a"], "group": ["a"]})

    def dice(**changes) -> float:
        settings = {"threshold": 0.5, "fusion": "mean", "confidence": "samples", **changes}
        return float(score_subsamples(tmp_path, cases, [2], ["dice"], 1, settings)["dice"].iloc[0])

    assert dice() == pytest.approx(1.0)
    assert dice(threshold=0.6) == pytest.approx(2 / 3)
    assert dice(fusion="majority") == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="need confidence 'samples'"):
        dice(confidence="probabilities")


@pytest.mark.parametrize("others", [0, 1])
def test_an_empty_band_is_no_curve(data: Path, tmp_path: Path, scored: list[str], others: int) -> None:
    """One reader and a system without spread: no pixel lies in the band."""
    suite = write_suite(tmp_path)
    results = run_suite(suite, data, tmp_path / "out", LUNG, systems=["U-Net"])
    empty = {"count": [0.0, 0.0], "confidence": [None, None], "target": [None, None]}
    full = {"count": [3.0, 0.0], "confidence": [0.1, None], "target": [0.2, None]}
    results["calibration"] = [
        {"system": "U-Net", "key": "e", "ece": full, "ece_band": empty},
        *[{"system": "Ours", "key": "e", "ece": full, "ece_band": full}] * others,
    ]
    page = render_report(load_suite(suite), results)
    assert page.count("<svg") == 1 + others
