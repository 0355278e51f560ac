"""The figures in the texts are those of the checked-in results."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_texts_show_the_checked_in_results():
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "figures.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.fixture
def suite_results(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("suite_results", ROOT / "benchmarks" / "suite_results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measurement(system: str, mean: float, point: float | None = None) -> dict:
    costs = {"parameters": 2.5e6, "multiply_accumulates": 1e9, "training_minutes": None, "seconds_per_sample": 0.125}
    return {
        "system": system, "key": "e", "point": point, "metric": "dice", "mean": mean, "low": mean - 0.1,
        "high": mean + 0.1, "num_cases": 9, "num_groups": 3, **costs,
    }  # fmt: skip


def result(measurements: list[dict], comparisons: list[dict]) -> dict:
    return {
        "name": "table", "suite": "paper-table-2", "bundle": "skin_lesion_dermoscopy_latent_diffusion",
        "measurements": measurements, "comparisons": comparisons, "left_out": [],
        "dataset": {"name": "Set", "split": "validation", "group_unit": "image", "cases": 9},
        "options": {"max_minutes": 20, "max_cases": None, "overrides": {}, "training_seeds": [0]},
        "provenance": {"threads": 1, "processor": "P"},
    }  # fmt: skip


def test_best_system_is_named_with_what_is_settled(suite_results: ModuleType) -> None:
    compared = {"key": "e", "point": None, "metric": "dice", "p_holm": 0.01}
    found = result(
        [measurement("Ours", 0.8), measurement("UNet", 0.7), measurement("nnU-Net", 0.75)],
        [{**compared, "system": "UNet", "mean": -0.125, "low": -0.2, "high": -0.05},
         {**compared, "system": "nnU-Net", "mean": 0.0, "low": -0.1, "high": 0.1}],
    )  # fmt: skip
    systems = [{"name": name} for name in ("UNet", "nnU-Net", "Ours", "UNet++")]
    suite = {"systems": systems, "reference": "Ours", "paper": {found["bundle"]: {"UNet": {"dice": 0.856}}}}
    text = suite_results._result(found, "dice", suite, named=False)
    assert "**Best Dice: Ours, 0.800 (0.700 to 0.900).** With this budget not settled against nnU-Net." in text
    assert "| UNet | 0.700* (0.600 to 0.800) | 2.50 | 1.00 | 0.125 |" in text
    # The column of minutes is empty for all.
    assert "| system | Dice | million parameters | GMAC | s per sample |" in text
    assert "| in the paper (here) | Dice |\n|---|---|\n| UNet | 0.856 (0.700) |\n" in text
    assert "The paper's experiment is another one: another split, and a GPU." in text
    # Differences are for suites that change one choice at a time.
    assert "| difference from" not in text
    differences = suite_results._differences({**found, "suite": "mask-codecs"}, "Ours")
    assert "| UNet | -0.125 (-0.200 to -0.050) |" in differences
    assert "| nnU-Net | +0.000 (-0.100 to +0.100), not settled |" in differences
    names = "UNet,nnU-Net,Ours"
    assert f"--max-minutes 20 --systems {names} --run" in text


def test_a_given_run_is_not_said_to_be_of_the_budget(suite_results: ModuleType) -> None:
    trained = {**measurement("UNet", 0.7), "training_minutes": 6.0}
    compared = {"key": "e", "point": None, "metric": "dice", "p_holm": 0.01, "low": -0.2, "high": -0.05}
    found = result([measurement("Ours", 0.8), trained], [{**compared, "system": "UNet"}])
    suite = {"systems": [{"name": "UNet"}, {"name": "Ours"}], "reference": "Ours"}
    text = suite_results._result(found, "dice", suite, named=True)
    assert text.startswith(f"### {found['dataset']['name']}: UNet\n")
    assert "the shipped bundle, which was trained for hours, the others for 6.0 minutes; the difference" in text
    assert "--max-minutes 20 --run Ours=bundles/skin_lesion_dermoscopy_latent_diffusion\n" in text
    found["options"]["training_seeds"] = [0, 3]
    text = suite_results._result(found, "dice", suite, named=True)
    assert "6.0 minutes of training each, 2 trainings of each" in text
    assert "--max-minutes 20 --run Ours=bundles/skin_lesion_dermoscopy_latent_diffusion --seeds 0,3\n" in text


def test_curve_says_from_where_on_it_is_flat(suite_results: ModuleType) -> None:
    # At 3 it happens to be near the last one, and leaves it again.
    means = {1: 0.7, 3: 0.799, 4: 0.78, 5: 0.796, 10: 0.8, 30: 0.8}
    found = result([measurement("Ours", mean, point) for point, mean in means.items()], [])
    answer = suite_results._answer(found, "dice", "Ours")
    assert answer == "**Ours: Dice 0.700 at 1, 0.800 at 30; from 5 on it is within 0.005 of the last.**"
