"""The widgets of the viewing page, and where they stand; the page says what they do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nicegui import ui

from ...plots.panel import CONSENSUS_COLOUR, SAMPLE_COLOUR
from .picture import WINDOWS

# A control wears the colour of the outline that it moves.
KEY = "border-left: 6px solid {}; padding-left: 6px"
CSS = (
    ".seg-image img { image-rendering: pixelated } .seg-table td, .seg-table th { padding: 2px 10px 2px 0;"
    " text-align: right; white-space: nowrap } .seg-table td:first-child, .seg-table th:first-child"
    " { text-align: left } .seg-table { font-variant-numeric: tabular-nums }"
    " .seg-table th { color: #666; font-weight: 600 } .headline { font-size: 1.2rem; font-weight: 700 }"
)


class Controls:
    """Builds the widgets.

    Args:
        bundle: its name.
        path: image to begin with, or ``None``.
        raters: its raters' masks.
        num_samples: to begin with, as are the next two.
        num_inference_steps: ``None`` for a network that takes none.
        seed: of the noise.
    """

    def __init__(
        self,
        bundle: str,
        path: str | Path | None,
        raters: str | Sequence[str] | None,
        num_samples: int,
        num_inference_steps: int | None,
        seed: int,
    ) -> None:
        ui.add_css(CSS)
        with ui.row().classes("w-full items-baseline gap-4"):
            ui.label("medseglatdiff").classes("text-xl font-bold")
            ui.label(bundle).classes("text-gray-600")
            ui.label("Research software: not for diagnosis.").classes("text-gray-600 text-sm")
        with ui.row().classes("w-full items-end gap-3 no-wrap"):
            self.path = ui.input("PNG, JPEG, NIfTI, or folder of a DICOM series", value=str(path or "")).classes("grow")
            text = raters if isinstance(raters, str) else ",".join(map(str, raters or ()))
            self.raters = ui.input("Raters' masks (may be empty; commas between)", value=text).classes("grow")
            self.open = ui.button("Open")
        with ui.row().classes("w-full items-end gap-3"):
            self.number = ui.number("Samples", value=num_samples, min=1, max=256, precision=0).classes("w-24")
            steps = num_inference_steps or 1
            self.steps = ui.number("Steps", value=steps, min=1, max=1000, precision=0).classes("w-24")
            self.seed = ui.number("Seed", value=seed, precision=0).classes("w-24")
            self.segment = ui.button("Sample masks")
            self.segment.disable()
            self.spinner = ui.spinner(size="1.6em")
            self.spinner.visible = False
            self.message = ui.label("Give the path of an image, and open it.").classes("text-gray-700 message")
        with ui.row().classes("w-full items-start gap-6"):
            self._build_scan()
            with ui.row().classes("items-start gap-6 no-wrap") as self.result:
                self._build_image()
                with ui.column().classes("gap-2").style("width: 400px"):
                    self._build_masks()
        self.scan.visible = self.result.visible = False

    def _build_scan(self) -> None:
        """Whole slices of a volume, in which the nodule is clicked."""
        with ui.column().classes("gap-1") as self.scan:
            self.scan_title = ui.label().classes("font-bold")
            self.scan_image = (
                ui.interactive_image(sanitize=False, events=["mousedown"], cross=SAMPLE_COLOUR)
                .classes("scout-image")
                .style("width: 384px")
            )
            self.scan_slice = ui.slider(min=0, max=1, step=1, value=0)
            self.scan_slice.style("width: 384px").props('aria-label="Slice of the scan"')
            with ui.row().classes("items-center"):
                ui.label("Window")
                self.window = ui.toggle(list(WINDOWS), value="Lung")

    def _build_image(self) -> None:
        """What the network saw, below the outlines."""
        with ui.column().classes("gap-1"):
            self.base = ui.toggle(["Image", "Confidence", "Entropy"], value="Image")
            self.image = ui.interactive_image(sanitize=False).classes("seg-image").style("width: 480px")
            with ui.row().classes("items-center no-wrap").style("width: 480px") as self.slice_row:
                self.slice_label = ui.label().classes("w-32")
                self.slice = ui.slider(min=0, max=1, step=1, value=0).props('aria-label="Slice"')

    def _build_masks(self) -> None:
        """Threshold, sample, layers, and the tables."""

        def add_slider(label: str, colour: str, extra: str = "", **limits: Any) -> tuple[ui.label, ui.slider]:
            with ui.row().classes("w-full items-center no-wrap"):
                text = ui.label().classes(f"w-56 shrink-0{extra}").style(KEY.format(colour))
                return text, ui.slider(**limits).props(f'aria-label="{label}"')

        self.threshold_label, self.threshold = add_slider(
            "Consensus threshold", CONSENSUS_COLOUR, " threshold", min=0.02, max=1.0, step=0.01, value=0.5
        )
        self.sample_label, self.sample = add_slider("Sample", SAMPLE_COLOUR, min=1, max=2, step=1, value=1)
        with ui.row().classes("gap-x-1 gap-y-0"):
            self.layers = {
                name: ui.checkbox(name, value=name != "All samples")
                for name in ("Consensus", "Sample", "All samples", "Raters")
            }
        self.sizes = ui.html(sanitize=False).classes("sizes")
        self.comparison = ui.html(sanitize=False).classes("comparison")
