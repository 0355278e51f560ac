"""`watch`: what arrives is predicted once it is complete, bad input is named once, SIGTERM ends it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_dicom import POINT, write_series

from medseglatdiff_monai.bundle.segmenter import load_segmenter
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.predict.command import predict
from medseglatdiff_monai.predict.results import predict_inputs
from medseglatdiff_monai.predict.watch import WatchedFolder, watch

ROOT = Path(__file__).resolve().parents[1]


class Clock:
    """Stands for the module `time` in `watch`."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("medseglatdiff_monai.predict.watch.time", clock)
    return clock


class Predicted(list):
    """Writes a prediction with a mask of each image, and remembers names of images and their places."""

    def __call__(self, paths: list[Path], places: list, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for path, where in zip(paths, places, strict=True):
            self.append((path.name, where))
            stem = path.name.partition(".")[0]
            (folder / f"{stem}_mask.png").touch()
            (folder / f"{stem}_prediction.json").write_text(json.dumps({"files": {"mask": f"{stem}_mask.png"}}))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def look(watched: WatchedFolder, clock: Clock, seconds: float = 60.0) -> None:
    """One look, and one more after a while."""
    watched.look()
    clock.now += seconds
    watched.look()


def test_an_input_is_taken_when_it_has_not_changed_for_a_while(source: Path, tmp_path: Path, clock: Clock) -> None:
    done = Predicted()
    watched = WatchedFolder(source, tmp_path / "out", 10.0, done)
    series = source / "series"
    series.mkdir()
    for number in range(4):
        (series / f"{number}.dcm").write_bytes(b"slice")
        watched.look()
        clock.now += 9.0
        watched.look()
        clock.now += 0.5
    assert done == []
    clock.now += 1.0
    watched.look()
    assert done == [("series", [])]
    look(watched, clock)
    assert len(done) == 1
    # A slice that came late: the results are of a part of the series, however soon they were there.
    (series / "late.dcm").write_bytes(b"slice")
    look(watched, clock, 9.0)
    assert len(done) == 1
    look(watched, clock)
    assert len(done) == 2


def test_what_changes_before_its_turn_is_left_for_later(source: Path, tmp_path: Path, clock: Clock) -> None:
    done = Predicted()

    def predict_slowly(paths: list[Path], places: list, folder: Path) -> None:
        done(paths, places, folder)
        (source / "b.png").write_bytes(b"more")

    for name in ("a.png", "b.png"):
        (source / name).touch()
    look(WatchedFolder(source, tmp_path / "out", 10.0, predict_slowly), clock)
    assert [name for name, _ in done] == ["a.png"]


def test_results_say_what_is_done(source: Path, tmp_path: Path, clock: Clock) -> None:
    """A second start leaves alone what has newer results, and takes what changed after its results."""
    (source / "pictures").mkdir()
    for name in ("a.png", "pictures/b.png", "pictures/c.jpg"):
        (source / name).touch()
    (source / ".hidden.png").touch()
    first, second = Predicted(), Predicted()
    look(WatchedFolder(source, tmp_path / "out", 10.0, first), clock)
    assert [name for name, _ in first] == ["a.png", "b.png", "c.jpg"]
    (tmp_path / "out" / "pictures" / "c_prediction.json").unlink()
    old = time.time() - 3600
    os.utime(tmp_path / "out" / "a.png" / "a_prediction.json", (old, old))
    look(WatchedFolder(source, tmp_path / "out", 10.0, second), clock)
    assert [name for name, _ in second] == ["a.png", "c.jpg"]


def test_bad_input_is_named_once_and_stops_nothing(
    source: Path, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    done = Predicted()

    def predict_or_fail(paths: list[Path], places: list, folder: Path) -> None:
        if paths[0].read_bytes() == b"odd":
            raise ZeroDivisionError("in the network")
        done(paths, places, folder)

    watched = WatchedFolder(source, tmp_path / "out", 10.0, predict_or_fail)
    (source / "a.txt").write_text("no image")
    (source / "b.png").write_bytes(b"odd")
    (source / "c.png").write_bytes(b"good")
    with caplog.at_level(logging.INFO, "medseglatdiff_monai"):
        for _ in range(3):
            look(watched, clock)
    assert [name for name, _ in done] == ["c.png"]
    messages = [record.getMessage() for record in caplog.records]
    assert [message.partition(": ")[0] for message in messages] == [str(source / "a.txt"), str(source / "b.png")]
    assert "unknown format" in (tmp_path / "out" / "a.txt" / "problem.txt").read_text()
    problem = tmp_path / "out" / "b.png" / "problem.txt"
    assert "ZeroDivisionError: in the network" in problem.read_text()
    (source / "b.png").write_bytes(b"better")
    look(watched, clock)
    assert [name for name, _ in done] == ["c.png", "b.png"]
    assert not problem.exists()


def test_results_that_are_removed_are_made_again(source: Path, tmp_path: Path, clock: Clock) -> None:
    done = Predicted()
    watched = WatchedFolder(source, tmp_path / "out", 10.0, done)
    (source / "pictures").mkdir()
    for name in ("a.png", "pictures/b.png", "pictures/c.png", "note.txt"):
        (source / name).touch()
    look(watched, clock)
    # A change, so that what is made again after it is not taken for the whole input.
    (source / "pictures" / "c.png").write_bytes(b"more")
    look(watched, clock)
    assert [name for name, _ in done] == ["a.png", "b.png", "c.png", "b.png", "c.png"]
    shutil.rmtree(tmp_path / "out" / "a.png")
    (tmp_path / "out" / "pictures" / "c_prediction.json").unlink()
    (tmp_path / "out" / "note.txt" / "problem.txt").unlink()
    for _ in range(2):
        look(watched, clock)
    assert [name for name, _ in done[5:]] == ["a.png", "c.png"]
    assert (tmp_path / "out" / "note.txt" / "problem.txt").exists()


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("change", ["places", "unreadable", "no pictures"])
def test_old_results_do_not_pass_for_a_changed_input(
    change: str, restarted: bool, source: Path, tmp_path: Path, clock: Clock
) -> None:
    """Whatever fails, and whether it is seen or found by the times: of the results nothing but the problem is left."""
    done = Predicted()

    def predict_or_fail(paths: list[Path], places: list, folder: Path) -> None:
        if paths[0].read_bytes() == b"garbage":
            raise InputError("garbage")
        done(paths, places, folder)

    for name in ("case", "other"):
        (source / name).mkdir()
        (source / name / "b.png").touch()
    watched = WatchedFolder(source, tmp_path / "out", 10.0, predict_or_fail)
    look(watched, clock)
    results = tmp_path / "out" / "case"
    (results / "report.html").touch()
    if change == "places":
        (source / "case.places.json").write_text("{")
    elif change == "unreadable":
        (source / "case" / "b.png").write_bytes(b"garbage")
    else:
        (source / "case" / "b.png").unlink()
    if restarted:
        old = time.time() - 3600
        os.utime(results / "b_prediction.json", (old, old))
        watched = WatchedFolder(source, tmp_path / "out", 10.0, predict_or_fail)
    look(watched, clock)
    assert len(done) == 2
    assert sorted(path.name for path in results.iterdir()) == ["problem.txt", "report.html"]
    assert sorted(path.name for path in (tmp_path / "out" / "other").iterdir()) == ["b_mask.png", "b_prediction.json"]


def test_a_name_in_old_results_leads_nowhere_else(source: Path, tmp_path: Path, clock: Clock) -> None:
    done = Predicted()
    watched = WatchedFolder(source, tmp_path / "out", 10.0, done)
    (source / "a.png").touch()
    look(watched, clock)
    (tmp_path / "out" / "a.png" / "a_prediction.json").write_text(json.dumps({"files": {"mask": "../../in/b.txt"}}))
    (source / "b.txt").touch()
    (source / "a.png").write_bytes(b"more")
    look(watched, clock)
    assert len(done) == 2
    assert (source / "b.txt").exists()


def test_a_problem_that_cannot_be_saved_is_logged_once(
    source: Path, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    done = Predicted()
    watched = WatchedFolder(source, tmp_path / "out", 10.0, done)
    for name in ("a.txt", "b.png", "c.png"):
        (source / name).touch()
    for name in ("a.txt", "b.png"):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_text("in the way")
    for _ in range(2):
        look(watched, clock)
    assert [name for name, _ in done] == ["c.png"]
    lines = [record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage()]
    assert [line.partition(": ")[0] for line in lines] == [
        str(tmp_path / "out" / name / "problem.txt") for name in ("a.txt", "b.png")
    ]
    assert "File exists" in lines[0]
    assert (tmp_path / "out" / "a.txt").read_text() == "in the way"
    (tmp_path / "out" / "b.png").unlink()
    (source / "b.png").write_bytes(b"more")
    look(watched, clock)
    assert [name for name, _ in done] == ["c.png", "b.png"]


def test_places_come_from_the_file_beside(source: Path, tmp_path: Path, clock: Clock) -> None:
    done = Predicted()
    watched = WatchedFolder(source, tmp_path / "out", 10.0, done)
    (source / "scan.nii.gz").touch()
    places, problem = source / "scan.nii.gz.places.json", tmp_path / "out" / "scan.nii.gz" / "problem.txt"
    for content, message in (
        ("{", "is not valid JSON"),
        ('{"points": [1, 2, 3]}', "found points; expected point or index or roi"),
        ('{"point": [1, 2]}', "--point is [1, 2]; expected 3 numbers"),
    ):
        places.write_text(content)
        look(watched, clock)
        assert str(places) in problem.read_text()
        assert message in problem.read_text()
    assert done == []
    places.write_text('{"point": [[1, 2, 3], [4, 5, 6]]}')
    look(watched, clock)
    assert done == [("scan.nii.gz", [("point", (1.0, 2.0, 3.0)), ("point", (4.0, 5.0, 6.0))])]
    places.write_text('{"index": "1,2,3"}')
    look(watched, clock)
    assert done[1:] == [("scan.nii.gz", [("index", (1.0, 2.0, 3.0))])]


def test_a_share_that_goes_away_is_waited_for(
    source: Path, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    done = Predicted()
    watched = WatchedFolder(source, tmp_path / "out", 10.0, done)
    (source / "a.png").touch()
    source.rename(tmp_path / "away")
    look(watched, clock)
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [f"{source} cannot be read"]
    (tmp_path / "away").rename(source)
    look(watched, clock)
    assert done == [("a.png", [])]


def test_a_full_disk_ends_it(source: Path, tmp_path: Path, clock: Clock) -> None:
    def fill_up(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    (source / "a.png").touch()
    with pytest.raises(OSError, match="No space left"):
        look(WatchedFolder(source, tmp_path / "out", 10.0, fill_up), clock)


def test_a_disk_too_full_for_the_problem_ends_it(
    source: Path, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(_: int) -> None:
        raise OSError(28, "No space left on device")

    (source / "a.txt").touch()
    monkeypatch.setattr("os.fsync", fill_up)
    with pytest.raises(InputError, match=r"problem\.txt could not be written \(No space left on device\)"):
        look(WatchedFolder(source, tmp_path / "out", 10.0, Predicted()), clock)


def test_a_series_says_what_it_needs_and_is_predicted_as_by_predict(
    lung: Path, series: Path, source: Path, tmp_path: Path, clock: Clock
) -> None:
    segmenter = load_segmenter(lung)

    def segment(paths: list[Path], places: list, folder: Path) -> None:
        predict_inputs(segmenter, paths, places, folder, None, 1, 30.0, False)

    watched = WatchedFolder(source, tmp_path / "out", 10.0, segment)
    shutil.copytree(series, source / "series")
    look(watched, clock)
    results = tmp_path / "out" / "series"
    assert [path.name for path in results.iterdir()] == ["problem.txt"]
    message = (results / "problem.txt").read_text()
    assert "needs to know where the nodule is" in message
    assert f'Write it to {source / "series.places.json"}, as {{"point": [[X, Y, Z]]}}' in message
    (source / "series.places.json").write_text(json.dumps({"point": POINT}))
    look(watched, clock)
    (expected,) = predict(lung, source / "series", tmp_path / "expected", point=POINT, slices=1, dicom=False)
    assert {path.name for path in results.iterdir()} == {Path(path).name for path in expected["files"].values()}
    with np.load(results / "series_samples.npz") as found, np.load(expected["files"]["samples"]) as wanted:
        np.testing.assert_array_equal(found["samples"], wanted["samples"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_dir": "none"}, r"none: no such folder"),
        ({"output_dir": "in"}, r"in and in: one is in the other"),
        ({"output_dir": "in/out"}, r"in and in/out: one is in the other"),
        ({"output_dir": "."}, r"in and \.: one is in the other"),
        ({"settle_seconds": -1.0}, r"--settle-seconds is -1\.0; expected seconds"),
        ({"num_samples": 0}, r"--num-samples is 0"),
        ({"bundle": "lung_nodul_ct"}, r"Did you mean 'lung_nodule_ct_latent_diffusion'"),
    ],
)
def test_arguments_are_checked_at_once(
    arguments: dict[str, Any], message: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source.parent)
    with pytest.raises(InputError, match=message):
        watch(**{"input_dir": "in", "output_dir": "out", **arguments})
    assert [path.name for path in source.parent.iterdir()] == ["in"]


def wait_for(what: Callable[[], Any], process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 600
    while not what():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.2)


@pytest.mark.integration
def test_the_command_ends_cleanly(lung: Path, crop_png: Path, ct: np.ndarray, source: Path, tmp_path: Path) -> None:
    """Two inputs are predicted, and SIGTERM ends it in the middle of one that takes long."""
    out, log = tmp_path / "out", tmp_path / "log"
    shutil.copy(crop_png, source / "one.png")
    write_series(source / "series", ct)
    (source / "series.places.json").write_text(json.dumps({"point": POINT}))
    words = ["watch", source, out, "--bundle", lung, "--settle-seconds", 0.5, "--slices", 1]
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "medseglatdiff_monai", *map(str, words)], stdout=stream, stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    try:
        predictions = [out / "one.png" / "one_prediction.json", out / "series" / "series_prediction.json"]
        wait_for(lambda: all(path.is_file() for path in predictions), process, log)
        # So many nodules that it is still at them when it is ended.
        places = [[float(x), POINT[1], POINT[2]] for x in np.linspace(POINT[0] - 5, POINT[0] + 5, 1000)]
        (source / "series.places.json").write_text(json.dumps({"point": places}))
        wait_for(lambda: not predictions[1].exists(), process, log)
        time.sleep(2.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()
    assert sorted(path.name for path in out.iterdir()) == ["one.png", "series"]
    assert list((out / "series").iterdir()) == []
    assert not [path for path in out.rglob(".*")]
