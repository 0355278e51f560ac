"""``benchmarks/speed.py`` at tiny sizes: what it leaves and its arithmetic; never a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
SIZES = {
    "image_codec_channels": [8, 8],
    "mask_codec_channels": [8, 8],
    "image_codec_res_layers": 1,
    "mask_codec_res_layers": 1,
    "context_channels": [],
    "denoiser_channels": [8, 16],
    "denoiser_attention_levels": [False, True],
    "denoiser_norm_groups": 4,
    "denoiser_head_channels": 8,
    "image_size": 32,
}


@pytest.fixture(scope="module")
def scripts():
    """The scripts, which find one another as they do when they are run."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import speed
        import speed_around
        import speed_drawing
        import speed_figures
    finally:
        sys.path.pop(0)
    return {"speed": speed, "around": speed_around, "drawing": speed_drawing, "figures": speed_figures}


@pytest.fixture(scope="module")
def picture(scripts):
    return scripts["drawing"].Picture("lung crop", "lung_nodule_ct_latent_diffusion", 4, (2,), SIZES)


@pytest.fixture(scope="module")
def entry(scripts, picture):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scripts["drawing"], "UNET_FEATURES", (8, 8, 8, 8, 8, 8))
        patched.setattr(scripts["drawing"], "MIN_SECONDS", 0.0)
        (found,) = scripts["speed"].measure_drawing(picture, CPU, 2, scripts["drawing"].make_clock(CPU), 16)
    return found


@pytest.mark.parametrize(("steps", "walked", "number"), [(10, 2, 1), (7, 3, 2), (4, 4, 1)])
def test_steps_that_are_not_walked_are_extended(scripts, steps: int, walked: int, number: int) -> None:
    """A clock that counts: 5 before the first step, 3 a step, 2 after the last one, for each of two chunks."""
    ticks = [0.0]
    denoiser = torch.nn.Identity()

    def work(samples: int) -> None:
        for _ in range(samples):
            ticks[0] += 5
            for _ in range(walked):
                denoiser(torch.zeros(1))
                ticks[0] += 3
            ticks[0] += 2

    method = scripts["drawing"].Method(work, steps, walked, denoiser)
    assert scripts["drawing"].spend(method, number, lambda: ticks[0]) == number * (5 + 3 * steps + 2)


def test_every_method_is_a_row_with_its_own_steps(scripts, entry) -> None:
    rows = {row["name"]: row for row in entry["methods"]}
    assert list(rows) == [*scripts["drawing"].METHODS, "limit"]
    assert {name: (row["steps"], row["timed_steps"]) for name, row in rows.items() if name != "limit"} == {
        "default": (1, 1),
        "former_steps": (10, 10),
        "monai_inferer": (10, 10),
        "medsegdiff": (50, 2),
        "paper": (1000, 2),
        "ensemblediff": (1000, 2),
        "unet": (1, 1),
    }
    assert (entry["num_samples"], entry["height"]) == (2, 32)
    for row in rows.values():
        for key in ("ratio", "wall_seconds", "processor_seconds"):
            assert row[key]["min"] <= row[key]["median"] <= row[key]["max"]
    assert rows["unet"]["ratio"] == {"median": 1.0, "min": 1.0, "max": 1.0}
    assert rows["limit"]["multiply_accumulates"] == rows["default"]["multiply_accumulates"]


def test_multiply_accumulates_are_of_all_steps(scripts, picture, entry) -> None:
    """Each of the 1000 steps that were not made counts what one forward pass of the denoiser does."""
    drawing = scripts["drawing"]
    method = drawing.METHODS["ensemblediff"](picture, CPU)
    with drawing.FlopCounterMode(display=False) as counter:
        method.work(2)
    made = counter.get_total_flops() / 2
    (row,) = [row for row in entry["methods"] if row["name"] == "ensemblediff"]
    assert row["multiply_accumulates"] == pytest.approx(made * 1000 / 2)


def test_ratios_are_of_the_same_round_and_the_limit_is_at_the_rate_of_a_product(scripts) -> None:
    drawing, speed = scripts["drawing"], scripts["speed"]
    methods = {name: drawing.Method(print) for name in ("default", "unet", "matmul")}
    times = {
        "default": np.array([[2.0, 1.0], [9.0, 6.0], [8.0, 8.0]]),
        "unet": np.array([[1.0, 1.0], [3.0, 2.0], [2.0, 1.0]]),
        "matmul": np.array([[1.0, 1.0], [6.0, 4.0], [1.0, 1.0]]),
    }
    rows = speed.describe_methods(methods, times, {"default": 50, "unet": 7, "matmul": 100}, drawing.PROCESSOR)
    found = {row["name"]: row["ratio"] for row in rows}
    assert found["default"] == {"median": 3.0, "min": 1.0, "max": 8.0}
    assert found["limit"] == {"median": 0.5, "min": 0.5, "max": 1.0}
    assert next(row for row in rows if row["name"] == "default")["wall_seconds"]["median"] == 8.0


def test_memory_grows_with_the_number_of_samples() -> None:
    # In a process of its own, as `speed.py` measures it: this one has room left over from other tests.
    program = (
        "import json, sys, torch, speed_drawing\n"
        "torch.set_num_threads(1)\n"
        "picture = speed_drawing.Picture('crop', 'lung_nodule_ct_latent_diffusion', 4, (2,), json.loads(sys.argv[1]))\n"
        "print(json.dumps(speed_drawing.peak_memory(picture, 'default', (1, 4000), torch.device('cpu'))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(SIZES)],
        cwd=ROOT / "benchmarks", env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    one, many = json.loads(done.stdout.splitlines()[-1])
    # 4,000 masks of 32 x 32 pixels as float32 logits alone are 16 MB.
    assert many - one > 16e6


def test_stages_of_training_and_whole_processes_are_rows(scripts, picture) -> None:
    speed, around = scripts["speed"], scripts["around"]
    small = scripts["drawing"].Picture(
        picture.name, picture.bundle, 4, (2,), {**SIZES, "crop_size": 48, "batch_size": 2, "draws": 1}
    )
    clock = scripts["drawing"].make_clock(CPU)
    training = around.measure_training({"lung": small}, 1, CPU, clock)
    assert [(row["stage"], row["batch_size"], row["side"]) for row, _ in training] == [
        ("image_codec", 2, 32), ("mask_codec", 2, 32), ("train", 2, 48), ("scoring", 2, 48),
    ]  # fmt: skip
    (row,) = speed.describe_start_up({"nothing": [around.run_child(sys.executable, "-S", "-c", "")]})
    # Less than this process has: a child must not be charged with its parent's memory.
    assert 0 < row["peak_bytes"]["median"] < 100e6
    with pytest.raises(SystemExit, match="failed"):
        around.run_child(sys.executable, "-c", "raise SystemExit(3)")


def test_sources_without_an_archive_are_named(scripts, tmp_path: Path) -> None:
    rows = scripts["around"].measure_preparation(None, quick=True)
    assert rows == [{"source": "chase", "skipped": "no folder of archives was given (--data-dir)"}]
    (row,) = scripts["around"].measure_preparation(tmp_path, quick=True)
    assert "is not in the folder" in row["skipped"]


def test_page_and_plot_of_a_result(scripts, entry, tmp_path: Path) -> None:
    summary = {"median": 2.0, "min": 1.0, "max": 1234.0}
    result = {
        "device": "cpu",
        "clock": "processor_seconds",
        "repeats": 2,
        "drawing": [entry] * 3,
        "training": [
            {"bundle": "b", "stage": "train", "batch_size": 4, "side": 32, "processor_seconds": summary},
        ],
        "start_up": [
            {"command": "c", "processor_seconds": summary, "wall_seconds": summary, "peak_bytes": summary},
        ],
        "preparation": [{"source": "chase", "skipped": "because"}],
        "provenance": {"processor": "P", "threads": 1, "device": "cpu"},
    }
    text = scripts["figures"].speed(result, "speed_cpu", "speed.png")
    assert "EnsembleDiff, 1,000 steps\\* |" in text
    assert "| BasicUNet, one mask | 1 (1 to 1) |" in text
    assert "| 2 (1 to 1,234) | 500 |" in text
    assert "not measured: because" in text
    scripts["figures"].plot_speed(result, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
