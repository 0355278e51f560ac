"""What a suite decides before it trains or scores: which weights are its own, how time is divided, which settings.

Nothing is trained or scored in truth here: two functions stand for ``train`` and ``evaluate`` and leave such files as
these do.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_runs import LUNG, RETINA, SKIN, write_prepared

from medseglatdiff_monai.bundle.build import write_run_folder
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.evaluation.columns import COLUMNS
from medseglatdiff_monai.evaluation.result import ScoredCase, load_result, write_result
from medseglatdiff_monai.networks.weights import state_path
from medseglatdiff_monai.suites import budget, runner, scoring
from medseglatdiff_monai.suites.command import bundle_for, run_suite
from medseglatdiff_monai.suites.names import find_suite
from medseglatdiff_monai.suites.notes import Notes
from medseglatdiff_monai.suites.report import render_report
from medseglatdiff_monai.suites.scoring import evaluation_settings
from medseglatdiff_monai.suites.subsamples import score_subsamples
from medseglatdiff_monai.suites.suite import load_suite
from medseglatdiff_monai.training.run import TRAINING_STAGES

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
CASES = 30
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
    return write_prepared(tmp_path_factory.mktemp("prepared") / "data", LUNG, training=1, validation=CASES)


def write_suite(folder: Path, name: str = "small", **changes) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**SUITE, **changes}))
    return path


def leave_weights(bundle, dataset_dir, experiment, run: Path, minutes, plan=False, **overrides) -> None:
    """Stands for ``train``: a run's folder, weights, no state of an interrupted stage."""
    write_run_folder(bundle, run, experiment, overrides)
    (run / "models").mkdir(exist_ok=True)
    for name in TRAINING_STAGES.values():
        (run / "models" / name).write_text(str(minutes))


def leave_scores(run, dataset_dir, folder: Path, seconds: float = 0.01, **settings) -> dict[str, Any]:
    """Stands for ``evaluate``."""
    number = settings["max_cases"] or CASES
    cases = [ScoredCase({"case": f"case-{i}", "group": "", "ged_v": i / 10}, {}, 4) for i in range(number)]
    summary = {"ged_v": 0.5, "num_cases": number, "num_samples": settings["num_samples"], "seconds_per_case": seconds}
    write_result(folder, cases, summary, {})
    return load_result(folder / "metrics.json")


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what is scored: the system with its seed, and the evaluation."""
    names: list[str] = []

    def score(run, dataset_dir, folder, **settings):
        names.append(f"{folder.parent.name}/{folder.name}")
        return leave_scores(run, dataset_dir, folder, **settings)

    monkeypatch.setattr(runner, "load_data", lambda *arguments: None)
    monkeypatch.setattr(runner, "train", leave_weights)
    monkeypatch.setattr(scoring, "evaluate", score)
    monkeypatch.setattr(budget, "evaluate", leave_scores)
    return names


def systems_scored(results: dict[str, Any]) -> list[tuple[str, int]]:
    return [(entry["system"], entry["seed"]) for entry in results["evaluations"]]


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
    first = run_suite(suite, data, output, LUNG, max_epochs=1)
    assert first["failures"] == []
    assert scored == ["ours_seed0/e", "ours-few-steps_seed0/e", "u-net_seed0/e"]
    scored.clear()
    again = run_suite(suite, data, output, LUNG, max_epochs=1)
    assert (scored, again["measurements"]) == ([], first["measurements"])
    if "prepared" in changes:
        info = json.loads((data / "dataset.json").read_text())
        data = tmp_path
        (data / "dataset.json").write_text(json.dumps({**info, "provenance": {"command": changes["prepared"]}}))
    wanted = {"bundle": LUNG, "max_epochs": 1, **changes}
    wanted.pop("prepared", None)
    results = run_suite(suite, data, output, **wanted)
    assert (scored, results["evaluations"]) == ([], [])
    assert [entry["what"] for entry in results["failures"]] == ["Ours, seed 0, training", "U-Net, seed 0, training"]
    for entry, run in zip(results["failures"], ("ours_seed0", "u-net_seed0"), strict=True):
        assert message in entry["message"]
        assert str(output / "runs" / run) in entry["message"]
        assert "choose another --output-dir" in entry["message"]
    assert results["left_out"] == [{"what": "Ours, few steps, seed 0", "why": "not scored: their training failed"}]


def test_weights_of_unknown_origin_are_refused(data: Path, tmp_path: Path, scored: list[str]) -> None:
    leave_weights(LUNG, data, "unet", tmp_path / "out" / "runs" / "u-net_seed0", None)
    results = run_suite(write_suite(tmp_path), data, tmp_path / "out", LUNG, systems=["U-Net"])
    assert scored == []
    assert "suite.json says what they were trained on" in results["failures"][0]["message"]


def test_a_record_of_another_version_is_refused(data: Path, tmp_path: Path, scored: list[str]) -> None:
    suite, output = write_suite(tmp_path), tmp_path / "out"
    run_suite(suite, data, output, LUNG, systems=["U-Net"])
    record = json.loads((output / "suite.json").read_text())
    for version in (0, record["version"] + 1, None):
        (output / "suite.json").write_text(json.dumps({**record, "version": version}))
        with pytest.raises(InputError, match=rf"suite\.json: found version {version}, .*cannot be relied on"):
            run_suite(suite, data, output, LUNG, systems=["U-Net"])


def test_old_weights_are_not_scored_where_training_fails(
    data: Path, tmp_path: Path, scored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, output = write_suite(tmp_path), tmp_path / "out"
    run_suite(suite, data, output, LUNG)
    # An interrupted run: it is resumed, and fails.
    state_path(output / "runs" / "ours_seed0" / "models" / "model.pt").write_text("")

    def fail(*arguments, **options):
        raise InputError("broken")

    monkeypatch.setattr(runner, "train", fail)
    results = run_suite(suite, data, output, LUNG)
    assert [entry["message"] for entry in results["failures"]] == ["broken"]
    assert systems_scored(results) == [("U-Net", 0)]


def test_no_minutes_score_what_is_trained(data: Path, tmp_path: Path, scored: list[str]) -> None:
    """Seed 10 is trained, seed 1 is not: each is spoken of by itself."""
    suite, output = write_suite(tmp_path), tmp_path / "out"
    run_suite(suite, data, output, LUNG, systems=["U-Net"], seeds=[10])
    results = run_suite(suite, data, output, LUNG, systems=["U-Net", "Ours, few steps"], seeds=[1, 10], max_minutes=0)
    assert systems_scored(results) == [("U-Net", 10)]
    assert [entry["what"] for entry in results["left_out"]] == [
        "Ours", "U-Net, seed 1", "Ours, few steps, seed 1", "Ours, few steps, seed 10",
    ]  # fmt: skip


def test_labels_that_begin_alike_are_told_apart(
    data: Path, tmp_path: Path, scored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without weights, a system is reported though another one whose name begins with its own was."""

    def train(bundle, dataset_dir, experiment, run: Path, minutes, plan=False, **overrides) -> None:
        if overrides["seed"] == 10:
            raise InputError("broken")

    monkeypatch.setattr(runner, "train", train)
    results = run_suite(write_suite(tmp_path), data, tmp_path / "out", LUNG, systems=["Ours"], seeds=(1, 10))
    assert results["failures"] == [{"what": "Ours, seed 10, training", "message": "broken"}]
    assert {"what": "Ours, seed 1", "why": "not scored: there are no weights"} in results["left_out"]
    assert "Ours, seed 10" not in {entry["what"] for entry in results["left_out"]}


def test_a_denoiser_has_the_same_minutes_with_codecs_of_another_system(
    data: Path, tmp_path: Path, scored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: dict[str, dict[str, float]] = {}

    def train(bundle, dataset_dir, experiment, run: Path, minutes, plan=False, **overrides) -> None:
        write_run_folder(bundle, run, experiment, overrides)
        (run / "models").mkdir(exist_ok=True)
        stage = next(s for s, name in TRAINING_STAGES.items() if not (run / "models" / name).is_file())
        calls.setdefault(run.name, {})[stage] = minutes
        (run / "models" / TRAINING_STAGES[stage]).write_text("")
        # A minute of the first denoiser comes about in its codecs' time.
        costs = json.loads((run / "training.json").read_text()) if (run / "training.json").is_file() else {"stages": {}}
        done = {stage: {"minutes": minutes}, "train": {"minutes": 1.0 if run.name == "ours_seed0" else 0.0}}
        (run / "training.json").write_text(json.dumps({"stages": {**costs["stages"], **done}}))

    monkeypatch.setattr(runner, "train", train)
    twins = [{"name": "Ours"}, {"name": "Twin", "overrides": {"sampler": "ddpm"}}]
    results = run_suite(
        write_suite(tmp_path, systems=twins), data, tmp_path / "out", LUNG, max_minutes=20.0 / budget.TRAINING_SHARE
    )  # fmt: skip
    assert results["failures"] == []
    assert calls["ours_seed0"] == {
        stage: pytest.approx(minutes, abs=0.1)
        for stage, minutes in {"image_codec": 1.5, "mask_codec": 2.0, "train": 2.5, "scoring": 3.0}.items()
    }
    assert calls["twin_seed0"] == {"train": pytest.approx(3.5, abs=0.1), "scoring": pytest.approx(3.0, abs=0.1)}
    # What the codecs took counts for both.
    minutes = {row["system"]: row["training_minutes"] for row in results["measurements"]}
    assert minutes["Twin"] == pytest.approx(1.5 + 2.0 + 3.0, abs=0.3)


def test_a_codec_that_the_budget_ended_is_not_resumed_and_said_in_every_call(
    data: Path, tmp_path: Path, scored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = []

    def train(bundle, dataset_dir, experiment, run: Path, minutes, plan=False, **overrides) -> None:
        write_run_folder(bundle, run, experiment, overrides)
        (run / "models").mkdir(exist_ok=True)
        weights = {stage: run / "models" / name for stage, name in TRAINING_STAGES.items()}
        unfinished = (s for s, path in weights.items() if not path.is_file() or state_path(path).is_file())
        stage = next(unfinished)
        stages.append(stage)
        weights[stage].write_text("")
        if stage == "mask_codec":
            state_path(weights[stage]).write_text("")

    monkeypatch.setattr(runner, "train", train)
    suite, output = write_suite(tmp_path), tmp_path / "out"
    ended = {"what": "Ours, seed 0, mask_codec", "why": "the budget ended it before its last epoch"}
    results = run_suite(suite, data, output, LUNG, systems=["Ours"], max_minutes=10.0)
    assert stages == list(TRAINING_STAGES)
    assert results["left_out"].count(ended) == 1
    results = run_suite(suite, data, output, LUNG, systems=["Ours"], max_minutes=0)
    assert results["left_out"].count(ended) == 1
    assert systems_scored(results) == [("Ours", 0)]


def test_a_codec_on_its_own_that_the_budget_ended_is_scored_and_said(
    data: Path, tmp_path: Path, scored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(bundle, dataset_dir, experiment, run: Path, minutes, plan=False, **overrides) -> None:
        assert overrides["training_stages"] == ["image_codec"]
        leave_weights(bundle, dataset_dir, experiment, run, minutes, **overrides)
        state_path(run / "models" / "image_codec.pt").write_text("")

    def evaluate_codec(run, codec, dataset_dir, folder, split, max_cases, seed) -> None:
        leave_scores(run, dataset_dir, folder, max_cases=max_cases, num_samples=1)

    monkeypatch.setattr(runner, "train", train)
    monkeypatch.setattr(scoring, "evaluate_codec", evaluate_codec)
    suite = write_suite(tmp_path, systems=[{"name": "Image", "reconstruction": "image_codec"}])
    results = run_suite(suite, data, tmp_path / "out", LUNG, max_minutes=10.0)
    assert systems_scored(results) == [("Image", 0)]
    ended = {"what": "Image, seed 0, training", "why": "the budget ended it before its last epoch; scored as it is"}
    assert results["left_out"] == [ended]


def test_a_sweeps_point_wins_over_the_systems_own_settings(tmp_path: Path) -> None:
    entry = {"name": "s", "num_samples": 4, "sweep": {"num_inference_steps": [1, 50]}}
    guided = {"name": "g", "num_samples": 4, "sweep": {"threshold": [0.3]}}
    suite = load_suite(write_suite(tmp_path, evaluations=[entry, guided]))
    _, few, unet = suite.systems
    settings = [evaluation_settings(few, evaluation, "validation", None) for evaluation in suite.evaluations]
    assert [entry["num_inference_steps"] for entry in settings] == [1, 50, 2]
    assert [entry["threshold"] for entry in settings] == [0.4, 0.4, 0.3]
    # A network of one pass has no steps to vary.
    assert evaluation_settings(unet, suite.evaluations[0], "validation", None)["num_inference_steps"] is None


def test_a_number_of_cases_is_kept_only_for_what_it_was_chosen(
    data: Path, tmp_path: Path, scored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    leave_weights(LUNG, data, None, tmp_path / "given", None)

    def cases(seconds: float, minutes: float = 10.0, name: str = "small", bundle: str = LUNG) -> int:
        monkeypatch.setattr(
            budget, "evaluate", lambda *arguments, **settings: leave_scores(*arguments, seconds=seconds, **settings)
        )
        (output / "results.json").unlink(missing_ok=True)
        suite = write_suite(tmp_path, name, evaluations=[{"name": "e", "num_samples": 2}])
        results = run_suite(
            suite, data, output, bundle, minutes, systems=["Ours"], runs={"Ours": tmp_path / "given"}
        )  # fmt: skip
        (entry,) = results["evaluations"]
        return entry["num_cases"]

    # Of nine tenths of the time.
    assert cases(40.0) == 13
    assert cases(30.0) == 13
    # Scoring the rest without a limit keeps the same cases.
    assert cases(30.0, minutes=0) == 13
    assert cases(30.0, minutes=9.0) == 16
    assert cases(40.0, minutes=9.0, bundle=SKIN) == 12
    assert cases(30.0, minutes=9.0, bundle=SKIN, name="other") == 16
    assert cases(30.0, minutes=0) == CASES


def test_the_slowest_is_left_out_where_a_few_cases_of_all_take_too_long(
    data: Path, tmp_path: Path, scored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(run, dataset_dir, folder, **settings):
        return leave_scores(run, dataset_dir, folder, seconds=100.0 if "slow" in run.name else 3.0, **settings)

    monkeypatch.setattr(budget, "evaluate", score)
    monkeypatch.setattr(budget.time, "monotonic", lambda: 0.0)
    for name in ("slow", "quick"):
        leave_weights(LUNG, data, None, tmp_path / name, None)
    suite = write_suite(tmp_path, systems=[{"name": "Slow"}, {"name": "Quick"}])
    runs = {"Slow": tmp_path / "slow", "Quick": tmp_path / "quick"}
    results = run_suite(suite, data, tmp_path / "out", LUNG, max_minutes=1.0, runs=runs)
    # 4 cases of both would take 412 s, of which there are 54: 18 of the quick one alone.
    assert [(entry["system"], entry["num_cases"]) for entry in results["evaluations"]] == [("Quick", 18)]
    assert "one case takes 100.0 s" in {entry["what"]: entry["why"] for entry in results["left_out"]}["Slow, e"]
    results = run_suite(suite, data, tmp_path / "more", LUNG, max_minutes=15.0, runs=runs)
    # The quick one is scored first, and all are listed as in the suite.
    assert scored[-2:] == ["quick_seed0/e", "slow_seed0/e"]
    assert [(entry["system"], entry["num_cases"]) for entry in results["evaluations"]] == [("Slow", 7), ("Quick", 7)]


def test_scoring_has_time_where_trainings_took_too_long(
    data: Path, tmp_path: Path, scored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: clock[0], perf_counter=time.perf_counter))

    def train(*arguments, **overrides) -> None:
        leave_weights(*arguments, **overrides)
        clock[0] += 60.0 * 30

    monkeypatch.setattr(runner, "train", train)
    suite = write_suite(tmp_path, systems=SUITE["systems"][:1])
    results = run_suite(suite, data, tmp_path / "out", LUNG, max_minutes=10.0)
    assert systems_scored(results) == [("Ours", 0)]


def test_what_loading_took_is_taken_from_all_systems_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: clock[0], perf_counter=time.perf_counter))
    spent = budget.Budget(20.0)
    assert spent.training_minutes(0, 2) == pytest.approx(7.0)
    clock[0] += 60.0 * 4
    spent.end_loading()
    assert spent.training_minutes(0, 2) == pytest.approx(5.0)
    # The first one takes a minute more than it has.
    clock[0] += 60.0 * 6
    assert spent.training_minutes(1, 2) == pytest.approx(4.0)
    assert spent.describe(2, 3, 40) == (
        "Budget of 20 minutes: 2 to train, 7.0 minutes each, loading the images included; at least 6.0 minutes to "
        "score 3 systems on as many of 40 cases as fit."
    )
    assert "Fewer --systems" in budget.Budget(8.0).describe(2, 2, 40)


def test_a_report_without_scores_says_why_in_a_table(data: Path, tmp_path: Path, scored: list[str]) -> None:
    run_suite(write_suite(tmp_path), data, tmp_path / "out", LUNG, max_minutes=0)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<td>U-Net, seed 0</td>" in page
    assert "--max-minutes 0 only scores</td>" in page


def test_no_table_has_more_columns_than_fit(data: Path, tmp_path: Path, scored: list[str]) -> None:
    metrics = list(COLUMNS)[:14]
    results = run_suite(write_suite(tmp_path, metrics=metrics), data, tmp_path / "out", LUNG)
    rows = [
        {**row, "metric": name} for row in results["measurements"] if row["metric"] == "ged_v" for name in metrics
    ]  # fmt: skip
    page = render_report(load_suite(tmp_path / "small.json"), {**results, "measurements": rows})
    heads = [head.count("<th") - 1 for head in re.findall(r"<tr>(<th>System</th>.*?)</tr>", page, re.DOTALL)]
    # The scores, and what they cost.
    assert heads == [6, 6, 2, 7]


def test_a_bundle_is_taken_for_a_known_source_alone(data: Path, tmp_path: Path) -> None:
    assert bundle_for({"source": "chase"}, data) == RETINA
    assert bundle_for({"source": "lidc-slices", "num_channels": 1}, data) == LUNG
    # One channel does not make a lung.
    with pytest.raises(InputError, match=r"source 'folder'.*choose one with --bundle"):
        bundle_for({"source": "folder", "num_channels": 1}, data)
    with pytest.raises(InputError, match="choose one with --bundle"):
        run_suite(write_suite(tmp_path), data, tmp_path / "out")


def test_no_systems_are_not_all_and_leave_the_results(data: Path, tmp_path: Path, scored: list[str]) -> None:
    """``--systems "$S"`` where S is empty."""
    run_suite(write_suite(tmp_path), data, tmp_path / "out", LUNG, systems=["U-Net"])
    before = (tmp_path / "out" / "results.json").read_bytes()
    with pytest.raises(InputError, match="--systems names no system"):
        run_suite(write_suite(tmp_path), data, tmp_path / "out", LUNG, systems="")
    assert (tmp_path / "out" / "results.json").read_bytes() == before


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
        known = {"threshold": 0.5, "fusion": "mean", "confidence": "samples", "surface_tolerance": 1.0}
        settings = {**known, **changes}
        return float(score_subsamples(tmp_path, cases, [2], ["dice"], 1, settings)["dice"].iloc[0])

    assert dice() == pytest.approx(1.0)
    assert dice(threshold=0.6) == pytest.approx(2 / 3)
    assert dice(fusion="majority") == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="need confidence 'samples'"):
        dice(confidence="probabilities")


@pytest.mark.parametrize(
    ("number", "draws", "starts"),
    [(2, 9, [0, 2, 4]), (3, 9, [0, 2]), (2, 2, [0, 4]), (2, 1, [0]), (6, 9, [0]), (8, 9, [0])],
)
def test_subsets_are_runs_that_begin_with_a_pair(tmp_path: Path, number: int, draws: int, starts: list[int]) -> None:
    """Sample k covers k + 1 of 8 rows, the rater the first row: Dice of a run's consensus is worked out by hand."""
    samples = np.zeros((6, 8, 8), bool)
    for k in range(6):
        samples[k, : k + 1] = True
    np.savez(tmp_path / "a.npz", samples=samples, raters=samples[:1])
    cases = pd.DataFrame({"case": ["a"], "group": ["a"]})
    settings = {"threshold": 0.5, "fusion": "mean", "confidence": "samples", "surface_tolerance": 1.0}
    found = score_subsamples(tmp_path, cases, [number], ["dice"], draws, settings)["dice"].iloc[0]
    # At least half of the samples start … start + n - 1 cover this many rows.
    rows = [start + 1 + min(number, 6) // 2 for start in starts]
    assert found == pytest.approx(np.mean([2 / (1 + count) for count in rows]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_the_report_in_a_browser(browser, width: int, scheme: str) -> None:
    """Nothing is cut off at the side, and text stands out from the page by what WCAG 2.1 asks for (4.5 to 1)."""
    results = json.loads((RESULTS / "suites" / "all-systems_cvc.json").read_text())
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_content(render_report(load_suite(find_suite("all-systems")), results))
    assert page.evaluate("document.documentElement.scrollWidth") == width
    color = "what => getComputedStyle(document.querySelector(what[0]))[what[1]].match(/[0-9]+/g).map(Number)"
    ground = luminance(page.evaluate(color, ["body", "backgroundColor"]))
    assert (ground < 0.1) == (scheme == "dark")
    verdicts = "".join(f"<p class='{name}'></p>" for name in ("better", "worse", "unclear"))
    page.evaluate("html => document.body.insertAdjacentHTML('beforeend', html)", verdicts)
    for text in ("body", ".note", "small", "td.cost", "p.better", "p.worse", "p.unclear"):
        light, dark = sorted([luminance(page.evaluate(color, [text, "color"])), ground], reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5, text
    page.close()


def luminance(rgb: list[int]) -> float:
    """Relative luminance of sRGB, as WCAG 2.1 defines it."""
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("others", [0, 1])
def test_an_empty_band_is_no_curve(data: Path, tmp_path: Path, scored: list[str], others: int) -> None:
    """One rater and a system without spread: no pixel lies in the band."""
    suite = write_suite(tmp_path)
    results = run_suite(suite, data, tmp_path / "out", LUNG, systems=["U-Net"])
    empty = {"count": [0.0, 0.0], "confidence": [None, None], "target": [None, None]}
    full = {"count": [3.0, 0.0], "confidence": [0.1, None], "target": [0.2, None]}
    results["calibration"] = [
        {"system": "U-Net", "key": "e", "ece": full, "ece_band": empty},
        *[{"system": "Ours", "key": "e", "ece": full, "ece_band": full}] * others,
    ]
    page = render_report(load_suite(suite), results)
    # Beside the means of the only metric.
    assert page.count("<svg") == 2 + others


@pytest.mark.parametrize(
    ("samples", "raters", "warned"), [(0.0, 0.6, True), (0.1, 0.6, False), (0.0, 0.0, False), (None, None, False)]
)
def test_masks_that_are_all_empty_are_told(samples: float | None, raters: float | None, warned: bool, caplog) -> None:
    notes = Notes()
    notes.warn_of_empty_masks("Ours, 5 samples", {"samples_nonempty": samples, "raters_nonempty": raters})
    assert len(notes.warnings) == warned
    assert ("Ours, 5 samples: all its masks are empty" in caplog.text) is warned
