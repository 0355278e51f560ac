"""The page: open an image, point at the nodule, draw, page through samples, slide the threshold.

Served by NiceGUI (extra ``view``) on this computer alone: whoever can open the page can read files by their path.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle.segmenter import Segmenter
from ...errors import InputError
from ...plots.panel import CONSENSUS_COLOUR, SAMPLE_COLOUR
from .address import HOST
from .case import Drawn, OpenCase, open_case
from .layers import describe_readers, describe_sizes, draw_layers, format_point, seen_part
from .picture import WINDOWS, find_scale, render, to_uri

__all__ = ["serve"]

# A control wears the colour of the outline that it moves.
KEY = "border-left: 6px solid {}; padding-left: 6px"


def serve(
    segmenter: Segmenter,
    path: str | Path | None,
    readers: str | Sequence[str] | None,
    start: Sequence[float] | None,
    num_samples: int,
    seed: int,
    port: int,
    show: bool,
) -> None:
    """Serve the page until it is interrupted, see :func:`~medseglatdiff_monai.integrations.view.view`.

    Args:
        segmenter: the loaded bundle.
        path: image to open at once, or ``None``.
        readers: its readers' masks.
        start: its nodule, LPS millimetres; drawn at once if given.
        num_samples: to begin with.
        seed: to begin with.
        port: of the page, on 127.0.0.1.
        show: open the browser.
    """
    # Before the browser opens: a wrong path is an error of the command.
    if path is not None:
        open_case(path, segmenter, readers)

    from nicegui import app, ui
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    # A page elsewhere must not reach this one under a name of its own that leads to 127.0.0.1.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    lock = threading.Lock()

    def root() -> None:
        Page(segmenter, lock, path, readers, start, num_samples, seed)

    # Flushed: the address is wanted now, also through a pipe.
    print(f"Open http://{HOST}:{port} (Ctrl-C ends it)", flush=True)
    # A browser that was busy for a while comes back to the same page; without the last messages it would load anew.
    ui.run(
        root, host=HOST, port=port, title="medseglatdiff", favicon="🫁", reload=False, show=show,
        show_welcome_message=False, message_history_length=100, reconnect_timeout=30.0,
    )  # fmt: skip


class Page:
    """One visitor's page.

    Args:
        segmenter: the loaded bundle, shared by all visitors.
        lock: held while masks are drawn.
        path: image to open at once, or ``None``.
        readers: its readers' masks.
        point: its nodule, LPS millimetres; drawn at once if given, or not needed.
        num_samples: to begin with.
        seed: to begin with.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        lock: threading.Lock,
        path: str | Path | None,
        readers: str | Sequence[str] | None,
        point: Sequence[float] | None,
        num_samples: int,
        seed: int,
    ) -> None:
        self.segmenter = segmenter
        self.lock = lock
        self.case: OpenCase | None = None
        self.drawn: Drawn | None = None
        self.point = point
        self.done = 0
        steps = segmenter.inferer.num_inference_steps or segmenter.network.num_inference_steps
        joined = readers if isinstance(readers, str) or readers is None else ",".join(map(str, readers))
        self._build(str(path or ""), joined or "", num_samples, steps, seed)
        if path is not None:
            from nicegui import ui

            ui.timer(0.05, self._open, once=True)

    def _build(self, path: str, readers: str, num_samples: int, steps: int, seed: int) -> None:
        from nicegui import ui

        ui.add_css(
            ".seg-image img { image-rendering: pixelated } .seg-table td, .seg-table th { padding: 2px 10px 2px 0;"
            " text-align: right; white-space: nowrap } .seg-table td:first-child, .seg-table th:first-child"
            " { text-align: left } .seg-table { font-variant-numeric: tabular-nums }"
            " .seg-table th { color: #666; font-weight: 600 }"
        )
        with ui.row().classes("w-full items-baseline gap-4"):
            ui.label("medseglatdiff").classes("text-xl font-bold")
            ui.label(self.segmenter.bundle_dir.name).classes("text-gray-600")
            ui.label("Research software: not for diagnosis.").classes("text-gray-600 text-sm")
        with ui.row().classes("w-full items-end gap-3 no-wrap"):
            self.path = ui.input("PNG, JPEG, NIfTI, or folder of a DICOM series", value=path).classes("grow")
            self.path.on("keydown.enter", self._open)
            self.readers = ui.input("Readers' masks (may be empty; commas between)", value=readers).classes("grow")
            self.readers.on("keydown.enter", self._open)
            ui.button("Open", on_click=self._open).mark("open")
        with ui.row().classes("w-full items-end gap-3"):
            self.number = ui.number("Samples", value=num_samples, min=1, max=256, precision=0).classes("w-24")
            self.steps = ui.number("Steps", value=steps, min=1, max=1000, precision=0).classes("w-24")
            self.seed = ui.number("Seed", value=seed, precision=0).classes("w-24")
            self.draw_button = ui.button("Draw masks", on_click=self._draw).mark("draw")
            self.draw_button.disable()
            self.spinner = ui.spinner(size="1.6em")
            self.spinner.visible = False
            self.message = ui.label("Give the path of an image, and open it.").classes("text-gray-700 message")
        ui.timer(0.5, self._show_progress)
        with ui.row().classes("w-full items-start gap-6"):
            self._build_scout(ui)
            self._build_result(ui)

    def _build_scout(self, ui: Any) -> None:
        """Whole slices of a volume, in which the nodule is clicked."""
        with ui.column().classes("gap-1") as self.scout:
            self.scout_title = ui.label().classes("font-bold")
            self.scout_image = (
                ui.interactive_image(sanitize=False, events=["mousedown"], on_mouse=self._click, cross="#ffb000")
                .classes("scout-image")
                .style("width: 384px")
            )
            self.scout_slice = ui.slider(min=0, max=1, step=1, value=0, on_change=lambda: self._show_scout())
            self.scout_slice.style("width: 384px").props('aria-label="Slice of the scan"')
            with ui.row().classes("items-center"):
                ui.label("Window")
                self.window = ui.toggle(list(WINDOWS), value="Lung", on_change=lambda: self._show_all())
        self.scout.visible = False

    def _build_result(self, ui: Any) -> None:
        with ui.row().classes("items-start gap-6 no-wrap") as self.result:
            with ui.column().classes("gap-1"):
                self.base = ui.toggle(
                    ["Image", "Confidence", "Entropy"], value="Image", on_change=lambda: self._show_base()
                )
                self.image = ui.interactive_image(sanitize=False).classes("seg-image").style("width: 480px")
                self.slice_row = ui.row().classes("items-center no-wrap").style("width: 480px")
                with self.slice_row:
                    self.slice_label = ui.label().classes("w-32")
                    self.slice = ui.slider(min=0, max=1, step=1, value=0, on_change=lambda: self._show_base())
                    self.slice.props('aria-label="Slice"')
            with ui.column().classes("gap-2").style("width: 400px"):
                with ui.row().classes("w-full items-center no-wrap"):
                    self.threshold_label = (
                        ui.label().classes("w-56 shrink-0 threshold").style(KEY.format(CONSENSUS_COLOUR))
                    )
                    self.threshold = ui.slider(
                        min=0.02, max=1.0, step=0.01, value=0.5, on_change=lambda: self._show_masks()
                    )
                    self.threshold.props('aria-label="Consensus threshold"')
                with ui.row().classes("w-full items-center no-wrap"):
                    self.sample_label = ui.label().classes("w-56 shrink-0").style(KEY.format(SAMPLE_COLOUR))
                    self.sample = ui.slider(min=1, max=2, step=1, value=1, on_change=lambda: self._show_masks())
                    self.sample.props('aria-label="Sample"')
                with ui.row().classes("gap-x-1 gap-y-0"):
                    self.layers = {
                        name: ui.checkbox(name, value=name != "All samples", on_change=lambda: self._show_masks())
                        for name in ("Consensus", "Sample", "All samples", "Readers")
                    }
                self.sizes = ui.html(sanitize=False).classes("sizes")
                self.comparison = ui.html(sanitize=False).classes("comparison")
        self.result.visible = False

    async def _open(self) -> None:
        from nicegui import run

        self.result.visible = self.scout.visible = False
        self.draw_button.disable()
        self.case = self.drawn = None
        path, readers = self.path.value.strip(), self.readers.value.strip()
        if not path:
            self.message.text = "Give the path of an image, and open it."
            return
        self.message.text = "Opening …"
        try:
            case = await run.io_bound(open_case, path, self.segmenter, readers or None)
            if case is None:
                # The server is stopping.
                return
            if case.needs_point:
                number = case.num_slices // 2 if self.point is None else case.find_slice(self.point)
                await run.io_bound(case.read_slice, number)
        except InputError as error:
            self.message.text = str(error)
            return
        self.case = case
        if not case.needs_point:
            self.draw_button.enable()
            await self._draw()
            return
        self.scout.visible = True
        self.scout_slice.props(f"max={case.num_slices - 1}")
        self.scout_slice.value = number
        self._show_scout()
        self.message.text = "Click on the nodule."
        if self.point is not None:
            self.draw_button.enable()
            await self._draw()

    async def _click(self, event: Any) -> None:
        if self.case is None:
            return
        number = int(self.scout_slice.value)
        scale = find_scale(self.case.read_slice(number).shape[1:])
        self.point = self.case.pixel_to_point(number, event.image_y / scale - 0.5, event.image_x / scale - 0.5)
        self.draw_button.enable()
        self._show_scout()
        await self._draw()

    async def _draw(self) -> None:
        from nicegui import run

        case = self.case
        if case is None:
            return
        self.draw_button.disable()
        self.spinner.visible = True
        self.done = 0
        self.message.text = "Drawing …"
        try:
            number, steps, seed = (int(field.value) for field in (self.number, self.steps, self.seed))
            point = self.point if case.needs_point else None
            drawn = await run.io_bound(self._draw_locked, case, number, steps, seed, point)
        except InputError as error:
            self.message.text = str(error)
            return
        except TypeError:
            self.message.text = "Samples, steps and seed must be whole numbers."
            return
        finally:
            self.spinner.visible = False
            self.draw_button.enable()
        if case is not self.case:
            # Another image was opened meanwhile.
            return
        self.drawn = drawn
        self._show_drawn()

    def _draw_locked(self, case: OpenCase, number: int, steps: int, seed: int, point: Sequence[float] | None) -> Drawn:
        def report(done: int) -> None:
            self.done = done

        with self.lock:
            return case.draw(number, steps, seed, point, report=report)

    def _show_progress(self) -> None:
        if self.spinner.visible and self.case is not None and self.case.needs_point:
            self.message.text = f"Drawing … {self.done} slice(s) done"

    def _show_drawn(self) -> None:
        drawn = self.drawn
        assert drawn is not None
        count, slices = len(drawn.samples), len(drawn.confidence)
        self.sample.props(f"max={count}")
        self.sample.value = 1
        self.slice.props(f"max={slices - 1}")
        self.slice.value = drawn.clicked
        self.slice_row.visible = slices > 1
        self.threshold.value = drawn.threshold
        self.layers["Readers"].visible = drawn.readers is not None
        self.comparison.visible = drawn.readers is not None
        where = "" if not self.case or not self.case.needs_point else f" at {format_point(self.point)} mm"
        self.message.text = " ".join([f"{count} masks drawn of {slices} slice(s){where}.", *drawn.notes])
        self.result.visible = True
        self._show_base()

    def _show_all(self) -> None:
        self._show_scout()
        if self.drawn is not None:
            self._show_base()

    def _show_scout(self) -> None:
        case = self.case
        if case is None or not case.needs_point:
            return
        number = int(self.scout_slice.value)
        plane = case.read_slice(number)
        self.scout_title.text = f"Slice {number + 1} of {case.num_slices}, from the feet"
        self.scout_image.set_source(to_uri(render(plane.as_tensor().numpy()[0], WINDOWS[self.window.value])))
        mark = ""
        if self.point is not None and case.find_slice(self.point) == number:
            affine = np.asarray(plane.affine, dtype=float)
            row, column = np.linalg.solve(affine, [-self.point[0], -self.point[1], self.point[2], 1.0])[:2]
            scale = find_scale(plane.shape[1:])
            x, y = (float(value + 0.5) * scale for value in (column, row))
            mark = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="16" fill="none" stroke="{SAMPLE_COLOUR}" stroke-width="2"/>'
        self.scout_image.set_content(mark)

    def _show_base(self) -> None:
        """The picture below the outlines, of the part that the network saw."""
        drawn = self.drawn
        if drawn is None:
            return
        number = int(self.slice.value)
        part = seen_part(drawn)
        self.slice_label.text = f"Slice {number + 1} of {len(drawn.confidence)}"
        if self.base.value == "Image":
            plane = drawn.images[number][:, part[0], part[1]]
            window = WINDOWS[self.window.value] if self.case is not None and self.case.needs_point else None
            picture = render(plane[0] if len(plane) == 1 else plane.transpose(1, 2, 0), window)
        else:
            share = drawn.confidence[number][part]
            if self.base.value == "Entropy":
                clipped = np.clip(share, 1e-7, 1 - 1e-7)
                share = -(clipped * np.log2(clipped) + (1 - clipped) * np.log2(1 - clipped))
            picture = render(share, colours="magma" if self.base.value == "Confidence" else "viridis")
        self.image.set_source(to_uri(picture))
        self._show_masks()

    def _show_masks(self) -> None:
        """Outlines and numbers at the threshold."""
        drawn = self.drawn
        if drawn is None:
            return
        threshold, sample, number = float(self.threshold.value), int(self.sample.value) - 1, int(self.slice.value)
        shown = [name for name, box in self.layers.items() if box.value and box.visible]
        self.image.set_content(draw_layers(drawn, threshold, sample, number, shown))
        self.threshold_label.text = f"Consensus ≥ {threshold:.2f} of samples"
        self.sample_label.text = f"Sample {sample + 1} of {len(drawn.samples)}"
        self.sizes.set_content(describe_sizes(drawn, threshold, sample, number))
        if drawn.readers is not None:
            self.comparison.set_content(describe_readers(drawn, threshold))
