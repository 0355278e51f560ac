"""The command `watch`: what arrives in a folder is segmented as by `predict`, one input after the other.

The folder is looked through again and again, since network shares report no changes. What was done is known by its
results alone: an input is due if it has no prediction, or changed after it. One that failed is due once it changed,
its problem.txt was removed, or the command starts again.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.segmenter import load_segmenter
from ..errors import InputError
from ..files import find_full_disk, read_keys, save_text
from ..io.formats import NIFTI_SUFFIXES, PREDICTION_SUFFIX, RASTER_SUFFIXES, find_stem, list_inputs
from ..io.places import FORMS, MissingPlace, Place, parse_places
from ..locks import locked
from ..startup import heavy_imports
from .arguments import check_options

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# Between two looks, and how many times as long as a look took: of a thousand series it takes seconds.
PAUSE_SECONDS, PAUSE_FACTOR = 2.0, 10.0
# Beside an input NAME its places stand in NAME.places.json; in the output folder's NAME, what the input lacks.
PLACES_SUFFIX = ".places.json"
PROBLEM_NAME = "problem.txt"
# Files below an input, their bytes, and the time of the last change of one.
State = tuple[int, int, float]


def watch(
    input_dir: str | Path,
    output_dir: str | Path,
    bundle: str | Path = "lung_nodule_ct_latent_diffusion",
    weights: str | Path | None = None,
    experiment: str | None = None,
    num_samples: int | None = None,
    num_inference_steps: int | None = None,
    seed: int = 0,
    slices: int | None = None,
    reach_mm: float = 30.0,
    dicom: bool | None = None,
    device: str | torch.device | None = None,
    settle_seconds: float = 10.0,
    **overrides: Any,
) -> None:
    """Segment what arrives in a folder as 'predict' does, until SIGTERM or Ctrl-C.

    An input is a folder with a DICOM series or pictures, or a PNG, JPEG or NIfTI file, directly in input_dir. The files
    of an input NAME are written to output_dir/NAME. Where it lacks something, such as the place of a nodule, or cannot
    be read, output_dir/NAME/problem.txt says what and what to do; it is tried again once it has changed. Results of an
    input that changed are removed before it is segmented again.

    Places of nodules stand beside it in input_dir/NAME.places.json: "point", "index" or "roi", as predict takes them,
    such as {"point": [[-62.5, 41, -120], [30, 12, -85]]}.

    Example: medseglatdiff watch incoming results

    Args:
        input_dir: the folder; nothing in it is changed or removed.
        output_dir: where the results go; an input whose results are there, and newer, is left alone.
        bundle: a bundle's folder or name, see medseglatdiff bundles.
        weights: other weights than the bundle's own.
        experiment: overlay that the weights were trained with.
        num_samples: as in predict.
        num_inference_steps: as in predict.
        seed: as in predict.
        slices: as in predict.
        reach_mm: as in predict.
        dicom: as in predict.
        device: cpu, cuda, a numbered one such as cuda:1, or mps; by default CUDA if there is one.
        settle_seconds: an input is complete once it has not changed for so long.
        overrides: configuration keys.

    Raises:
        InputError: no such folder, or one inside the other; another process writes to output_dir; an argument out of
            its range; no such bundle.
    """
    check_options(num_samples, num_inference_steps, seed, slices, reach_mm, dicom, {**overrides, "device": device})
    number = isinstance(settle_seconds, int | float) and not isinstance(settle_seconds, bool)
    if not number or not 0.0 <= settle_seconds < float("inf"):
        raise InputError(f"--settle-seconds is {settle_seconds!r}; expected seconds, at least 0.")
    source, target = Path(input_dir), Path(output_dir)
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; expected the one in which images arrive.")
    places = source.resolve(), target.resolve()
    if any(one == other or one in other.parents for one, other in (places, places[::-1])):
        raise InputError(
            f"{source} and {target}: one is in the other, where results could be taken for inputs; give two folders "
            "beside each other."
        )
    segmenter = load_segmenter(
        bundle, weights, experiment, device,
        num_samples=num_samples, num_inference_steps=num_inference_steps, seed=seed, **overrides,
    )  # fmt: skip
    with heavy_imports():
        from .results import predict_inputs

    def predict(paths: list[Path], places: list[list[Place]], folder: Path) -> None:
        predict_inputs(segmenter, paths, places, folder, experiment, slices, reach_mm, dicom)

    # Docker's stop; results appear together, so that one in work leaves nothing.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with locked(target):
        watched = WatchedFolder(source, target, settle_seconds, predict)
        logger.info("Watching %s, results go to %s", source, target)
        while True:
            watched.look()
            time.sleep(max(PAUSE_SECONDS, PAUSE_FACTOR * watched.look_seconds))


@dataclass
class _Seen:
    """A state of an input.

    Attributes:
        state: what was measured.
        since: when it was measured first.
        outcome: the files that say how the input was dealt with; None: it was not.
        again: the input was dealt with in an earlier state, whose results are still there.
    """

    state: State
    since: float
    outcome: list[Path] | None = None
    again: bool = False


@dataclass
class WatchedFolder:
    """A folder of inputs, and what is known of them.

    Attributes:
        source: the folder.
        target: where the results go.
        settle_seconds: an input that has not changed for so long is complete.
        predict: gets the images of an input, the places in each, and the folder of its results.
        look_seconds: how long the last look at the folder took, without predictions.
    """

    source: Path
    target: Path
    settle_seconds: float
    predict: Callable[[list[Path], list[list[Place]], Path], object]
    look_seconds: float = 0.0
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _lost: bool = False

    def look(self) -> None:
        """Predict on every input that is complete and due.

        Raises:
            OSError: the disk of the results is full.
        """
        now = time.monotonic()
        try:
            names = sorted(name for name in os.listdir(self.source) if not name.startswith("."))
        except OSError as error:
            if not self._lost:
                logger.warning("%s cannot be read (%s); waiting for it.", self.source, error.strerror)
            self._lost = True
            return
        self._lost = False
        before, self._seen = self._seen, {}
        for name in names:
            if name.endswith(PLACES_SUFFIX):
                continue
            state, seen = self._measure(name), before.get(name)
            if seen is None or seen.state != state:
                seen = _Seen(state, now, again=seen is not None and (seen.outcome is not None or seen.again))
            elif seen.outcome is not None and any(map(_is_gone, seen.outcome)):
                seen.outcome = None
            self._seen[name] = seen
        self.look_seconds = time.monotonic() - now
        for name, seen in self._seen.items():
            # Once more: the predictions before it took their time.
            settled = seen.outcome is None and now - seen.since >= self.settle_seconds
            if settled and self._measure(name) == seen.state:
                seen.outcome = self._deal_with(name, seen)

    def _measure(self, name: str) -> State:
        paths = [str(self.source / name), str(self.source / f"{name}{PLACES_SUFFIX}")]
        paths += [os.path.join(parent, one) for parent, *below in os.walk(paths[0]) for one in itertools.chain(*below)]
        found = []
        for path in paths:
            # What is gone meanwhile is missing in the next state.
            with contextlib.suppress(OSError):
                found.append(os.stat(path))
        # ctime, since copies may keep the mtime of their originals.
        return len(found), sum(one.st_size for one in found), max((one.st_ctime for one in found), default=0.0)

    def _deal_with(self, name: str, seen: _Seen) -> list[Path]:
        """Predict on an input, or say why not; returns the files that tell that it was dealt with."""
        path, folder = self.source / name, self.target / name
        places_file, problem_file = self.source / f"{name}{PLACES_SUFFIX}", folder / PROBLEM_NAME
        try:
            # However the new attempt ends, the results of an earlier state must not pass for it.
            for prediction in sorted(folder.glob(f"*{PREDICTION_SUFFIX}")):
                if seen.again or prediction.stat().st_mtime < seen.state[2]:
                    _remove_prediction(prediction)
            seen.again = False
            predictions = {image: folder / f"{_find_stem(image)}{PREDICTION_SUFFIX}" for image in list_inputs(path)}
            if images := [image for image, prediction in predictions.items() if not prediction.is_file()]:
                self.predict(images, _read_places(places_file, len(images)), folder)
            problem_file.unlink(missing_ok=True)
            return list(predictions.values())
        except Exception as error:
            if find_full_disk(error) is not None:
                raise
            if isinstance(error, InputError):
                problem = str(error)
                if isinstance(error, MissingPlace):
                    problem += f' Write it to {places_file}, as {{"point": [[X, Y, Z]]}}, "roi" or "index".'
                logger.warning("%s", problem)
            else:
                problem = f"{path}: {type(error).__name__}: {error}. The log of 'medseglatdiff watch' has more."
                logger.exception("%s: failed", path)
        try:
            save_text(f"{problem}\n", problem_file)
        except OSError as error:
            if find_full_disk(error) is not None:
                raise
            logger.warning(
                "%s: cannot be written (%s). Remove what is in its place, or allow writing; %s is tried again once it "
                "has changed, or 'medseglatdiff watch' starts again.", problem_file, error, path,
            )  # fmt: skip
            return []
        return [problem_file]


def _is_gone(path: Path) -> bool:
    """Whether there is no such file; a share that does not answer says nothing of its files."""
    try:
        path.stat()
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    return False


def _find_stem(image: Path) -> str:
    return find_stem(image, () if image.is_dir() else RASTER_SUFFIXES + NIFTI_SUFFIXES)


def _remove_prediction(path: Path) -> None:
    """Remove a prediction's JSON and the files that it names; the JSON first, which is there only while they are."""
    for name in (path.name, *read_keys(path).get("files", {}).values()):
        (path.parent / Path(name).name).unlink(missing_ok=True)


def _read_places(path: Path, number: int) -> list[list[Place]]:
    """The places in each of ``number`` images; none where there is no such file."""
    given = read_keys(path) if path.is_file() else {}
    if unknown := set(given) - set(FORMS):
        raise InputError(f"{path}: found {', '.join(sorted(unknown))}; expected {' or '.join(FORMS)}.")
    try:
        return parse_places(given, number)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
