"""Which image comes next: of those without a label the one on which the samples disagree most."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from ...bundle.segmenter import Segmenter
from ...data.datalist import load_dataset_info
from ...data.labelled import list_labelled
from ...data.splits import SPLITS
from ...ensemble.inferer import sampling_settings
from ...io.formats import list_inputs
from ...predict.ensemble import Ensemble
from .case import OpenCase, open_case
from .labels import name_thing

# Samples by which waiting images are ordered: few, since the order needs no figure.
SCORED_SAMPLES = 4


class Queue:
    """The images of a folder.

    Args:
        paths: in the order in which they come while nothing is known of them.
        labelled: those that have a label.
    """

    def __init__(self, paths: Sequence[Path], labelled: Collection[Path] = ()) -> None:
        self.paths = list(paths)
        self.done = set(labelled)
        # Disagreement in [0, 1]; ``None`` where there is none: one sample, or an image that cannot be segmented.
        self.scores: dict[Path, float | None] = {}

    def find_unscored(self) -> Path | None:
        """An image whose disagreement is not known yet."""
        return next((path for path in self.paths if path not in self.done and path not in self.scores), None)

    def choose(self, current: Path | None = None) -> Path | None:
        """The next image, not the current one; ``None`` if no other lacks a label.

        Those whose disagreement is known come first, then the unknown ones, then those without one.
        """
        waiting = [path for path in self.paths if path not in self.done and path != current]
        known = [path for path in waiting if self.scores.get(path) is not None]
        if known:
            return max(known, key=lambda path: self.scores[path] or 0.0)
        return next((path for path in waiting if path not in self.scores), waiting[0] if waiting else None)

    def describe(self) -> str:
        """How far it is: ``"3/12 labelled, 5 ranked"``."""
        ranked = sum(path not in self.done for path, score in self.scores.items() if score is not None)
        return f"{len(self.done)}/{len(self.paths)} labelled, {ranked} ranked"


def open_first(
    path: str | Path, segmenter: Segmenter, raters: str | Sequence[str] | None, labels: str | Path
) -> tuple[OpenCase, Queue | None]:
    """Open an image; of a prepared folder, or one of pictures, the first without a label, with the queue of all.

    Raises:
        InputError: see :func:`~medseglatdiff_monai.integrations.view.case.open_case`.
    """
    path = Path(path)
    if (path / "dataset.json").is_file():
        dataset = load_dataset_info(path)
        paths = [path / item["image"] for part in SPLITS for item in dataset.get(part, [])]
    else:
        paths = list_inputs(path)
    if paths == [path] or not paths:
        return open_case(path, segmenter, raters), None
    labelled = list_labelled(labels)
    queue = Queue(paths, [entry for entry in paths if name_thing(entry) in labelled])
    return open_case(queue.choose() or paths[0], segmenter, raters), queue


def find_disagreement(ensemble: Ensemble) -> float | None:
    """1 - mean IoU of two different samples; ``None`` of a single one."""
    agreement = ensemble.agreement()
    return None if agreement is None else 1.0 - agreement


def score_image(path: Path, segmenter: Segmenter) -> float | None:
    """Disagreement of a few samples of an image that is not open."""
    steps = sampling_settings(segmenter.inferer, segmenter.network)["num_inference_steps"] or 1
    return find_disagreement(open_case(path, segmenter).segment(SCORED_SAMPLES, steps, segmenter.inferer.seed).ensemble)
