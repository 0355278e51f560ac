"""The page: open an image, point at the nodule, sample, page through samples, slide the threshold."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from nicegui import run, ui

from ...bundle.segmenter import Segmenter
from ...ensemble.inferer import sampling_settings
from ...errors import InputError
from ...io.planes import point_to_index
from ...io.reading import DicomInput
from ...predict.ensemble import Ensemble
from .bundles import Bundles
from .case import OpenCase, Shown
from .controls import CURSOR, WELCOME, Controls
from .keys import Keyboard, show_keys
from .labelling import Labelling
from .labels import save_label
from .picker import Picker
from .picture import (
    MAPS,
    WINDOWS,
    colour_bar,
    encode,
    find_scale,
    frame_seen,
    mark_point,
    render_layers,
    render_map,
    to_grey,
)
from .queue import Queue, find_disagreement, open_first, score_image
from .tables import describe_pixel, describe_raters, describe_sizes

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
        self.case: OpenCase | None = None
        self.shown: Shown | None = None
        self.point = point
        self.labels = labels
        self.labelling = Labelling(controls, self._choose)
        self.queue: Queue | None = None
        self.scoring = False
        self.done = 0
        # The image (C, H, W) that is seen, and its ensemble.
        self.on_stage: tuple[np.ndarray, Ensemble | None] | None = None
        # Slice, threshold or sample, and whether it is seen, of each outline.
        self.rendered: dict[str, tuple[int, float | None, bool]] = {}
        # While several controls are set, nothing is shown.
        self.quiet = False
        # Counts what was asked for: an answer that comes after the next question is dropped.
        self.asked = 0
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
        controls.image.on("pointermove", self._hover, js_handler=CURSOR, throttle=0.03)
        for name in ("pointerdown", "pointerup"):
            controls.image.on(name, self._hover, js_handler=CURSOR)
        controls.image.on("mouseleave", self._leave)
        controls.brush.on_value_change(self._show_brush)
        controls.undo.on_click(self._undo)
        controls.save.on_click(self._save)
        controls.next.on_click(self._open_next)
        controls.place.on_value_change(self._show_place)
        for control in (controls.window, controls.base, controls.slice):
            control.on_value_change(self._show_image)
        controls.threshold.on_value_change(self._move_threshold)
        controls.sample.on_value_change(self._move_sample)
        for box in controls.layers.values():
            box.on_value_change(self._show_masks)
        chosen = {"c": lambda: self._choose(None), "z": self._undo, "s": self._save, "n": self._open_next}
        Keyboard(controls, chosen, lambda: self.shown is not None)
        ui.timer(0.5, self._show_progress)
        ui.timer(2.0, self._score)
        ui.timer(0.05, lambda: self._begin(opened), once=True)

    @property
    def scanning(self) -> bool:
        """Whether whole slices of a volume are shown, in which the nodule is pointed at."""
        return self.case is not None and self.case.needs_point and self.controls.place.value == "scan"

    async def _begin(self, opened: tuple[OpenCase, Queue | None] | None) -> None:
        ui.run_javascript("watchStage()")
        if opened is not None:
            await self._take(*opened)

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T | None:
        """The function's result, from another thread; ``None`` if it failed, or something else was asked for since."""
        self.asked += 1
        number = self.asked
        self.controls.spinner.visible = True
        failure = ""
        result = None
        try:
            result = await run.io_bound(function, *arguments)
        except InputError as error:
            failure = str(error)
        except Exception as error:  # whatever it is, the page must not wait for ever
            failure = f"Unexpected error, please report it: {type(error).__name__}: {error}"
            if number == self.asked:
                logger.exception("The page could not do what it was asked for")
        if number != self.asked:
            return None
        self.controls.spinner.visible = False
        if failure:
            self.controls.say(failure, wrong=True)
        return result

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
        segmenter = await self._run(self._load_locked, name)
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

    def _load_locked(self, name: str) -> Segmenter:
        with self.lock:
            return self.bundles.load(name)

    def _show_steps(self) -> None:
        """The bundle's own number of steps; a network of one mask takes none."""
        steps = sampling_settings(self.segmenter.inferer, self.segmenter.network)["num_inference_steps"]
        self.controls.steps.value = steps or 1

    async def _open(self) -> None:
        controls = self.controls
        controls.segment.disable()
        for part in (controls.result, controls.place, controls.slice_row, controls.labels):
            part.visible = False
        self.case = self.shown = self.point = self.on_stage = None
        controls.image.set_source("")
        self._clear_outlines()
        for layer in (controls.map, controls.mark, controls.brush_layer, controls.colours):
            layer.set_content("")
        path, raters = controls.path.value.strip(), controls.raters.value.strip()
        if not path:
            controls.say(WELCOME)
            return
        controls.say("Opening …")
        opened = await self._run(open_first, path, self.segmenter, raters or None, self.labels)
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
        number = 0
        if case.needs_point:
            number = case.num_slices // 2 if self.point is None else case.find_slice(self.point)
        if await self._run(case.read_slice, number) is None:
            return
        self.case, self.shown, self.quiet = case, None, True
        controls.place.set_value("scan")
        controls.place.visible = False
        controls.window.visible = case.needs_point
        self._set_slices(case.num_slices, number)
        ui.run_javascript("zoomStage(0)")
        self.quiet = False
        self._show_image()
        if case.needs_point:
            controls.say("Click on the nodule.")
        if self.point is not None or not case.needs_point:
            await self._segment()

    def _set_slices(self, count: int, number: int) -> None:
        self.controls.slice.props(f"max={count - 1}")
        self.controls.slice.set_value(number)
        self.controls.slice_row.visible = count > 1

    async def _click(self, event: Any) -> None:
        if self.case is None or not self.scanning:
            return
        number = int(self.controls.slice.value)
        plane = self.case.read_slice(number)
        self.point = self.case.pixel_to_point(
            number, event.args["y"] * plane.shape[1] - 0.5, event.args["x"] * plane.shape[2] - 0.5
        )
        self._show_masks()
        await self._segment()

    async def _segment(self) -> None:
        case, controls = self.case, self.controls
        if case is None or (case.needs_point and self.point is None):
            return
        try:
            number, steps, seed = (int(field.value) for field in (controls.number, controls.steps, controls.seed))
        except TypeError:
            controls.say("Samples, steps and seed must be whole numbers.", wrong=True)
            return
        controls.segment.disable()
        self.done = 0
        controls.say("Sampling …")
        point = self.point if case.needs_point else None
        shown = await self._run(self._segment_locked, case, number, steps, seed, point)
        self.done = 0
        controls.segment.enable()
        if shown is not None:
            self.shown = shown
            self._show_ensemble(case, shown)

    def _segment_locked(
        self, case: OpenCase, number: int, steps: int, seed: int, point: Sequence[float] | None
    ) -> Shown:
        asked = self.asked

        def report(done: int) -> None:
            if asked != self.asked:
                raise InputError("Something else was asked for: the remaining slices are of no use.")
            self.done = done

        with self.lock:
            return case.segment(number, steps, seed, point, progress=report)

    def _show_progress(self) -> None:
        if self.controls.spinner.visible and self.done and self.case is not None and self.case.needs_point:
            self.controls.say(f"Sampling … {self.done} slice(s) done")

    def _show_ensemble(self, case: OpenCase, shown: Shown) -> None:
        controls = self.controls
        count, slices = shown.ensemble.samples.shape[:2]
        self.quiet = True
        controls.sample.props(f"max={count}")
        controls.sample.value = 1
        controls.threshold.value = shown.threshold
        controls.layers["Raters"].visible = controls.comparison.visible = shown.raters is not None
        where = ""
        if case.needs_point and self.point is not None:
            where = f" for {slices} slice(s) at {', '.join(f'{value:.1f}' for value in self.point)} mm"
        notes = list(shown.notes)
        if shown.ensemble.seen != (0, 0, *shown.ensemble.confidence.shape[1:]):
            notes.append("The network saw what is inside the dotted frame.")
        controls.say(" ".join([f"{count} masks sampled{where}.", *notes]))
        self.rendered = {}
        self.labelling.begin(shown, "no nodule" if case.needs_point else "nothing")
        controls.brush.value = False
        controls.result.visible = controls.labels.visible = True
        controls.place.visible = case.needs_point
        if self.queue is not None:
            self.queue.scores[case.source.path] = find_disagreement(shown.ensemble)
        self._show_queue()
        controls.place.set_value("nodule" if case.needs_point else "scan")
        self.quiet = False
        self._show_place()

    def _show_place(self) -> None:
        """The whole scan, or the nodule."""
        case, shown = self.case, self.shown
        if case is None or self.quiet:
            return
        self.quiet = True
        if self.scanning or shown is None:
            self._set_slices(case.num_slices, 0 if self.point is None else case.find_slice(self.point))
        else:
            self._set_slices(len(shown.ensemble.confidence), shown.ensemble.clicked)
        self.quiet = False
        self._show_image()

    def _show_image(self) -> None:
        """The image, and the map on it."""
        case, shown, controls = self.case, self.shown, self.controls
        if case is None or self.quiet:
            return
        number = int(controls.slice.value)
        if shown is None or self.scanning:
            try:
                image, plane, count = case.read_slice(number), None, case.num_slices
            except InputError as error:
                controls.say(str(error), wrong=True)
                return
        else:
            plane, count = shown.ensemble.plane(number), len(shown.ensemble.confidence)
            image = plane.planes[0]
        values = image.as_tensor().numpy()
        self.on_stage = values, plane
        controls.cursor.set_text("")
        controls.slice_label.text = f"Slice {number + 1} of {count}, from the feet"
        pixels = to_grey(values, self._window)
        scale = find_scale(pixels.shape)
        controls.set_picture(encode(pixels), round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
        name, svg, bar = controls.base.value, "", ""
        if plane is not None and name in MAPS:
            svg = render_map(name, plane.confidence if name == "Confidence" else plane.entropy())
            bar = colour_bar(name)
        controls.map.set_content(svg)
        controls.stage.classes(add="mapped" if svg else "", remove="mapped")
        controls.colours.set_content(bar)
        controls.labels.visible = plane is not None
        if shown is not None and plane is not None:
            self.labelling.show_strip(shown, pixels, number, float(controls.threshold.value))
        self._show_masks()

    def _clear_outlines(self) -> None:
        self.rendered = {}
        for layer in (*self.controls.outlines.values(), self.controls.label_layer):
            layer.set_content("")

    def _show_masks(self) -> None:
        """Outlines and numbers at the threshold."""
        shown, case, controls = self.shown, self.case, self.controls
        if case is None or self.quiet:
            return
        number = int(controls.slice.value)
        if shown is None or self.scanning:
            mark = ""
            if self.point is not None and case.find_slice(self.point) == number:
                plane = case.read_slice(number)
                row, column = point_to_index(self.point, np.asarray(plane.affine, dtype=float))[:2]
                mark = mark_point(float(row), float(column), plane.shape[1:])
            self._clear_outlines()
            controls.mark.set_content(mark)
            return
        threshold, place = float(controls.threshold.value), int(controls.sample.value) - 1
        sample = self.labelling.order[place]
        moves = {"Consensus": threshold, "Sample": sample}
        for name, layer in controls.outlines.items():
            box = controls.layers[name]
            key = number, moves.get(name), bool(box.value and box.visible)
            # Outlines of vessels take a second to be found and sent.
            if self.rendered.get(name) != key:
                self.rendered[name] = key
                layer.set_content(render_layers(shown, threshold, sample, number, [name]) if key[2] else "")
        controls.mark.set_content(frame_seen(shown.ensemble))
        controls.label_layer.set_content(self.labelling.render(number))
        controls.threshold_label.text = f"Consensus ≥ {threshold:.2f} of samples"
        controls.sample_label.text = f"Sample {place + 1} of {len(shown.ensemble.samples)} by shape (no. {sample + 1})"
        controls.sizes.set_content(describe_sizes(shown, threshold, sample, number))
        if shown.raters is not None:
            controls.comparison.set_content(describe_raters(shown, threshold))

    def _hover(self, event: Any) -> None:
        """The value below the pointer, and the brush."""
        case, controls = self.case, self.controls
        if case is None or self.on_stage is None:
            return
        image, plane = self.on_stage
        height, width = image.shape[1:]
        y, x = event.args["y"] * height, event.args["x"] * width
        if not (0 <= y < height and 0 <= x < width):
            return
        unit = "HU" if isinstance(case.source, DicomInput) else ""
        controls.cursor.set_text(describe_pixel(image, int(y), int(x), unit, plane))
        if plane is None or not self.labelling.brushing:
            return
        controls.brush_layer.set_content(self.labelling.render_brush(y - 0.5, x - 0.5, (height, width)))
        if self.labelling.stroke(event.args, int(controls.slice.value), y - 0.5, x - 0.5):
            self._show_masks()

    def _leave(self) -> None:
        self.controls.cursor.set_text("")
        self.controls.brush_layer.set_content("")

    def _show_brush(self) -> None:
        brushing = bool(self.controls.brush.value)
        self.controls.stage.classes(add="brushing" if brushing else "", remove="brushing")
        self.controls.brush_layer.set_content("")

    def _undo(self) -> None:
        if self.labelling.draft is not None:
            self.labelling.draft.undo()
            self.labelling.describe()
            self._show_masks()

    def _choose(self, place: int | None) -> None:
        """Accept a sample, by its place in the order, or the consensus; what the brush did is dropped."""
        if self.shown is None:
            return
        self.labelling.accept(self.shown, place, float(self.controls.threshold.value))
        if place is not None:
            self.quiet = True
            self.controls.sample.value = place + 1
            self.quiet = False
        self._show_masks()

    def _move_sample(self) -> None:
        """The slider chooses, too, unless there are corrections to lose."""
        if self.shown is None or self.quiet:
            return
        draft = self.labelling.draft
        if draft is None or not draft.corrected:
            self.labelling.accept(self.shown, int(self.controls.sample.value) - 1, float(self.controls.threshold.value))
        self._show_masks()

    def _move_threshold(self) -> None:
        if self.shown is None or self.quiet:
            return
        draft, threshold = self.labelling.draft, float(self.controls.threshold.value)
        if draft is None or not draft.corrected:
            self.labelling.accept(self.shown, None, threshold)
        if self.on_stage is not None and self.on_stage[1] is not None:
            pixels = to_grey(self.on_stage[0], self._window)
            self.labelling.show_consensus(self.shown, pixels, int(self.controls.slice.value), threshold)
        self._show_masks()

    @property
    def _window(self) -> tuple[float, float] | None:
        volume = self.case is not None and self.case.needs_point
        return WINDOWS[self.controls.window.value] if volume else None

    async def _save(self) -> None:
        case, shown, draft = self.case, self.shown, self.labelling.draft
        if case is None or shown is None or draft is None or self.controls.spinner.visible:
            return
        saved = await self._run(save_label, case, shown, draft, self.labels, self.controls.rater.value or "")
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
        if self.queue is None or self.case is None:
            return
        path = self.queue.choose(self.case.source.path)
        if path is None:
            self.controls.say("No other image is left.")
            return
        self.controls.path.value, self.controls.raters.value = str(path), ""
        await self._open()

    async def _score(self) -> None:
        """Find out how far the samples of a waiting image disagree, while nothing else is to be done."""
        queue = self.queue
        if queue is None or self.scoring or self.controls.spinner.visible or self.case is None:
            return
        path = queue.find_unscored()
        if path is None:
            return
        self.scoring = True
        segmenter, score = self.segmenter, None
        try:
            score = await run.io_bound(self._score_locked, path, segmenter)
        except Exception as error:  # one bad picture must not end the others
            logger.warning("%s has no place in the order: %s", path, error)
        finally:
            self.scoring = False
        # Another bundle's samples disagree elsewhere.
        if segmenter is self.segmenter:
            queue.scores[path] = score
        self._show_queue()

    def _score_locked(self, path: Path, segmenter: Segmenter) -> float | None:
        with self.lock:
            return score_image(path, segmenter)

    def _change_theme(self) -> None:
        """As the system has it, then dark, then light."""
        dark = self.controls.dark
        dark.value = {None: True, True: False, False: None}[dark.value]
        ui.notify({None: "As your system", True: "Dark", False: "Light"}[dark.value], timeout=1000, position="top")
