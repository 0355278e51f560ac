"""Whole suites on drawn discs and on real crops: training, scores, resuming, refusals, the report."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from monai.data import CacheDataset
from small_runs import LUNG, SKIN, run_sizes, small_sizes, write_prepared

from medseglatdiff_monai.bundle.build import write_run_folder
from medseglatdiff_monai.data import shared_cache
from medseglatdiff_monai.data.prepare import prepare
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.evaluation.run import evaluate
from medseglatdiff_monai.suites import runner, scoring
from medseglatdiff_monai.suites.command import run_suite
from medseglatdiff_monai.suites.results import read_results

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
SUITE = {
    "title": "Two systems & a table",
    "description": "d",
    "systems": [{"name": "Ours"}, {"name": "U-Net", "experiment": "unet", "deterministic": True}],
    "evaluations": [
        {"name": "counts", "num_samples": 4, "subsample": [2, 4], "panels": 1},
        {"name": "spread", "num_samples": 3, "metrics": ["ncc", "ece", "brier"], "reliability": True},
    ],
    "metrics": ["ged_v", "hm_iou", "dice"],
    "reference": "Ours",
}


def sizes(bundle: str) -> dict:
    own = {**small_sizes(bundle), **run_sizes(), "tracking_uri": None}
    return {key: value for key, value in own.items() if key not in ("num_samples", "num_inference_steps")}


def write_suite(folder: Path, **changes) -> Path:
    path = folder / "two.json"
    path.write_text(json.dumps({**SUITE, **changes}))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("prepared") / "data", LUNG, training=4, validation=6)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def done(data: Path, suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("done")
    results = run_suite(suite, data, output, LUNG, **sizes(LUNG))
    assert results["failures"] == []
    assert results["left_out"] == []
    return output


def rows(output: Path, **wanted) -> list[dict]:
    found = read_results(output / "results.json")["measurements"]
    return [row for row in found if all(row[name] == value for name, value in wanted.items())]


def test_fewer_samples_are_what_an_evaluation_with_fewer_draws(done: Path, data: Path, tmp_path: Path) -> None:
    summary = evaluate(done / "runs" / "ours_seed0", data, tmp_path, num_samples=2)["summary"]
    for metric in SUITE["metrics"]:
        (row,) = rows(done, system="Ours", point=2.0, metric=metric)
        assert row["mean"] == pytest.approx(summary[metric], abs=1e-9)


def test_results_carry_costs_versions_and_comparisons(done: Path) -> None:
    results = read_results(done / "results.json")
    assert {row["system"] for row in results["measurements"]} == {"Ours", "U-Net"}
    for row in results["measurements"]:
        assert row["parameters"] > 0
        assert row["multiply_accumulates"] > 0
        assert row["training_minutes"] > 0
        assert row["seconds_per_sample"] > 0
    assert {"torch", "monai", "scipy", "processor", "device", "git_commit"} <= set(results["provenance"])
    assert results["options"]["training_seeds"] == [0]
    assert len(results["comparisons"]) == 8  # three metrics at two numbers of samples, NCC and Brier
    for row in results["comparisons"]:
        means = [
            rows(done, system=name, key=row["key"], point=row["point"], metric=row["metric"])[0]["mean"]
            for name in (row["system"], row["reference"])
        ]  # fmt: skip
        # Cases without a consensus are without Dice for both, so differences of means are means of differences.
        assert row["mean"] == pytest.approx(means[0] - means[1])
        assert row["p_holm"] >= row["p"]
    # A deterministic system is scored with two equal samples: their correlation with the raters is defined, as 0.
    assert results["not_applicable"] == {}
    assert rows(done, system="U-Net", metric="ncc")[0]["mean"] == 0.0
    assert {entry["num_samples"] for entry in results["evaluations"] if entry["system"] == "U-Net"} == {2}
    table = pd.read_csv(done / "results.csv")
    assert len(table) == len(results["measurements"])


def test_report_holds_everything_itself(done: Path) -> None:
    page = (done / "report.html").read_text()
    assert re.findall(r"(?:src|href)\s*=\s*[\"'](?!data:|#)", page) == []
    assert "<link" not in page
    assert "@import" not in page
    assert "Two systems &amp; a table" in page
    for row in rows(done, metric="ged_v"):
        assert f"{row['mean']:.3f}" in page
    assert page.count("<svg") >= 4  # three metrics by number of samples, reliability
    assert page.count("data:image/png;base64,") == 4
    assert "Differences on these cases (one training each)" in page


def test_a_second_call_trains_and_scores_nothing(
    done: Path, data: Path, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments, **options):
        raise AssertionError("done already")

    before = read_results(done / "results.json")
    monkeypatch.setattr(runner, "train", refuse)
    monkeypatch.setattr(scoring, "evaluate", refuse)
    again = run_suite(suite, data, done, LUNG, **sizes(LUNG))
    assert again["failures"] == []
    assert again["measurements"] == before["measurements"]


def test_a_damaged_system_fails_and_the_others_go_on(
    done: Path, data: Path, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stands for NaN in a sample: whatever ``evaluate`` raises is recorded with its message."""

    def broken(bundle, *arguments, **options):
        if Path(bundle).name.startswith("u-net"):
            raise InputError("case-7: NaN in sample 0")
        return evaluate(bundle, *arguments, **options)

    monkeypatch.setattr(scoring, "evaluate", broken)
    runs = {"Ours": done / "runs" / "ours_seed0", "U-Net": done / "runs" / "u-net_seed0"}
    results = run_suite(suite, data, tmp_path, LUNG, max_cases=2, runs=runs)
    assert {row["system"] for row in results["measurements"]} == {"Ours"}
    assert [entry["message"] for entry in results["failures"]] == ["case-7: NaN in sample 0"] * 2
    assert "case-7: NaN in sample 0" in (tmp_path / "report.html").read_text()
    # Given runs are scored where they are: nothing was trained, and only two cases were drawn.
    assert not (tmp_path / "runs").exists()
    assert {row["num_cases"] for row in rows(tmp_path, metric="ged_v")} == {2}


def test_a_bundle_without_a_training_record_has_its_costs_counted(
    done: Path, data: Path, suite: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "given"
    shutil.copytree(done / "runs" / "ours_seed0", bundle, ignore=shutil.ignore_patterns("training.json"))
    run_suite(suite, data, tmp_path / "out", LUNG, max_cases=2, systems=["Ours"], runs={"Ours": bundle})
    costs = ("parameters", "multiply_accumulates")
    (found,), (recorded,) = (
        {tuple(row[name] for name in costs) for row in rows(output, system="Ours")}
        for output in (tmp_path / "out", done)
    )
    assert found == recorded
    assert {row["training_minutes"] for row in rows(tmp_path / "out")} == {None}


def test_result_files_of_another_version_are_refused(done: Path, data: Path, suite: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"version": 0, "measurements": []}))
    with pytest.raises(InputError, match="found version 0, expected 1"):
        run_suite(suite, data, tmp_path, LUNG)
    record = done / "evaluations" / "ours_seed0" / "counts" / "record.json"
    kept = record.read_text()
    record.write_text(json.dumps({**json.loads(kept), "version": 1}))
    try:
        results = run_suite(suite, data, done, LUNG, systems=["Ours"], max_minutes=0, **sizes(LUNG))
    finally:
        record.write_text(kept)
    assert [entry["what"] for entry in results["failures"]] == ["Ours, seed 0, counts"]
    assert "are not comparable" in results["failures"][0]["message"]
    assert rows(done, key="counts") == []
    assert rows(done, key="spread") != []


def test_no_time_is_said(data: Path, suite: Path, tmp_path: Path) -> None:
    results = run_suite(suite, data, tmp_path, LUNG, max_minutes=0)
    assert results["measurements"] == []
    assert {entry["what"] for entry in results["left_out"]} == {"Ours, seed 0", "U-Net, seed 0"}


def test_a_budget_ends_with_scores_intervals_and_pictures(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two systems, nothing said of panels; the images are loaded once for all stages of both."""
    loaded: list[int] = []
    load = CacheDataset._load_cache_item

    def count(self: CacheDataset, index: int):
        loaded.append(index)
        return load(self, index)

    monkeypatch.setattr(CacheDataset, "_load_cache_item", count)
    monkeypatch.setattr(shared_cache, "_CACHES", type(shared_cache._CACHES)())
    suite = write_suite(tmp_path, evaluations=[{"name": "e", "num_samples": 2}])
    with caplog.at_level("INFO"):
        results = run_suite(suite, data, tmp_path / "out", LUNG, max_minutes=5, **sizes(LUNG))
    assert results["failures"] == []
    assert next(text for text in caplog.messages if "Budget" in text).startswith("Budget of 5 minutes: 2 to train")
    # Four images with and without the margin that augmentation needs, and six to validate on.
    assert len(loaded) == 14
    for row in results["measurements"]:
        assert row["low"] <= row["mean"] <= row["high"]
    assert {row["system"] for row in results["measurements"]} == {"Ours", "U-Net"}
    page = (tmp_path / "out" / "report.html").read_text()
    for system in ("Ours", "U-Net"):
        assert f'alt="{system}: raters and samples" src="data:image/png;base64,' in page
    assert page.count("<svg") == len(SUITE["metrics"])


def test_one_rater_names_what_does_not_apply_and_goes_on(tmp_path: Path) -> None:
    data = write_prepared(tmp_path / "data", SKIN, training=4, validation=2)
    path = write_suite(tmp_path, systems=SUITE["systems"][:1], metrics=["ged_v", "ged_u", "ncc", "dice"],
                       evaluations=[{"name": "e", "num_samples": 2}])  # fmt: skip
    results = run_suite(path, data, tmp_path / "out", SKIN, **sizes(SKIN))
    assert results["failures"] == []
    reason = "needs at least two raters, the data set has one"
    assert results["not_applicable"] == {"GED, unbiased, Ours, e": reason, "NCC, Ours, e": reason}
    (row,) = rows(tmp_path / "out", metric="ged_v")
    assert np.isfinite(row["mean"])
    assert reason in (tmp_path / "out" / "report.html").read_text()


def test_codecs_on_their_own_share_nothing_but_what_is_alike(data: Path, tmp_path: Path) -> None:
    """Table I without any diffusion; a second system with the same image codec does not train it again."""
    systems = [
        {"name": "Mask (MSE)", "experiment": "ablations/mask_mse", "reconstruction": "mask_codec"},
        {"name": "Mask (WCE)", "reconstruction": "mask_codec"},
        {"name": "Image", "reconstruction": "image_codec"},
        {"name": "Image again", "reconstruction": "image_codec", "overrides": {"sampler": "ddpm"}},
    ]
    path = write_suite(tmp_path, systems=systems, reference=None, metrics=["dice", "iou", "psnr", "ssim"],
                       evaluations=[{"name": "reconstruction"}])  # fmt: skip
    results = run_suite(path, data, tmp_path / "out", LUNG, max_cases=3, **sizes(LUNG))
    assert results["failures"] == []
    assert len(list((tmp_path / "out" / "codecs").glob("*.pt"))) == 3
    hashes = {entry["system"]: entry["weights_sha256"] for entry in results["evaluations"]}
    assert hashes["Image"] == hashes["Image again"]
    assert hashes["Mask (MSE)"] != hashes["Mask (WCE)"]
    assert {name for name in results["not_applicable"] if name.startswith("Dice")} == {
        "Dice, Image, reconstruction",
        "Dice, Image again, reconstruction",
    }
    # What training.json counts is the whole segmenter.
    assert {(row["parameters"], row["seconds_per_sample"]) for row in rows(tmp_path / "out")} == {(None, None)}
    minutes = {name: rows(tmp_path / "out", system=name)[0]["training_minutes"] for name in ("Image", "Image again")}
    # What the shared codec took counts for both.
    assert minutes["Image again"] == minutes["Image"] > 0
    for system in ("Mask (MSE)", "Mask (WCE)", "Image"):
        assert rows(tmp_path / "out", system=system, metric="psnr")[0]["mean"] > 0


@pytest.mark.data
def test_ambiguity_on_real_validation_crops(data_dir: Path, unpack: Callable[..., Path], tmp_path: Path) -> None:
    """The real command with a tiny budget: the bundle's own weights, and a U-Net of a few seconds."""
    if not (ROOT / "bundles" / LUNG / "models" / "model.pt").is_file():
        pytest.skip("the lung bundle's weights are not there")
    source = unpack("lidc_idri_slices_train_val.tar.xz", r"/LIDC-IDRI-000[1-9]/", stop_at="/LIDC-IDRI-0011/")
    data = tmp_path / "data"
    prepare("lidc-slices", source, output_dir=data, split_file=data_dir / "lidc_split.csv", crop=128, workers=1)
    # The bundle with a single step a sample, which is enough here.
    ours = write_run_folder(LUNG, tmp_path / "ours", None, {"num_inference_steps": 1})
    (ours / "models").mkdir()
    shutil.copyfile(ROOT / "bundles" / LUNG / "models" / "model.pt", ours / "models" / "model.pt")
    done = subprocess.run(
        [sys.executable, "-m", "medseglatdiff_monai", "benchmark", "ambiguity", "--dataset-dir", str(data),
         "--output-dir", str(tmp_path / "out"), "--systems", "Ours,UNet", "--run", f"Ours={ours}", "--max-cases", "2",
         "--max-minutes", "2", "--max_epochs", "1", "--max_train_cases", "8", "--max_val_cases", "2", "--batch_size",
         "4", "--tracking_uri", "False"],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Left out: LDSeg: not among --systems" in done.stdout
    found = {(row["system"], row["metric"], row["point"]) for row in rows(tmp_path / "out")}
    for number in (16, 32, 50, 100):
        assert {("Ours", "ged_v", number), ("UNet", "hm_iou", number)} <= found
    # A trained model on real crops: better than the worst, and no perfect score.
    assert 0.0 < rows(tmp_path / "out", system="Ours", metric="ged_v", point=16.0)[0]["mean"] < 1.0
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
