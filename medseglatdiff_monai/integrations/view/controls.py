"""The widgets of the viewing page: where they stand, and what is called when they are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nicegui import ui

from ...plots.panel import CONSENSUS_COLOUR, SAMPLE_COLOUR
from .picture import WINDOWS

__all__ = ["Actions", "Controls", "Start"]

# A control wears the colour of the outline that it moves.
KEY = "border-left: 6px solid {}; padding-left: 6px"
CSS = (
    ".seg-image img { image-rendering: pixelated } .seg-table td, .seg-table th { padding: 2px 10px 2px 0;"
    " text-align: right; white-space: nowrap } .seg-table td:first-child, .seg-table th:first-child"
    " { text-align: left } .seg-table { font-variant-numeric: tabular-nums }"
    " .seg-table th { color: #666; font-weight: 600 }"
)


@dataclass(frozen=True)
class Start:
    """What a page begins with.

    Attributes:
        path: image, or ``None``.
        raters: its raters' masks.
        point: its nodule, LPS millimetres; segmented at once if given, or not needed.
        num_samples: of the ensemble.
        num_inference_steps: of a sample; ``None`` for a network that takes none.
        seed: of the noise.
    """

    path: str | Path | None
    raters: str | Sequence[str] | None
    point: Sequence[float] | None
    num_samples: int
    num_inference_steps: int | None
    seed: int


@dataclass(frozen=True)
class Actions:
    """What the widgets call."""

    open: Callable[[], Any]
    segment: Callable[[], Any]
    click: Callable[[Any], Any]
    show_progress: Callable[[], None]
    show_scan: Callable[[], None]
    show_all: Callable[[], None]
    show_base: Callable[[], None]
    show_masks: Callable[[], None]


class Controls:
    """Builds the widgets.

    Args:
        bundle: its name.
        start: their first values.
        actions: what they call.
    """

    def __init__(self, bundle: str, start: Start, actions: Actions) -> None:
        ui.add_css(CSS)
        with ui.row().classes("w-full items-baseline gap-4"):
            ui.label("medseglatdiff").classes("text-xl font-bold")
            ui.label(bundle).classes("text-gray-600")
            ui.label("Research software: not for diagnosis.").classes("text-gray-600 text-sm")
        self._build_input(start, actions)
        ui.timer(0.5, actions.show_progress)
        with ui.row().classes("w-full items-start gap-6"):
            self._build_scan(actions)
            with ui.row().classes("items-start gap-6 no-wrap") as self.result:
                self._build_image(actions)
                with ui.column().classes("gap-2").style("width: 400px"):
                    self._build_masks(actions)
        self.scan.visible = self.result.visible = False

    def _build_input(self, start: Start, actions: Actions) -> None:
        raters = start.raters if isinstance(start.raters, str) else ",".join(map(str, start.raters or ()))
        with ui.row().classes("w-full items-end gap-3 no-wrap"):
            path = str(start.path or "")
            self.path = ui.input("PNG, JPEG, NIfTI, or folder of a DICOM series", value=path).classes("grow")
            self.path.on("keydown.enter", actions.open)
            self.raters = ui.input("Raters' masks (may be empty; commas between)", value=raters).classes("grow")
            self.raters.on("keydown.enter", actions.open)
            ui.button("Open", on_click=actions.open).mark("open")
        with ui.row().classes("w-full items-end gap-3"):
            self.number = ui.number("Samples", value=start.num_samples, min=1, max=256, precision=0).classes("w-24")
            steps = start.num_inference_steps or 1
            self.steps = ui.number("Steps", value=steps, min=1, max=1000, precision=0).classes("w-24")
            self.seed = ui.number("Seed", value=start.seed, precision=0).classes("w-24")
            self.segment = ui.button("Sample masks", on_click=actions.segment).mark("draw")
            self.segment.disable()
            self.spinner = ui.spinner(size="1.6em")
            self.spinner.visible = False
            self.message = ui.label("Give the path of an image, and open it.").classes("text-gray-700 message")

    def _build_scan(self, actions: Actions) -> None:
        """Whole slices of a volume, in which the nodule is clicked."""
        with ui.column().classes("gap-1") as self.scan:
            self.scan_title = ui.label().classes("font-bold")
            self.scan_image = (
                ui.interactive_image(sanitize=False, events=["mousedown"], on_mouse=actions.click, cross=SAMPLE_COLOUR)
                .classes("scout-image")
                .style("width: 384px")
            )
            self.scan_slice = ui.slider(min=0, max=1, step=1, value=0, on_change=lambda: actions.show_scan())
            self.scan_slice.style("width: 384px").props('aria-label="Slice of the scan"')
            with ui.row().classes("items-center"):
                ui.label("Window")
                self.window = ui.toggle(list(WINDOWS), value="Lung", on_change=lambda: actions.show_all())

    def _build_image(self, actions: Actions) -> None:
        """What the network saw, below the outlines."""
        with ui.column().classes("gap-1"):
            bases = ["Image", "Confidence", "Entropy"]
            self.base = ui.toggle(bases, value="Image", on_change=lambda: actions.show_base())
            self.image = ui.interactive_image(sanitize=False).classes("seg-image").style("width: 480px")
            self.slice_row = ui.row().classes("items-center no-wrap").style("width: 480px")
            with self.slice_row:
                self.slice_label = ui.label().classes("w-32")
                self.slice = ui.slider(min=0, max=1, step=1, value=0, on_change=lambda: actions.show_base())
                self.slice.props('aria-label="Slice"')

    def _build_masks(self, actions: Actions) -> None:
        """Threshold, sample, layers, and the tables."""

        def add_slider(label: str, colour: str, extra: str = "", **limits: Any) -> tuple[ui.label, ui.slider]:
            with ui.row().classes("w-full items-center no-wrap"):
                text = ui.label().classes(f"w-56 shrink-0{extra}").style(KEY.format(colour))
                slider = ui.slider(**limits, on_change=lambda: actions.show_masks())
                slider.props(f'aria-label="{label}"')
            return text, slider

        self.threshold_label, self.threshold = add_slider(
            "Consensus threshold", CONSENSUS_COLOUR, " threshold", min=0.02, max=1.0, step=0.01, value=0.5
        )
        self.sample_label, self.sample = add_slider("Sample", SAMPLE_COLOUR, min=1, max=2, step=1, value=1)
        with ui.row().classes("gap-x-1 gap-y-0"):
            self.layers = {
                name: ui.checkbox(name, value=name != "All samples", on_change=lambda: actions.show_masks())
                for name in ("Consensus", "Sample", "All samples", "Raters")
            }
        self.sizes = ui.html(sanitize=False).classes("sizes")
        self.comparison = ui.html(sanitize=False).classes("comparison")
