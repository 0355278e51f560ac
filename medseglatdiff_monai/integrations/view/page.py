"""The page: open an image, point at the nodule, sample, page through samples, slide the threshold."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nicegui import app, run, ui
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ...bundle.segmenter import Segmenter
from ...ensemble.inferer import sampling_settings
from ...errors import InputError
from ...io.planes import point_to_index
from ...plots.panel import SAMPLE_COLOUR
from .case import OpenCase, Shown, open_case
from .controls import Controls
from .guard import Gate, Guard
from .picture import WINDOWS, describe_raters, describe_sizes, find_scale, render, render_layers

T = TypeVar("T")


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
    steps = sampling_settings(segmenter.inferer, segmenter.network)["num_inference_steps"]

    def root() -> None:
        controls = Controls(segmenter.bundle_dir.name, path, raters, num_samples, steps, seed)
        Page(segmenter, lock, controls, case, point)

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
        segmenter: the loaded bundle, shared by all visitors.
        lock: held while masks are sampled.
        controls: its widgets.
        case: image that is open at the beginning, or ``None``.
        point: its nodule, LPS millimetres; segmented at once if given, or not needed.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        lock: threading.Lock,
        controls: Controls,
        case: OpenCase | None,
        point: Sequence[float] | None,
    ) -> None:
        self.segmenter = segmenter
        self.lock = lock
        self.controls = controls
        self.case: OpenCase | None = None
        self.shown: Shown | None = None
        self.point = point
        self.done = 0
        controls.path.on("keydown.enter", self._open)
        controls.raters.on("keydown.enter", self._open)
        controls.open.on_click(self._open)
        controls.segment.on_click(self._segment)
        controls.scan_image.on_mouse(self._click)
        controls.scan_slice.on_value_change(self._show_scan)
        controls.window.on_value_change(self._show_all)
        controls.base.on_value_change(self._show_base)
        controls.slice.on_value_change(self._show_base)
        controls.threshold.on_value_change(self._show_masks)
        controls.sample.on_value_change(self._show_masks)
        for box in controls.layers.values():
            box.on_value_change(self._show_masks)
        ui.timer(0.5, self._show_progress)
        if case is not None:
            ui.timer(0.05, lambda: self._take(case), once=True)

    async def _open(self) -> None:
        controls = self.controls
        controls.result.visible = controls.scan.visible = False
        controls.segment.disable()
        self.case = self.shown = None
        path, raters = controls.path.value.strip(), controls.raters.value.strip()
        if not path:
            controls.message.text = "Give the path of an image, and open it."
            return
        controls.message.text = "Opening …"
        case = await self._run(open_case, path, self.segmenter, raters or None)
        if case is not None:
            await self._take(case)

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T | None:
        """The function's result, from another thread; ``None`` if it failed, or the server is stopping."""
        try:
            return await run.io_bound(function, *arguments)
        except InputError as error:
            self.controls.message.text = str(error)
            return None

    async def _take(self, case: OpenCase) -> None:
        """Show an opened image, and segment it if the place is known."""
        controls = self.controls
        if case.needs_point:
            number = case.num_slices // 2 if self.point is None else case.find_slice(self.point)
            if await self._run(case.read_slice, number) is None:
                return
        self.case = case
        if case.needs_point:
            controls.scan.visible = True
            controls.scan_slice.props(f"max={case.num_slices - 1}")
            controls.scan_slice.value = number
            self._show_scan()
            controls.message.text = "Click on the nodule."
        if self.point is not None or not case.needs_point:
            controls.segment.enable()
            await self._segment()

    async def _click(self, event: Any) -> None:
        if self.case is None:
            return
        number = int(self.controls.scan_slice.value)
        scale = find_scale(self.case.read_slice(number).shape[1:])
        self.point = self.case.pixel_to_point(number, event.image_y / scale - 0.5, event.image_x / scale - 0.5)
        self.controls.segment.enable()
        self._show_scan()
        await self._segment()

    async def _segment(self) -> None:
        case, controls = self.case, self.controls
        if case is None:
            return
        try:
            number, steps, seed = (int(field.value) for field in (controls.number, controls.steps, controls.seed))
        except TypeError:
            controls.message.text = "Samples, steps and seed must be whole numbers."
            return
        controls.segment.disable()
        controls.spinner.visible = True
        self.done = 0
        controls.message.text = "Sampling …"
        point = self.point if case.needs_point else None
        try:
            shown = await self._run(self._segment_locked, case, number, steps, seed, point)
        finally:
            controls.spinner.visible = False
            controls.segment.enable()
        # Another image may have been opened meanwhile.
        if shown is not None and case is self.case:
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
        if self.controls.spinner.visible and self.case is not None and self.case.needs_point:
            self.controls.message.text = f"Sampling … {self.done} slice(s) done"

    def _show_ensemble(self, case: OpenCase, shown: Shown) -> None:
        controls = self.controls
        count, slices = shown.ensemble.samples.shape[:2]
        controls.sample.props(f"max={count}")
        controls.sample.value = 1
        controls.slice.props(f"max={slices - 1}")
        controls.slice.value = shown.ensemble.clicked
        controls.slice_row.visible = slices > 1
        controls.threshold.value = shown.threshold
        controls.layers["Raters"].visible = controls.comparison.visible = shown.raters is not None
        where = ""
        if case.needs_point and self.point is not None:
            where = f" at {', '.join(f'{value:.1f}' for value in self.point)} mm"
        controls.message.text = " ".join([f"{count} masks sampled for {slices} slice(s){where}.", *shown.notes])
        controls.result.visible = True
        self._show_base()

    def _show_all(self) -> None:
        self._show_scan()
        self._show_base()

    def _show_scan(self) -> None:
        case, controls = self.case, self.controls
        if case is None or not case.needs_point:
            return
        number = int(controls.scan_slice.value)
        plane = case.read_slice(number)
        controls.scan_title.text = f"Slice {number + 1} of {case.num_slices}, from the feet"
        controls.scan_image.set_source(render(plane.as_tensor().numpy()[0], WINDOWS[controls.window.value]))
        mark = ""
        if self.point is not None and case.find_slice(self.point) == number:
            row, column = point_to_index(self.point, plane.affine)[:2]
            scale = find_scale(plane.shape[1:])
            x, y = (float(value + 0.5) * scale for value in (column, row))
            mark = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="16" fill="none" stroke="{SAMPLE_COLOUR}" stroke-width="2"/>'
        controls.scan_image.set_content(mark)

    def _show_base(self) -> None:
        """The picture below the outlines, of the part that the network saw."""
        shown, controls = self.shown, self.controls
        if shown is None:
            return
        number = int(controls.slice.value)
        plane = shown.ensemble.plane(number)
        controls.slice_label.text = f"Slice {number + 1} of {len(shown.ensemble.confidence)}"
        if controls.base.value == "Image":
            image = plane.planes[0].as_tensor().numpy()[:, shown.part[0], shown.part[1]]
            window = WINDOWS[controls.window.value] if self.case is not None and self.case.needs_point else None
            picture = render(image[0] if len(image) == 1 else image.transpose(1, 2, 0), window)
        elif controls.base.value == "Confidence":
            picture = render(plane.confidence[shown.part], colours="magma")
        else:
            picture = render(plane.entropy()[shown.part], colours="viridis")
        controls.image.set_source(picture)
        self._show_masks()

    def _show_masks(self) -> None:
        """Outlines and numbers at the threshold."""
        shown, controls = self.shown, self.controls
        if shown is None:
            return
        threshold, sample = float(controls.threshold.value), int(controls.sample.value) - 1
        number = int(controls.slice.value)
        names = [name for name, box in controls.layers.items() if box.value and box.visible]
        controls.image.set_content(render_layers(shown, threshold, sample, number, names))
        controls.threshold_label.text = f"Consensus ≥ {threshold:.2f} of samples"
        controls.sample_label.text = f"Sample {sample + 1} of {len(shown.ensemble.samples)}"
        controls.sizes.set_content(describe_sizes(shown, threshold, sample, number))
        if shown.raters is not None:
            controls.comparison.set_content(describe_raters(shown, threshold))
