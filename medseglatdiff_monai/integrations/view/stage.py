"""What is seen of an opened image: its slices, masks, maps and numbers, and the label in the making."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from nicegui import ui

from ...errors import InputError
from ...io.planes import point_to_index
from ...io.reading import DicomInput
from ...predict.ensemble import Ensemble
from .case import OpenCase, Shown
from .controls import CURSOR, Controls
from .labelling import Labelling
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
from .tables import describe_pixel, describe_raters, describe_sizes


class Stage:
    """Shows one case, and follows the controls that say how.

    Args:
        controls: the page's widgets.

    Attributes:
        case: the opened image, or ``None``.
        shown: its ensemble, or ``None``.
        point: its nodule, LPS millimetres, or ``None``.
        labelling: what is chosen for a label.
    """

    def __init__(self, controls: Controls) -> None:
        self.controls = controls
        self.case: OpenCase | None = None
        self.shown: Shown | None = None
        self.point: Sequence[float] | None = None
        self.labelling = Labelling(controls, self.choose)
        # The image (C, H, W) that is seen, and its ensemble.
        self._seen: tuple[np.ndarray, Ensemble | None] | None = None
        # Slice, threshold or sample, and whether it is seen, of each outline.
        self._rendered: dict[str, tuple[int, float | None, bool]] = {}
        # While several controls are set, nothing is shown.
        self._quiet = False
        controls.image.on("pointermove", self._hover, js_handler=CURSOR, throttle=0.03)
        for name in ("pointerdown", "pointerup"):
            controls.image.on(name, self._hover, js_handler=CURSOR)
        controls.image.on("mouseleave", self._leave)
        controls.brush.on_value_change(self._show_brush)
        controls.undo.on_click(self.undo)
        controls.place.on_value_change(self._show_place)
        for control in (controls.window, controls.base, controls.slice):
            control.on_value_change(self._show_image)
        controls.threshold.on_value_change(self._move_threshold)
        controls.sample.on_value_change(self._move_sample)
        for box in controls.layers.values():
            box.on_value_change(self.show_masks)

    @property
    def scanning(self) -> bool:
        """Whether whole slices of a volume are shown, in which the nodule is pointed at."""
        return self.case is not None and self.case.needs_point and self.controls.place.value == "scan"

    def clear(self) -> None:
        """Show nothing."""
        controls = self.controls
        for part in (controls.result, controls.place, controls.slice_row, controls.labels):
            part.visible = False
        self.case = self.shown = self.point = self._seen = None
        controls.image.set_source("")
        self._clear_outlines()
        for layer in (controls.map, controls.mark, controls.brush_layer, controls.colours):
            layer.set_content("")

    def show_case(self, case: OpenCase, number: int) -> None:
        """Show slice `number` of an image that nothing is sampled of yet."""
        controls = self.controls
        self.case, self.shown, self._quiet = case, None, True
        controls.place.set_value("scan")
        controls.place.visible = False
        controls.window.visible = case.needs_point
        self._set_slices(case.num_slices, number)
        ui.run_javascript("zoomStage(0)")
        self._quiet = False
        self._show_image()

    def point_at(self, row: float, column: float) -> bool:
        """Take a place of the shown slice, in shares of its height and width, as the nodule's, where one is wanted."""
        if self.case is None or not self.scanning:
            return False
        number = int(self.controls.slice.value)
        height, width = self.case.read_slice(number).shape[1:]
        self.point = self.case.pixel_to_point(number, row * height - 0.5, column * width - 0.5)
        self.show_masks()
        return True

    def show_ensemble(self, case: OpenCase, shown: Shown) -> None:
        """Show the ensemble of the opened image."""
        controls = self.controls
        self.shown, self._quiet, self._rendered = shown, True, {}
        controls.sample.props(f"max={len(shown.ensemble.samples)}")
        controls.sample.value = 1
        controls.threshold.value = shown.threshold
        controls.layers["Raters"].visible = controls.comparison.visible = shown.raters is not None
        self.labelling.begin(shown, "no nodule" if case.needs_point else "nothing")
        controls.brush.value = False
        controls.result.visible = controls.labels.visible = True
        controls.place.visible = case.needs_point
        controls.place.set_value("nodule" if case.needs_point else "scan")
        self._quiet = False
        self._show_place()

    def choose(self, place: int | None) -> None:
        """Accept a sample, by its place in the order, or the consensus; what the brush did is dropped."""
        if self.shown is None:
            return
        self.labelling.accept(self.shown, place, float(self.controls.threshold.value))
        if place is not None:
            self._quiet = True
            self.controls.sample.value = place + 1
            self._quiet = False
        self.show_masks()

    def undo(self) -> None:
        """Take the last stroke of the brush back."""
        if self.labelling.draft is not None:
            self.labelling.draft.undo()
            self.labelling.describe()
            self.show_masks()

    def _set_slices(self, count: int, number: int) -> None:
        self.controls.slice.props(f"max={count - 1}")
        self.controls.slice.set_value(number)
        self.controls.slice_row.visible = count > 1

    def _show_place(self) -> None:
        """The whole scan, or the nodule."""
        case, shown = self.case, self.shown
        if case is None or self._quiet:
            return
        self._quiet = True
        if self.scanning or shown is None:
            self._set_slices(case.num_slices, 0 if self.point is None else case.find_slice(self.point))
        else:
            self._set_slices(len(shown.ensemble.confidence), shown.ensemble.clicked)
        self._quiet = False
        self._show_image()

    def _show_image(self) -> None:
        """The image, and the map on it."""
        case, shown, controls = self.case, self.shown, self.controls
        if case is None or self._quiet:
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
        self._seen = values, plane
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
        self.show_masks()

    def _clear_outlines(self) -> None:
        self._rendered = {}
        for layer in (*self.controls.outlines.values(), self.controls.label_layer):
            layer.set_content("")

    def show_masks(self) -> None:
        """Outlines and numbers at the threshold."""
        shown, case, controls = self.shown, self.case, self.controls
        if case is None or self._quiet:
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
            if self._rendered.get(name) != key:
                self._rendered[name] = key
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
        if case is None or self._seen is None:
            return
        image, plane = self._seen
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
            self.show_masks()

    def _leave(self) -> None:
        self.controls.cursor.set_text("")
        self.controls.brush_layer.set_content("")

    def _show_brush(self) -> None:
        brushing = bool(self.controls.brush.value)
        self.controls.stage.classes(add="brushing" if brushing else "", remove="brushing")
        self.controls.brush_layer.set_content("")

    def _move_sample(self) -> None:
        """The slider chooses, too, unless there are corrections to lose."""
        if self.shown is None or self._quiet:
            return
        draft = self.labelling.draft
        if draft is None or not draft.corrected:
            self.labelling.accept(self.shown, int(self.controls.sample.value) - 1, float(self.controls.threshold.value))
        self.show_masks()

    def _move_threshold(self) -> None:
        if self.shown is None or self._quiet:
            return
        draft, threshold = self.labelling.draft, float(self.controls.threshold.value)
        if draft is None or not draft.corrected:
            self.labelling.accept(self.shown, None, threshold)
        if self._seen is not None and self._seen[1] is not None:
            pixels = to_grey(self._seen[0], self._window)
            self.labelling.show_consensus(self.shown, pixels, int(self.controls.slice.value), threshold)
        self.show_masks()

    @property
    def _window(self) -> tuple[float, float] | None:
        volume = self.case is not None and self.case.needs_point
        return WINDOWS[self.controls.window.value] if volume else None
