"""The page: open an image, point at the nodule, sample its masks, keep one as a label, go on to the next image."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nicegui import run, ui

from ...ensemble.inferer import sampling_settings
from ...errors import InputError
from .asking import Asking
from .bundles import Bundles
from .case import OpenCase, Shown
from .controls import CURSOR, WELCOME, Controls
from .keys import listen, show_keys
from .labels import save_label
from .picker import Picker
from .queue import Queue, find_disagreement, open_first, score_image
from .stage import Stage

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Page:
    """One visitor's page.

    Args:
        bundles: to choose from, shared by all visitors.
        lock: held while a bundle is loaded or masks are sampled.
        controls: its widgets.
        opened: image that is open at the beginning, and the queue that it is from, or ``None``.
        point: its nodule, LPS millimetres; segmented at once if given, or not needed.
        labels: folder of the labels.
    """

    def __init__(
        self,
        bundles: Bundles,
        lock: threading.Lock,
        controls: Controls,
        opened: tuple[OpenCase, Queue | None] | None,
        point: Sequence[float] | None,
        labels: str | Path,
    ) -> None:
        self.bundles = bundles
        self.lock = lock
        self.controls = controls
        self.labels = labels
        self.stage = Stage(controls)
        self.stage.point = point
        self.asking = Asking(controls)
        self.queue: Queue | None = None
        self.scoring = False
        # Slices of the nodule that are sampled.
        self.done = 0
        # The bundle that is loaded, and the one that the list shows or is to show.
        self.bundle = self.bundle_shown = bundles.first
        self.segmenter = bundles.load(bundles.first)
        self._show_steps()
        for field in (controls.path, controls.raters):
            field.on("keydown.enter", self._open)
        controls.open.on_click(self._open)
        controls.pick.on_click(self._pick)
        controls.pick_raters.on_click(self._pick_raters)
        controls.bundle.on_value_change(self._choose_bundle)
        controls.theme.on_click(self._change_theme)
        controls.help.on_click(show_keys)
        controls.segment.on_click(self._segment)
        controls.image.on("click", self._click, js_handler=CURSOR)
        controls.save.on_click(self._save)
        controls.next.on_click(self._open_next)
        chosen = {
            "c": lambda: self.stage.choose(None), "z": self.stage.undo, "s": self._save, "n": self._open_next,
        }  # fmt: skip
        listen(controls, chosen, lambda: self.stage.shown is not None)
        ui.timer(0.5, self._show_progress)
        ui.timer(2.0, self._score)
        ui.timer(0.05, lambda: self._begin(opened), once=True)

    async def _begin(self, opened: tuple[OpenCase, Queue | None] | None) -> None:
        ui.run_javascript("watchStage()")
        if opened is not None:
            await self._take(*opened)

    def _pick(self) -> None:
        async def take(chosen: str) -> None:
            self.controls.path.value = chosen
            # They belonged to the image before.
            self.controls.raters.value = ""
            await self._open()

        Picker(self.controls.path.value, take)

    def _pick_raters(self) -> None:
        before = self.controls.raters.value.strip()

        async def take(chosen: str) -> None:
            self.controls.raters.value = f"{before}, {chosen}" if before else chosen
            await self._open()

        Picker(before.split(",")[-1].strip() or self.controls.path.value, take)

    async def _choose_bundle(self) -> None:
        name = self.controls.bundle.value
        if name == self.bundle_shown:
            return
        self.bundle_shown = name
        self.controls.say(f"Loading {name} …")
        segmenter = await self.asking.ask(self._locked, self.bundles.load, name)
        if segmenter is None:
            # Unless another one was chosen meanwhile, which has yet to come.
            if self.bundle_shown == name:
                self._show_bundle()
            return
        self.segmenter, self.bundle = segmenter, name
        self._show_bundle()
        if self.queue is not None:
            # They are of the samples of the bundle before.
            self.queue.scores.clear()
        self._show_steps()
        if self.controls.path.value.strip():
            await self._open()
        else:
            self.controls.say(WELCOME)

    def _show_bundle(self) -> None:
        """The bundle that is loaded, in the list."""
        self.bundle_shown = self.bundle
        self.controls.bundle.value = self.bundle

    def _locked(self, function: Callable[..., T], *arguments: Any) -> T:
        with self.lock:
            return function(*arguments)

    def _show_steps(self) -> None:
        """The bundle's own number of steps; a network of one mask takes none."""
        steps = sampling_settings(self.segmenter.inferer, self.segmenter.network)["num_inference_steps"]
        self.controls.steps.value = steps or 1

    async def _open(self) -> None:
        controls = self.controls
        controls.segment.disable()
        self.stage.clear()
        path, raters = controls.path.value.strip(), controls.raters.value.strip()
        if not path:
            controls.say(WELCOME)
            return
        controls.say("Opening …")
        opened = await self.asking.ask(open_first, path, self.segmenter, raters or None, self.labels)
        if opened is not None:
            await self._take(*opened)

    async def _take(self, case: OpenCase, queue: Queue | None) -> None:
        """Show an opened image, and segment it if the place is known."""
        controls = self.controls
        if queue is not None:
            self.queue = queue
        elif self.queue is not None and case.source.path not in self.queue.paths:
            self.queue = None
        if self.queue is not None:
            controls.path.value = str(case.source.path)
        number, point = 0, self.stage.point
        if case.needs_point:
            number = case.num_slices // 2 if point is None else case.find_slice(point)
        if await self.asking.ask(case.read_slice, number) is None:
            return
        self.stage.show_case(case, number)
        if case.needs_point:
            controls.say("Click on the nodule.")
        if point is not None or not case.needs_point:
            await self._segment()

    async def _click(self, event: Any) -> None:
        if self.stage.point_at(event.args["y"], event.args["x"]):
            await self._segment()

    async def _segment(self) -> None:
        case, point, controls = self.stage.case, self.stage.point, self.controls
        if case is None or (case.needs_point and point is None):
            return
        try:
            number, steps, seed = (int(field.value) for field in (controls.number, controls.steps, controls.seed))
        except TypeError:
            controls.say("Samples, steps and seed must be whole numbers.", wrong=True)
            return
        controls.segment.disable()
        self.done = 0
        controls.say("Sampling …")
        point = point if case.needs_point else None
        shown = await self.asking.ask(self._segment_locked, case, number, steps, seed, point)
        self.done = 0
        controls.segment.enable()
        if shown is None:
            return
        count, slices = shown.ensemble.samples.shape[:2]
        where = ""
        if point is not None:
            where = f" for {slices} slice(s) at {', '.join(f'{value:.1f}' for value in point)} mm"
        notes = list(shown.notes)
        if shown.ensemble.seen != (0, 0, *shown.ensemble.confidence.shape[1:]):
            notes.append("The network saw what is inside the dotted frame.")
        controls.say(" ".join([f"{count} masks sampled{where}.", *notes]))
        if self.queue is not None:
            self.queue.scores[case.source.path] = find_disagreement(shown.ensemble)
        self._show_queue()
        self.stage.show_ensemble(case, shown)

    def _segment_locked(
        self, case: OpenCase, number: int, steps: int, seed: int, point: Sequence[float] | None
    ) -> Shown:
        asked = self.asking.number

        def report(done: int) -> None:
            if asked != self.asking.number:
                raise InputError("Something else was asked for: the remaining slices are of no use.")
            self.done = done

        return self._locked(case.segment, number, steps, seed, point, report)

    def _show_progress(self) -> None:
        case = self.stage.case
        if self.controls.spinner.visible and self.done and case is not None and case.needs_point:
            self.controls.say(f"Sampling … {self.done} slice(s) done")

    async def _save(self) -> None:
        case, shown, draft = self.stage.case, self.stage.shown, self.stage.labelling.draft
        if case is None or shown is None or draft is None or self.controls.spinner.visible:
            return
        saved = await self.asking.ask(save_label, case, shown, draft, self.labels, self.controls.rater.value or "")
        if saved is None:
            return
        if self.queue is not None:
            self.queue.done.add(case.source.path)
        self.controls.say(saved)
        ui.notify(f"Saved: {draft.describe()}", type="positive", position="top")
        self._show_queue()

    def _show_queue(self) -> None:
        queue, controls = self.queue, self.controls
        controls.next.visible = controls.queue_text.visible = queue is not None
        controls.queue_text.text = "" if queue is None else queue.describe()

    async def _open_next(self) -> None:
        if self.queue is None or self.stage.case is None:
            return
        path = self.queue.choose(self.stage.case.source.path)
        if path is None:
            self.controls.say("No other image is left.")
            return
        self.controls.path.value, self.controls.raters.value = str(path), ""
        await self._open()

    async def _score(self) -> None:
        """Find out how far the samples of a waiting image disagree, while nothing else is to be done."""
        queue = self.queue
        if queue is None or self.scoring or self.controls.spinner.visible or self.stage.case is None:
            return
        path = queue.find_unscored()
        if path is None:
            return
        self.scoring = True
        segmenter, score = self.segmenter, None
        try:
            score = await run.io_bound(self._locked, score_image, path, segmenter)
        except Exception as error:  # one bad picture must not end the others
            logger.warning("%s has no place in the order: %s", path, error)
        finally:
            self.scoring = False
        # Another bundle's samples disagree elsewhere.
        if segmenter is self.segmenter:
            queue.scores[path] = score
        self._show_queue()

    def _change_theme(self) -> None:
        """As the system has it, then dark, then light."""
        dark = self.controls.dark
        dark.value = {None: True, True: False, False: None}[dark.value]
        ui.notify({None: "As your system", True: "Dark", False: "Light"}[dark.value], timeout=1000, position="top")
