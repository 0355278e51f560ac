"""The page: open an image, point at the nodule, sample, page through samples, slide the threshold."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from nicegui import app, run, ui
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ...bundle.segmenter import Segmenter
from ...ensemble.inferer import sampling_settings
from ...errors import InputError
from ...io.planes import point_to_index
from ...io.reading import DicomInput
from ...predict.ensemble import Ensemble
from .bundles import Bundles
from .case import OpenCase, Shown, open_case
from .controls import CURSOR, WELCOME, Controls
from .guard import Gate, Guard
from .picker import Picker
from .picture import MAPS, WINDOWS, colour_bar, encode, mark_point, render_layers, render_map, to_grey
from .tables import describe_pixel, describe_raters, describe_sizes

T = TypeVar("T")
logger = logging.getLogger(__name__)

KEYS = {
    "← →": "previous, next sample", "↑ ↓": "slice towards the head, the feet", "[ ]": "threshold down, up",
    "+ − 0": "zoom in, out, fit", "1 2 3": "image, confidence, entropy", "?": "these keys",
}  # fmt: skip


def serve(
    segmenter: Segmenter,
    path: str | Path | None,
    raters: str | Sequence[str] | None,
    point: Sequence[float] | None,
    num_samples: int,
    seed: int,
    host: str,
    port: int,
    show: bool,
) -> None:
    """Serve the page until it is interrupted; the arguments are those of `view`, checked."""
    # Before the browser opens: a wrong path is an error of the command.
    case = None if path is None else open_case(path, segmenter, raters)
    # A page elsewhere must not reach this one under another name that leads to 127.0.0.1.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[host, "localhost"])
    address = f"http://{host}:{port}"
    # Flushed: the address is wanted now, also through a pipe.
    gate = Gate(port, lambda path: print(f"For another browser: {address}{path}", flush=True))
    app.add_middleware(Guard, gate=gate)
    lock = threading.Lock()
    bundles = Bundles(segmenter, seed)

    def root() -> None:
        Page(bundles, lock, Controls(bundles.names, path, raters, num_samples, seed), case, point)

    print(f"Open {address}{gate.path} (Ctrl-C ends it)", flush=True)
    # A browser that was busy for a while comes back to the same page; without the last messages it would load again.
    ui.run(
        root, host=host, port=port, title="medseglatdiff", favicon="🫁", reload=False,
        show=gate.path if show else False, show_welcome_message=False, message_history_length=100,
        reconnect_timeout=30.0,
    )  # fmt: skip


class Page:
    """One visitor's page.

    Args:
        bundles: to choose from, shared by all visitors.
        lock: held while a bundle is loaded or masks are sampled.
        controls: its widgets.
        case: image that is open at the beginning, or ``None``.
        point: its nodule, LPS millimetres; segmented at once if given, or not needed.
    """

    def __init__(
        self,
        bundles: Bundles,
        lock: threading.Lock,
        controls: Controls,
        case: OpenCase | None,
        point: Sequence[float] | None,
    ) -> None:
        self.bundles = bundles
        self.lock = lock
        self.controls = controls
        self.case: OpenCase | None = None
        self.shown: Shown | None = None
        self.point = point
        self.done = 0
        # The image (C, H, W) that is seen, and its ensemble.
        self.on_stage: tuple[np.ndarray, Ensemble | None] | None = None
        # While several controls are set, nothing is shown.
        self.quiet = False
        # Counts what was asked for: an answer that comes after the next question is dropped.
        self.asked = 0
        self.segmenter = bundles.load(bundles.first)
        self._show_steps()
        for field in (controls.path, controls.raters):
            field.on("keydown.enter", self._open)
        controls.open.on_click(self._open)
        controls.pick.on_click(self._pick)
        controls.pick_raters.on_click(self._pick_raters)
        controls.bundle.on_value_change(self._choose_bundle)
        controls.theme.on_click(self._change_theme)
        controls.help.on_click(self._show_keys)
        controls.segment.on_click(self._segment)
        controls.image.on("click", self._click, js_handler=CURSOR)
        controls.image.on("pointermove", self._hover, js_handler=CURSOR, throttle=0.05)
        controls.image.on("mouseleave", lambda: controls.cursor.set_text(""))
        controls.place.on_value_change(self._show_place)
        for control in (controls.window, controls.base, controls.slice):
            control.on_value_change(self._show_image)
        for slider in (controls.threshold, controls.sample):
            slider.on_value_change(self._show_masks)
        for box in controls.layers.values():
            box.on_value_change(self._show_masks)
        ui.keyboard(self._press, ignore=["input", "textarea", "select"])
        ui.timer(0.5, self._show_progress)
        ui.timer(0.05, lambda: self._begin(case), once=True)

    @property
    def scanning(self) -> bool:
        """Whether whole slices of a volume are shown, in which the nodule is pointed at."""
        return self.case is not None and self.case.needs_point and self.controls.place.value == "scan"

    async def _begin(self, case: OpenCase | None) -> None:
        ui.run_javascript("watchStage()")
        if case is not None:
            await self._take(case)

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
            logger.exception("The page could not go on")
            failure = f"Unexpected error, please report it: {type(error).__name__}: {error}"
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
        self.controls.say(f"Loading {name} …")
        segmenter = await self._run(self._load_locked, name)
        if segmenter is None:
            return
        self.segmenter = segmenter
        self._show_steps()
        if self.controls.path.value.strip():
            await self._open()
        else:
            self.controls.say(WELCOME)

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
        controls.result.visible = controls.place.visible = controls.slice_row.visible = False
        self.case = self.shown = self.point = self.on_stage = None
        controls.image.set_source("")
        for part in (controls.map, controls.layers_above, controls.colours):
            part.set_content("")
        path, raters = controls.path.value.strip(), controls.raters.value.strip()
        if not path:
            controls.say(WELCOME)
            return
        controls.say("Opening …")
        case = await self._run(open_case, path, self.segmenter, raters or None)
        if case is not None:
            await self._take(case)

    async def _take(self, case: OpenCase) -> None:
        """Show an opened image, and segment it if the place is known."""
        controls = self.controls
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
        controls.segment.enable()
        if shown is not None:
            self.shown = shown
            self._show_ensemble(case, shown)

    def _segment_locked(
        self, case: OpenCase, number: int, steps: int, seed: int, point: Sequence[float] | None
    ) -> Shown:
        def report(done: int) -> None:
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
        controls.result.visible = True
        controls.place.visible = case.needs_point
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
        pixels = to_grey(values, WINDOWS[controls.window.value] if case.needs_point else None)
        height, width = pixels.shape[:2]
        controls.stage.style(f"--aspect: {width / height:.4f}")
        controls.stage.classes(add="pixels" if max(height, width) <= 640 else "", remove="pixels")
        controls.image.set_source(encode(pixels))
        name, svg, bar = controls.base.value, "", ""
        if plane is not None and name in MAPS:
            svg = render_map(name, plane.confidence if name == "Confidence" else plane.entropy())
            bar = colour_bar(name)
        controls.map.set_content(svg)
        controls.colours.set_content(bar)
        self._show_masks()

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
            controls.layers_above.set_content(mark)
            return
        threshold, sample = float(controls.threshold.value), int(controls.sample.value) - 1
        names = [name for name, box in controls.layers.items() if box.value and box.visible]
        controls.layers_above.set_content(render_layers(shown, threshold, sample, number, names))
        controls.threshold_label.text = f"Consensus ≥ {threshold:.2f} of samples"
        controls.sample_label.text = f"Sample {sample + 1} of {len(shown.ensemble.samples)}"
        controls.sizes.set_content(describe_sizes(shown, threshold, sample, number))
        if shown.raters is not None:
            controls.comparison.set_content(describe_raters(shown, threshold))

    def _hover(self, event: Any) -> None:
        case = self.case
        if case is None or self.on_stage is None:
            return
        image, plane = self.on_stage
        row, column = (int(event.args[axis] * side) for axis, side in zip("yx", image.shape[1:], strict=True))
        if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
            text = describe_pixel(image, row, column, "HU" if isinstance(case.source, DicomInput) else "", plane)
            self.controls.cursor.set_text(text)

    def _change_theme(self) -> None:
        """As the system has it, then dark, then light."""
        dark = self.controls.dark
        dark.value = {None: True, True: False, False: None}[dark.value]
        ui.notify({None: "As your system", True: "Dark", False: "Light"}[dark.value], timeout=1000)

    def _show_keys(self) -> None:
        with ui.dialog(value=True), ui.card(), ui.grid(columns="auto auto").classes("gap-x-6 gap-y-1"):
            for key, what in KEYS.items():
                ui.label(key).classes("font-bold")
                ui.label(what)

    def _press(self, event: Any) -> None:
        """A key."""
        if not event.action.keydown or event.modifiers.ctrl or event.modifiers.meta or event.modifiers.alt:
            return
        controls, key = self.controls, event.key.name
        steps = {
            "ArrowLeft": (controls.sample, -1), "ArrowRight": (controls.sample, 1), "ArrowUp": (controls.slice, 1),
            "ArrowDown": (controls.slice, -1), "[": (controls.threshold, -0.05), "]": (controls.threshold, 0.05),
        }  # fmt: skip
        if key in steps:
            slider, step = steps[key]
            value = round(slider.value + step, 2)
            slider.value = min(max(value, float(slider.props["min"])), float(slider.props["max"]))
        elif key in "+=-0":
            ui.run_javascript(f"zoomStage({ {'-': 0.8, '0': 0}.get(key, 1.25) })")
        elif key in "123":
            controls.base.value = ["Image", *MAPS][int(key) - 1]
        elif key == "?":
            self._show_keys()
