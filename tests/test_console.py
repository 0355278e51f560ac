"""What is told while a command works: lines, bars and their times."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events

from medseglatdiff_monai import console
from medseglatdiff_monai.console import Progress, format_duration
from medseglatdiff_monai.training.progress import TrainingProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that have passed."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_lines_where_there_is_no_terminal(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    """One every five seconds at first, one every minute after an hour, and none at the end."""
    caplog.set_level(logging.INFO)
    with Progress("Preparing", 1200, "cases") as progress:
        for _ in range(1200):
            clock[0] += 2.5
            progress.update(note=lambda: "3 minutes left")
    messages = [record.message for record in caplog.records]
    assert messages[:2] == [
        "Preparing: 2 of 1,200 cases, 3 minutes left", "Preparing: 4 of 1,200 cases, 3 minutes left",
    ]  # fmt: skip
    assert 100 < len(messages) < 300
    assert not any("1,200 of" in message for message in messages)


def test_quick_work_has_no_lines(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress("Preparing", 10) as progress:
        for _ in range(10):
            clock[0] += 0.4
            progress.update(note=lambda: pytest.fail("a note costs time, and nobody sees it"))
    assert caplog.records == []


def test_bar_on_a_terminal_leaves_the_log_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar is taken away before a line of the log, and at the end."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    logger = logging.getLogger("test_console")
    handler = console._ConsoleHandler()
    logger.addHandler(handler)
    with Progress("Predicting", 3, "inputs") as progress:
        progress.update()
        logger.warning("one.png: done")
    logger.removeHandler(handler)
    text = stream.getvalue()
    assert "Predicting" in text
    # Whatever stands before it on its line was overwritten with blanks.
    before = text[: text.index("one.png: done")].split("\r")
    assert before[-1] == ""
    assert before[-2].strip() == ""
    assert text.split("\r")[-1].strip() == ""


def test_one_step_has_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress("Predicting", 1) as progress:
        progress.update()
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds"), (1, "1 second"), (59.4, "59 seconds"), (60, "1 minute"), (150, "2.5 minutes"),
        (1500, "25 minutes"), (3590, "60 minutes"), (7200, "2.0 hours"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_other_packages_are_quiet_and_this_one_is_not() -> None:
    script = """
import logging, warnings
from medseglatdiff_monai.console import PACKAGE, set_up_console
set_up_console()
import monai.bundle
for name in ("mlflow.store", "alembic.runtime", "ignite.engine.engine", "monai.bundle.workflows", "onnxscript.x"):
    logging.getLogger(name).warning("of another package")
logging.getLogger("any.other").info("of another package")
warnings.warn("of another package")
warnings.warn_explicit("of this one", UserWarning, str(PACKAGE / "cli.py"), 1)
logging.getLogger("medseglatdiff_monai.any").info("a line")
"""
    environment = {**os.environ, "PYTHONPATH": str(console.PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment)
    assert done.stderr == "Warning: of this one\na line\n"
    assert done.stdout == ""


def test_readers_of_images_do_not_tell_of_an_absent_decoder(caplog: pytest.LogCaptureFixture) -> None:
    """From Python, too, where nothing is set up."""
    from medseglatdiff_monai.io.prepared import LoadCase

    with warnings.catch_warnings(record=True) as caught:
        console.quiet_loaders()
        LoadCase()
    assert [str(entry.message) for entry in caught] == []
    assert caplog.records == []


def test_a_training_tells_how_many_steps_its_budget_is_enough_for(
    clock: list[float], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Four seconds a step, 600 steps, a budget of 21 seconds: after two steps another three fit."""
    caplog.set_level(logging.INFO)

    def step(engine: Engine, batch: int) -> dict[str, torch.Tensor]:
        clock[0] += 4.0
        if engine.state.iteration == 3:
            engine.terminate()
        return {"loss": torch.tensor(0.5)}

    trainer = Engine(step)
    trainer.add_event_handler(Events.STARTED, lambda: setattr(trainer.state, "stop_at", 121.0))
    TrainingProgress(tmp_path, "train", ["train"]).attach(trainer)
    trainer.run([0] * 600)
    told = "Stage 1 of 1: network: 2 of 600 steps, loss 0.5, 13 seconds left of the budget, enough for about 3 steps"
    assert told in caplog.messages
