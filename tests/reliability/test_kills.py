"""Whatever is killed goes on, and ends with the same bytes as what was not."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from record import keep
from small_runs import LUNG, run_sizes, small_sizes, write_prepared
from victims import MESSAGE, start

from medseglatdiff_monai.networks.weights import load_tensors, state_path
from medseglatdiff_monai.predict.command import predict
from medseglatdiff_monai.training.run import TRAINING_STAGES

EPOCHS = 10
# Two batches an epoch; more epochs than kills in a stage.
SIZES = {
    **small_sizes(LUNG), **run_sizes(4), "draws": 1, "max_epochs": EPOCHS, "val_interval": 1000, "val_num_samples": 2,
    "tracking_uri": False, "plan": False,
}  # fmt: skip
TRAIN = "medseglatdiff_monai.training.run:train"
PREDICT = "medseglatdiff_monai.predict.command:predict"
MAIN = "medseglatdiff_monai.cli:main"
PATIENCE = 300.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("prepared") / "data", LUNG)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    process = start(TRAIN, run.with_name("log.txt"), LUNG, data, output_dir=run, **SIZES)
    process.join(PATIENCE)
    assert process.exitcode == 0, run.with_name("log.txt").read_text()[-3000:]
    return run


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.name} {name}": value
        for path in sorted((run / "models").glob("*.pt"))
        for name, value in load_tensors(path).items()
    }


def assert_same(run: Path, whole: Path) -> None:
    found, expected = weights_of(run), weights_of(whole)
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []
    assert not [path for path in run.rglob(".tmp-*")]


def disturb(data: Path, run: Path, per_stage: int, rng: random.Random) -> Counter[str]:
    """Train; kill each stage so often at a random moment with a checkpoint on disk. Counts the kills of each."""
    log, kinds = run.with_name("log.txt"), Counter[str]()
    for weights in TRAINING_STAGES.values():
        state = state_path(run / "models" / weights)
        for _ in range(per_stage):
            before = state.stat().st_mtime_ns if state.is_file() else 0
            process = start(TRAIN, log, LUNG, data, output_dir=run, **SIZES)
            end = time.monotonic() + PATIENCE
            # Until this process has written a checkpoint of the stage itself.
            while not (state.is_file() and state.stat().st_mtime_ns > before):
                assert process.is_alive(), log.read_text()[-3000:]
                assert time.monotonic() < end, log.read_text()[-3000:]
                time.sleep(0.001)
            time.sleep(rng.uniform(0.0, 0.05))
            assert state.is_file(), "the stage was over before it was killed"
            # Not SIGTERM, which ends an epoch early: the rest of it sees other random numbers.
            process.kill()
            process.join(PATIENCE)
            assert process.exitcode == -signal.SIGKILL, log.read_text()[-3000:]
            kinds[weights] += 1
    process = start(TRAIN, log, LUNG, data, output_dir=run, **SIZES)
    process.join(PATIENCE)
    assert process.exitcode == 0, log.read_text()[-3000:]
    assert "Traceback" not in log.read_text()
    return kinds


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_stages_that_are_killed_at_random_moments(data: Path, whole: Path, tmp_path: Path, seed: int) -> None:
    kinds = disturb(data, tmp_path / "run", 4, random.Random(seed))
    assert kinds == dict.fromkeys(TRAINING_STAGES.values(), 4)
    assert_same(tmp_path / "run", whole)
    keep(
        f"kills_{seed}",
        "every stage of a training, ended at random moments with a checkpoint on disk",
        {"the same weights": sum(kinds.values())},
    )


# The first four writes of a stage: its state and its weights, after each of two epochs.
DEATHS = [(1, "within"), (2, "within"), (2, "after"), (3, "done"), (4, "within"), (4, "done")]


def kill_within_writes(data: Path, whole: Path, folder: Path, deaths: list[tuple[int, str]]) -> int:
    """Train; in each stage end the process at these writes."""
    run, log, count = folder / "run", folder / "log.txt", 0
    for weights in TRAINING_STAGES.values():
        for number, when in deaths:
            process = start(TRAIN, log, LUNG, data, output_dir=run, death=(weights, number, when), **SIZES)
            process.join(PATIENCE)
            assert process.exitcode == -signal.SIGKILL, log.read_text()[-3000:]
            count += 1
    process = start(TRAIN, log, LUNG, data, output_dir=run, **SIZES)
    process.join(PATIENCE)
    assert process.exitcode == 0, log.read_text()[-3000:]
    assert_same(run, whole)
    return count


def test_a_tiny_stage_that_is_killed_within_every_write(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    for folder, deaths in ((tmp_path / "whole", []), (tmp_path / "killed", DEATHS)):
        for number, when in deaths:
            process = start("victims:train_tiny", log, folder, death=("model.pt", number, when))
            process.join(PATIENCE)
            assert process.exitcode == -signal.SIGKILL, log.read_text()
        process = start("victims:train_tiny", log, folder)
        process.join(PATIENCE)
        assert process.exitcode == 0, log.read_text()
    assert_same(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_stages_that_are_killed_within_every_write(data: Path, whole: Path, tmp_path: Path) -> None:
    count = kill_within_writes(data, whole, tmp_path, DEATHS)
    assert count == 24
    keep(
        "kills_in_writes",
        "every stage of a training, killed within, before and after its writes",
        {"the same weights": count},
    )


def fill_disk(data: Path, whole: Path, run: Path, log: Path) -> None:
    """Train until the disk is full, then with room."""
    process = start(TRAIN, log, LUNG, data, output_dir=run, limit=20_000, **SIZES)
    process.join(PATIENCE)
    said = log.read_text()
    assert process.exitcode == MESSAGE, said[-3000:]
    assert "could not be written (File too large)" in said
    assert "Traceback" not in said
    assert not list(run.rglob(".tmp-*"))
    process = start(TRAIN, log, LUNG, data, output_dir=run, **SIZES)
    process.join(PATIENCE)
    assert process.exitcode == 0, log.read_text()[-3000:]
    assert_same(run, whole)


@pytest.mark.slow
def test_training_on_a_full_disk(data: Path, whole: Path, tmp_path: Path) -> None:
    fill_disk(data, whole, tmp_path / "run", tmp_path / "log.txt")
    keep("full_disk", "a training whose disk is full, repeated with room", {"a message, then the same weights": 1})


# -- predict -----------------------------------------------------------------------------------------------------------


def write_pictures(folder: Path, number: int) -> Path:
    folder.mkdir()
    for index in range(number):
        noise = np.random.default_rng(index).integers(0, 256, (128, 128), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.png")
    return folder


def read_predictions(folder: Path) -> dict[str, bytes]:
    """What has its name already; a samples' archive by its arrays, since a zip holds the time."""
    found = {path.name: path.read_bytes() for path in folder.glob("[!.]*") if path.suffix in (".png", ".json")}
    for path in folder.glob("*.npz"):
        with np.load(path) as arrays:
            found[path.name] = b"".join(arrays[name].tobytes() for name in sorted(arrays))
    return found


def disturb_predictions(lung: Path, tmp_path: Path, times: int) -> int:
    pictures = write_pictures(tmp_path / "in", 6)
    predict(lung, pictures, tmp_path / "whole")
    expected = read_predictions(tmp_path / "whole")
    rng, out, log, killed = random.Random(0), tmp_path / "out", tmp_path / "log.txt", 0
    for _ in range(10 * times):
        if killed == times:
            break
        process = start(PREDICT, log, lung, pictures, out)
        end = time.monotonic() + PATIENCE
        while not list(out.glob(".tmp-*")) and process.is_alive() and time.monotonic() < end:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0.0, 0.5))
        process.kill()
        process.join(PATIENCE)
        assert process.exitcode in (-signal.SIGKILL, 0), log.read_text()[-3000:]
        killed += process.exitcode != 0
        found = read_predictions(out)
        for name, content in found.items():
            assert content == expected[name], name
        # A prediction's JSON comes last.
        for name in found:
            if name.endswith("_prediction.json"):
                assert set(json.loads(found[name])["files"].values()) <= found.keys()
    assert killed == times, "predictions ended before they were killed"
    predict(lung, pictures, out)
    assert read_predictions(out) == expected
    assert not list(out.glob(".tmp-*"))
    return killed


def test_predictions_that_are_killed(lung: Path, tmp_path: Path) -> None:
    assert disturb_predictions(lung, tmp_path, 3) == 3


@pytest.mark.slow
def test_predictions_that_are_killed_often(lung: Path, tmp_path: Path) -> None:
    count = disturb_predictions(lung, tmp_path, 20)
    assert count == 20
    keep("kills_predict", "predict on a folder of pictures, killed at random moments", {"equal when repeated": count})


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_results_on_a_full_disk(lung: Path, data: Path, tmp_path: Path, command: str) -> None:
    out, log = tmp_path / "out", tmp_path / "log.txt"
    given = [write_pictures(tmp_path / "in", 2)] if command == "predict" else ["--dataset-dir", data]
    process = start(MAIN, log, argv=[command, lung, *given, "--output-dir", out], limit=4096)
    process.join(PATIENCE)
    assert process.exitcode == 1, log.read_text()
    assert "(File too large): free some space, and run the same command again" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert not list(out.rglob(".tmp-*"))
    # Those of predict appear together; evaluate writes metrics before pictures.
    assert command == "evaluate" or not out.exists()
