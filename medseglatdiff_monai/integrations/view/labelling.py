"""Making a label on the page: a strip of samples to choose from, the brush, and the queue of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from nicegui import ui

from ...plots.panel import CONSENSUS_COLOUR, SAMPLE_COLOUR
from .case import Shown
from .choices import Kind, describe_kinds, find_box, group_samples, order_samples, render_thumbnail
from .controls import Controls
from .draft import Draft
from .picture import LABEL_COLOUR, find_scale, to_path, to_svg


class Labelling:
    """What is chosen for a label, and what the brush does to it.

    Args:
        controls: the page's widgets.
        choose: called with the place of the clicked sample in the order, or ``None`` for the consensus.
    """

    def __init__(self, controls: Controls, choose: Callable[[int | None], None]) -> None:
        self.controls = controls
        self.choose = choose
        self.draft: Draft | None = None
        self.order: list[int] = []
        self.kinds: list[Kind] = []
        self._box = (slice(None), slice(None))
        self._thumbs: dict[int | None, tuple[ui.element, ui.element]] = {}
        self._last: tuple[float, float] | None = None

    def begin(self, shown: Shown, nothing: str) -> None:
        """Offer the samples of a new ensemble; the consensus is chosen."""
        samples = shown.ensemble.samples
        self.order = order_samples(samples)
        self.kinds = group_samples(samples, self.order, nothing)
        self._box = find_box(samples)
        self._thumbs = {}
        strip = self.controls.strip
        strip.clear()
        with strip:
            self._add_group("Consensus", [None])
            for kind in self.kinds or [Kind(f"{len(samples)} samples, by shape", tuple(self.order))]:
                title = describe_kinds([kind], len(samples)) if self.kinds else kind.name
                self._add_group(title, [self.order.index(i) for i in kind.members])
        self.accept(shown, None, shown.threshold)

    def _add_group(self, title: str, places: Sequence[int | None]) -> None:
        with ui.column().classes("gap-0 shrink-0"):
            ui.label(title).classes("view-quiet")
            with ui.row().classes("no-wrap gap-1"):
                for place in places:
                    name = "Consensus" if place is None else f"Sample {place + 1} of {len(self.order)}"
                    button = ui.element("button").classes("thumb").props(f'aria-label="{name}" title="{name}"')
                    button.on("click", lambda place=place: self.choose(place))
                    with button:
                        self._thumbs[place] = button, ui.element("img")

    def accept(self, shown: Shown, place: int | None, threshold: float) -> None:
        """Take a sample, by its place in the order, or the consensus at a threshold."""
        ensemble = shown.ensemble
        if place is None:
            self.draft = Draft(ensemble.consensus(threshold), threshold=threshold)
        else:
            self.draft = Draft(ensemble.samples[self.order[place]], sample=self.order[place])
        for other, (button, _) in self._thumbs.items():
            button.classes(add="chosen" if other == place else "", remove="chosen")
        if place in self._thumbs:
            # By hand: scrollIntoView would move a narrow page as well.
            ui.run_javascript(
                f"const thumb = getHtmlElement({self._thumbs[place][0].id}), strip = thumb?.closest('.strip');"
                "if (strip) strip.scrollLeft = thumb.offsetLeft - strip.clientWidth / 2"
            )
        self.describe()

    def describe(self) -> None:
        """Say what would be saved."""
        self.controls.label_text.text = "" if self.draft is None else f"Label: {self.draft.describe()}"

    def show_strip(self, shown: Shown, pixels: np.ndarray, number: int, threshold: float) -> None:
        """Render the thumbnails of slice `number`, whose image (H, W[, 3]) uint8 is `pixels`."""
        for place in self._thumbs:
            if place is not None:
                mask = shown.ensemble.samples[self.order[place], number]
                self._set(place, render_thumbnail(pixels, mask, self._box, SAMPLE_COLOUR))
        self.show_consensus(shown, pixels, number, threshold)

    def show_consensus(self, shown: Shown, pixels: np.ndarray, number: int, threshold: float) -> None:
        """Render the consensus's thumbnail alone, as when the threshold moves."""
        mask = shown.ensemble.consensus(threshold)[number]
        self._set(None, render_thumbnail(pixels, mask, self._box, CONSENSUS_COLOUR))

    def _set(self, place: int | None, source: str) -> None:
        image = self._thumbs[place][1]
        image.props["src"] = source
        image.update()

    def render(self, number: int) -> str:
        """SVG of the corrected mask in slice `number`; of one that is not corrected the accepted outline is seen."""
        if self.draft is None or not self.draft.corrected:
            return ""
        mask = self.draft.mask[number]
        return to_svg(to_path(mask, find_scale(mask.shape)), LABEL_COLOUR, "label", width=2.5)

    @property
    def brushing(self) -> bool:
        """Whether the brush is on."""
        return self.draft is not None and bool(self.controls.brush.value)

    def stroke(self, event: Any, number: int, row: float, column: float) -> bool:
        """Follow the pointer with the brush; returns whether the mask may have changed."""
        if self.draft is None or not event["buttons"] & 1:
            self._last = None
            return False
        if event["type"] == "pointerdown" or self._last is None:
            self.draft.begin_stroke(number)
            self._last = row, column
        erase = bool(self.controls.erase.value) != bool(event["shift"])
        self.draft.paint(number, self._last, (row, column), float(self.controls.radius.value), not erase)
        self._last = row, column
        self.describe()
        return True

    def render_brush(self, row: float, column: float, shape: tuple[int, int]) -> str:
        """SVG of the brush at a pixel of an image (H, W)."""
        scale = find_scale(shape)
        radius = max(0.5, float(self.controls.radius.value)) * scale
        return (
            f'<circle cx="{(column + 0.5) * scale:.2f}" cy="{(row + 0.5) * scale:.2f}" r="{radius:.2f}" fill="none" '
            f'stroke="{LABEL_COLOUR}" stroke-width="1"/>'
        )
