"""The keys of the page."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from nicegui import ui

from .controls import Controls
from .picture import MAPS

KEYS = {
    "← →": "previous, next sample", "↑ ↓": "slice towards the head, the feet", "[ ]": "threshold down, up",
    "+ − 0": "zoom in, out, fit", "1 2 3": "image, confidence, entropy", "C": "choose the consensus",
    "B E Z": "brush, erase (or hold Shift), undo", ", .": "smaller, larger brush", "S": "save as label",
    "N": "next image",
    "?": "these keys",
}  # fmt: skip


def show_keys() -> None:
    """A dialog that lists them."""
    with ui.dialog(value=True), ui.card(), ui.grid(columns="auto auto").classes("gap-x-6 gap-y-1"):
        for key, what in KEYS.items():
            ui.label(key).classes("font-bold")
            ui.label(what)


def listen(controls: Controls, actions: Mapping[str, Callable[[], Any]], ready: Callable[[], bool]) -> None:
    """Turn keys into moves of the controls, and into what the page does with a chosen mask.

    Args:
        controls: of the page.
        actions: key → what it does once masks are shown.
        ready: whether masks are shown.
    """
    steps = {
        "ArrowLeft": (controls.sample, -1), "ArrowRight": (controls.sample, 1), "ArrowUp": (controls.slice, 1),
        "ArrowDown": (controls.slice, -1), "[": (controls.threshold, -0.05), "]": (controls.threshold, 0.05),
        ",": (controls.radius, -0.5), ".": (controls.radius, 0.5),
    }  # fmt: skip
    switches = {"b": controls.brush, "e": controls.erase}

    async def press(event: Any) -> None:
        if not event.action.keydown or event.modifiers.ctrl or event.modifiers.meta or event.modifiers.alt:
            return
        key = event.key.name
        key = key.lower() if len(key) == 1 else key
        if key in steps:
            slider, step = steps[key]
            value = round(slider.value + step, 2)
            slider.value = min(max(value, float(slider.props["min"])), float(slider.props["max"]))
        elif key in "+=-0":
            ui.run_javascript(f"zoomStage({ {'-': 0.8, '0': 0}.get(key, 1.25) })")
        elif key in "123":
            controls.base.value = ["Image", *MAPS][int(key) - 1]
        elif key == "?":
            show_keys()
        elif not ready() or event.action.repeat:
            return
        elif key in switches:
            switches[key].value = not switches[key].value
        elif key in actions:
            done = actions[key]()
            if inspect.isawaitable(done):
                await done

    ui.keyboard(press, ignore=["input", "textarea", "select"])
