"""Signals, two processes on one folder, killed writers, a full disk: nothing is lost, and a message says what to do."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image
from small_runs import LUNG, run_sizes, small_sizes, write_prepared
from torch import nn

from medseglatdiff_monai.data.prepare import prepare
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.files import read_json, remove_leftovers, save_json, save_with, temporary_name
from medseglatdiff_monai.locks import LOCK_NAMES, locked
from medseglatdiff_monai.networks.weights import load_tensors, save_tensors, stage_finished
from medseglatdiff_monai.training.checkpoints import StageCheckpoint
from medseglatdiff_monai.training.interruption import RESUMABLE, Interrupted, interruptible
from medseglatdiff_monai.training.run import train

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
HOLD = """
import sys, time
from medseglatdiff_monai.locks import locked
with locked(sys.argv[1]):
    print(flush=True)
    time.sleep(600)
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds a folder's lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, env=ENVIRONMENT)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with holder(folder) as process:
        message = rf"out is in use: process {process.pid} on .* writes to it\. Wait"
        with pytest.raises(InputError, match=message), locked(folder):
            pass
        with pytest.raises(InputError, match=message):
            prepare("phantom", output_dir=folder, workers=1)
        data = write_prepared(tmp_path / "data", LUNG, training=2, validation=1)
        with pytest.raises(InputError, match=message):
            train(LUNG, data, output_dir=folder, **small_sizes(LUNG))
        assert {path.name for path in folder.iterdir()} == LOCK_NAMES
    # It was killed: its files are there still.
    assert {path.name for path in folder.iterdir()} == LOCK_NAMES
    with locked(folder):
        assert read_json(folder / ".lock-holder.json")["pid"] == os.getpid()
    assert list(folder.iterdir()) == []


def test_a_folder_that_stays_empty_is_removed(tmp_path: Path) -> None:
    with locked(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()
    with locked(tmp_path):
        pass
    assert tmp_path.exists()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write there"), locked(tmp_path / "file" / "out"):
        pass


def test_leftovers_of_killed_processes_are_removed_and_others_stay(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own = temporary_name("model.pt")
    killed = own.replace(f"-{os.getpid()}-", f"-{ended.pid}-")
    elsewhere = killed.replace(own.split("-")[1], "0" * 8)
    for name in (own, killed, elsewhere, "model.pt"):
        (tmp_path / name).touch()
    (tmp_path / killed.replace("model.pt", "predict")).mkdir()
    remove_leftovers(tmp_path, tmp_path / "absent")
    assert {path.name for path in tmp_path.iterdir()} == {own, elsewhere, "model.pt"}


@contextmanager
def small_disk() -> Iterator[None]:
    """Files can have 4096 bytes: as on a full disk, writing fails where the system says so."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("small", "large"),
    [
        (lambda path: save_json([1], path), lambda path: save_json(list(range(9000)), path)),
        (
            lambda path: save_tensors({"a": torch.zeros(2)}, path),
            lambda path: save_tensors({"a": torch.zeros(9000)}, path),
        ),
        (
            lambda path: save_with(lambda handle: np.savez(handle, a=np.zeros(2)), path),
            lambda path: save_with(lambda handle: np.savez(handle, a=np.zeros(9000)), path),
        ),
    ],
    ids=["json", "weights", "arrays"],
)
def test_full_disk_is_a_message_and_the_former_file_stays(
    small: Callable[[Path], Any], large: Callable[[Path], Any], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    small(path)
    before = path.read_bytes()
    with (
        pytest.raises(InputError, match=r"file could not be written \(File too large\).*free some space"),
        small_disk(),
    ):
        large(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_ends_a_command_without_a_traceback(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        for name, array in (("images", rng.integers(0, 256, (90, 90))), ("masks", rng.integers(0, 2, (90, 90)) * 255)):
            (tmp_path / "src" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(tmp_path / "src" / name / f"{number}.png")
    command = ["prepare", "folder", str(tmp_path / "src"), "--output-dir", str(tmp_path / "out"), "--workers", "1"]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 4; exec "$@"', "bash", sys.executable, "-m", "medseglatdiff_monai", *command],
        capture_output=True, text=True, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "free some space, and run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_files_are_on_the_disk_before_they_get_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "file", []
    sync = os.fsync

    def note(descriptor: int) -> None:
        seen.append((path.exists(), os.fstat(descriptor).st_size if not path.exists() else None))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    save_with(lambda handle: handle.write(b"abc"), path)
    # The content before it is renamed, the folder after.
    assert seen == [(False, 3), (True, None)]


def run_stage(folder: Path, at: dict[int, int]) -> nn.Module:
    """Four epochs of three iterations; ``at``: in which of them which signal comes."""
    torch.manual_seed(0)
    network = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)

    def update(engine: Engine, batch: float) -> None:
        if engine.state.iteration in at:
            os.kill(os.getpid(), at[engine.state.iteration])
        optimizer.zero_grad()
        network.weight.square().sum().backward()
        optimizer.step()

    engine = Engine(update)
    StageCheckpoint(network, optimizer, folder / "model.pt").attach(engine)
    with interruptible():
        engine.run([0.0, 1.0, 2.0], max_epochs=4)
    return network


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("iteration", [2, 6, 12])
def test_signal_leaves_a_checkpoint_and_the_resumed_stage_ends_as_an_undisturbed_one(
    number: int, iteration: int, tmp_path: Path
) -> None:
    handlers = [signal.getsignal(entry) for entry in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Interrupted) as caught:
        run_stage(tmp_path / "stopped", {iteration: number})
    assert caught.value.code == RESUMABLE == 75
    assert [signal.getsignal(entry) for entry in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert not stage_finished(tmp_path / "stopped" / "model.pt")
    assert load_tensors(tmp_path / "stopped" / "training_state_model.pt")["iteration"] == iteration
    resumed = run_stage(tmp_path / "stopped", {})
    assert stage_finished(tmp_path / "stopped" / "model.pt")
    assert torch.equal(resumed.weight, run_stage(tmp_path / "whole", {}).weight)


def test_signal_while_nothing_is_trained_ends_at_once() -> None:
    with pytest.raises(Interrupted), interruptible():
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.integration
def test_terminated_command_says_that_it_can_be_resumed(tmp_path: Path) -> None:
    data = write_prepared(tmp_path / "data", LUNG, training=2, validation=1)
    sizes = {**small_sizes(LUNG), **run_sizes(2), "max_epochs": 100_000, "val_interval": 100_000}
    options = [word for key, value in sizes.items() for word in (f"--{key}", str(value))]
    run = tmp_path / "run"
    command = ["train", LUNG, "--dataset-dir", str(data), "--output-dir", str(run), "--tracking_uri", "False", *options]
    log = tmp_path / "log.txt"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "medseglatdiff_monai", *command], stdout=stream, stderr=stream, env=ENVIRONMENT
        )
    state = run / "models" / "training_state_image_codec.pt"
    try:
        while not state.is_file():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        process.terminate()
        process.wait(timeout=60)
    finally:
        process.kill()
    said = log.read_text()
    assert process.returncode == RESUMABLE, said
    assert "SIGTERM: the same command resumes the training" in said
    assert "Traceback" not in said
    assert not {path.name for path in run.iterdir()} & LOCK_NAMES
    assert load_tensors(state)["iteration"] > 0
