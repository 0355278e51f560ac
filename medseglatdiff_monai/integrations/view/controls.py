"""The widgets of the viewing page, and where they stand; the page says what they do."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nicegui import ui
from nicegui.elements.interactive_image import InteractiveImageLayer

from ...plots.panel import CONSENSUS_COLOUR, SAMPLE_COLOUR
from .picture import MAPS, WINDOWS

# A control wears the colour of the outline that it moves.
KEY = "border-left: 6px solid {}; padding-left: 6px"
FOLDER = Path(__file__).parent
# From the lowest to the uppermost.
OUTLINES = ("All samples", "Consensus", "Raters", "Sample")
WELCOME = "Give the path of an image, and open it."
# Where the pointer is in the image, in shares of its width and height.
CURSOR = (
    "(e) => emit({x: e.offsetX / e.target.clientWidth, y: e.offsetY / e.target.clientHeight, "
    "type: e.type, buttons: e.buttons, shift: e.shiftKey})"
)
# A slider that has the focus takes the arrow keys for itself.
KEEP_ARROWS = "(e) => e.key.startsWith('Arrow') && e.stopPropagation()"


class Controls:
    """Builds the widgets.

    Args:
        bundles: names to choose from, the first is chosen.
        path: image to begin with, or ``None``.
        raters: its raters' masks.
        num_samples: to begin with, as is the seed.
        seed: of the noise.
    """

    def __init__(
        self,
        bundles: Sequence[str],
        path: str | Path | None,
        raters: str | Sequence[str] | None,
        num_samples: int,
        seed: int,
    ) -> None:
        ui.add_css(FOLDER / "page.css")
        ui.add_body_html(f"<script>{(FOLDER / 'zoom.js').read_text(encoding='utf-8')}</script>")
        self.dark = ui.dark_mode(None)
        with ui.column().classes("view-page"):
            self._build_head(bundles, path, raters)
            with ui.row().classes("view-message no-wrap") as self.message_row:
                self.spinner = ui.spinner(size="1.4em")
                self.spinner.visible = False
                self.error = ui.icon("error", size="1.6em")
                self.message = ui.label().classes("message")
            with ui.element("div").classes("view-body"):
                with ui.column().classes("view-main"):
                    self._build_stage()
                with ui.column().classes("view-side") as self.side:
                    self._build_side(num_samples, seed)
        self.say(WELCOME)

    def say(self, text: str, wrong: bool = False) -> None:
        """Show a message, as an error or not."""
        self.message.text = text
        self.error.visible = wrong
        self.message_row.classes(add="bg-negative text-white" if wrong else "", remove="bg-negative text-white")
        self.message_row.props(f"role={'alert' if wrong else 'status'}")

    def _build_head(self, bundles: Sequence[str], path: str | Path | None, raters: str | Sequence[str] | None) -> None:
        with ui.row().classes("view-head"):
            ui.label("medseglatdiff").classes("text-lg font-bold")
            self.bundle = (
                ui.select(list(bundles), value=bundles[0], label="Bundle").props("dense").classes("view-bundle")
            )
            self.path = ui.input("PNG, JPEG, NIfTI, or folder of a DICOM series", value=str(path or ""))
            text = raters if isinstance(raters, str) else ",".join(map(str, raters or ()))
            self.raters = ui.input("Raters' masks (may be empty; commas between)", value=text)
            for field, name in ((self.path, "view-path"), (self.raters, "view-raters")):
                field.props("dense").classes(name)
            with self.path.add_slot("append"):
                self.pick = ui.button(icon="folder_open").props('flat dense round aria-label="Choose a file"')
            with self.raters.add_slot("append"):
                self.pick_raters = ui.button(icon="folder_open")
                self.pick_raters.props('flat dense round aria-label="Choose a raters\' mask"')
            self.open = ui.button("Open").props("dense padding='2px 12px'")
            self.theme = ui.button(icon="dark_mode").props('flat dense round aria-label="Light or dark"')
            self.help = ui.button(icon="keyboard").props('flat dense round aria-label="Keys"')

    def _build_stage(self) -> None:
        """The image, and what belongs below it."""
        with ui.row().classes("view-bar"):
            self.place = ui.toggle({"scan": "Scan", "nodule": "Nodule"}, value="scan").props("dense padding='2px 10px'")
            self.base = ui.toggle(["Image", *MAPS], value="Image").props("dense padding='2px 10px'")
            self.window = ui.select(list(WINDOWS), value="Lung", label="Window").props("dense").classes("w-28")
            with ui.row().classes("items-center no-wrap gap-0"):
                for icon, factor, name in (("zoom_out", 0.8, "Zoom out"), ("zoom_in", 1.25, "Zoom in"),
                                           ("zoom_out_map", 0, "Fit")):  # fmt: skip
                    button = ui.button(icon=icon).props(f'flat dense round aria-label="{name}"')
                    button.on("click", js_handler=f"() => zoomStage({factor})")
            with ui.row().classes("items-center no-wrap gap-2 w-40"):
                ui.label("Opacity").classes("view-quiet")
                self.opacity = ui.slider(min=0, max=1, step=0.05, value=0.6).props('aria-label="Opacity"')
                self.opacity.on(
                    "update:model-value",
                    js_handler="(v) => document.body.style.setProperty('--opacity', v)",
                )
                self.opacity.on("keydown", js_handler=KEEP_ARROWS)
        with ui.element("div").classes("stage") as self.stage:
            self.image = ui.interactive_image(sanitize=False).classes("stage-image")
            self.stack: list[InteractiveImageLayer] = []
            self.map = self._add_layer()
            # One each, so that a move of the threshold sends the consensus alone.
            self.outlines = {name: self._add_layer() for name in OUTLINES}
            self.mark = self._add_layer()
            self.label_layer = self._add_layer()
            self.brush_layer = self._add_layer()
        with ui.row().classes("view-bar justify-between min-h-6"):
            self.cursor = ui.label().classes("view-quiet cursor tabular-nums")
            self.colours = ui.html(sanitize=False)
        with ui.row().classes("view-bar no-wrap") as self.slice_row:
            self.slice_label = ui.label().classes("w-48 shrink-0")
            self.slice = ui.slider(min=0, max=1, step=1, value=0).props('aria-label="Slice"')
            self.slice.on("keydown", js_handler=KEEP_ARROWS)
        with ui.column().classes("w-full gap-1") as self.labels:
            self.strip = ui.row().classes("strip")
            self._build_label()
        for part in (self.place, self.slice_row, self.window, self.labels):
            part.visible = False

    def _build_label(self) -> None:
        """The brush, and saving."""
        with ui.row().classes("view-bar"):
            self.label_text = ui.label().classes("font-bold label-text")
            self.brush = ui.switch("Brush").props("dense")
            with ui.row().classes("items-center no-wrap gap-2") as self.brush_row:
                self.erase = ui.switch("Erase").props("dense")
                self.radius = ui.slider(min=0.5, max=20, step=0.5, value=2).props('aria-label="Size of the brush"')
                self.radius.classes("w-20").on("keydown", js_handler=KEEP_ARROWS)
                self.undo = ui.button(icon="undo").props('flat dense round aria-label="Undo"')
            self.brush_row.bind_visibility_from(self.brush, "value")
            ui.space()
            self.rater = ui.input("Rater", value=_find_user()).props("dense").classes("w-20")
            self.save = ui.button("Save as label").props("dense padding='2px 12px'")
            self.next = ui.button("Next").props("dense padding='2px 12px' outline")
            self.queue_text = ui.label().classes("view-quiet")

    def _build_side(self, num_samples: int, seed: int) -> None:
        """Settings, threshold, sample, layers, and the tables."""
        with ui.row().classes("items-end gap-2 no-wrap w-full"):
            self.number = ui.number("Samples", value=num_samples, min=1, max=256, precision=0)
            self.steps = ui.number("Steps", value=1, min=1, max=1000, precision=0)
            self.seed = ui.number("Seed", value=seed, precision=0)
            for field in (self.number, self.steps, self.seed):
                field.props("dense").classes("w-16")
            self.segment = ui.button("Sample masks").props("dense padding='2px 12px'").classes("grow")
            self.segment.disable()
        with ui.column().classes("w-full gap-2") as self.result:
            self.threshold_label, self.threshold = self._add_slider(
                "Consensus threshold", CONSENSUS_COLOUR, " threshold", min=0.02, max=1.0, step=0.01, value=0.5
            )
            self.sample_label, self.sample = self._add_slider("Sample", SAMPLE_COLOUR, min=1, max=2, step=1, value=1)
            with ui.row().classes("gap-x-1 gap-y-0"):
                self.layers = {
                    name: ui.checkbox(name, value=name != "All samples").props("dense").classes("mr-2")
                    for name in ("Consensus", "Sample", "All samples", "Raters")
                }
            self.sizes = ui.html(sanitize=False).classes("sizes")
            self.comparison = ui.html(sanitize=False).classes("comparison")
        self.result.visible = False
        ui.label("Research software: not for diagnosis.").classes("view-quiet")

    def _add_layer(self) -> InteractiveImageLayer:
        # Not `add_layer`: it has the browser send every picture back, and one of a megabyte ends the connection.
        with self.image:
            layer = InteractiveImageLayer(source="", content="", size=None, sanitize=False)
        self.stack.append(layer.classes("nicegui-interactive-image-layer"))
        return layer

    def set_picture(self, source: str, width: int, height: int) -> None:
        """Show a picture of this size, on which the layers lie."""
        self.stage.style(f"--aspect: {width / height:.4f}")
        self.stage.classes(add="pixels" if max(height, width) <= 640 else "", remove="pixels")
        self.image.set_source(source)
        for layer in self.stack:
            layer.run_method("updateViewbox", width, height)

    @staticmethod
    def _add_slider(label: str, colour: str, extra: str = "", **limits: Any) -> tuple[ui.label, ui.slider]:
        with ui.column().classes("w-full gap-0"):
            text = ui.label().classes(f"shrink-0{extra}").style(KEY.format(colour))
            slider = ui.slider(**limits).props(f'aria-label="{label}"').classes("px-2")
            return text, slider.on("keydown", js_handler=KEEP_ARROWS)


def _find_user() -> str:
    """Name of the user of this computer; empty where it is not known."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""
