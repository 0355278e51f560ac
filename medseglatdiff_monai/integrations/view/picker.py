"""The dialog in which a file, or the folder of a DICOM series, is picked; nothing is uploaded, no copies are left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from nicegui import ui

from ...errors import InputError
from .folders import Listing, list_folder

# Entries that are listed at once; a part of the name finds the others.
MOST_LISTED = 200


class Picker(ui.dialog):
    """The dialog, open.

    Args:
        start: file or folder to begin with.
        take: called with the chosen path.
    """

    def __init__(self, start: str, take: Callable[[str], Awaitable[None]]) -> None:
        super().__init__(value=True)
        self.choose = take
        self.found: Listing | None = None
        with self, ui.card().classes("w-[36rem] max-w-full max-h-[80vh] no-wrap"):
            self.title = ui.label().classes("text-sm break-all")
            self.part = ui.input("Part of the name", on_change=self._list).props("dense clearable").classes("w-full")
            self.list = ui.list().props("dense").classes("w-full grow overflow-y-auto")
            with ui.row().classes("w-full justify-end items-center"):
                self.whole = ui.button("Open this folder", on_click=lambda: self._take("."))
                ui.button("Cancel", on_click=self.close).props("flat")
        self._enter(start or ".")

    def _enter(self, folder: str | Path) -> None:
        try:
            self.found = list_folder(folder)
        except InputError as error:
            ui.notify(str(error), type="negative")
            return
        self.title.text = str(self.found.folder)
        count = len(self.found.files) + self.found.others
        self.whole.text = f"Open this folder ({count} files)" if count else "Open this folder"
        self.whole.enabled = count > 0
        self.part.value = ""
        self._list()

    def _list(self) -> None:
        found = self.found
        if found is None:
            return
        part = (self.part.value or "").lower()
        folders, files = ([name for name in names if part in name.lower()] for names in (found.folders, found.files))
        self.list.clear()
        with self.list:
            self._add("arrow_upward", "..", lambda: self._enter(found.folder.parent))
            for name in folders[:MOST_LISTED]:
                self._add("folder", name, lambda name=name: self._enter(found.folder / name))  # type: ignore[misc]
            for name in files[:MOST_LISTED]:
                self._add("image", name, lambda name=name: self._take(name))  # type: ignore[misc]
            left = sum(max(0, len(names) - MOST_LISTED) for names in (folders, files))
            if left:
                ui.label(f"… and {left} more: type a part of the name").classes("view-quiet")

    async def _take(self, name: str) -> None:
        if self.found is not None:
            self.close()
            await self.choose(str(self.found.folder / name))

    @staticmethod
    def _add(icon: str, name: str, act: Callable[[], object]) -> None:
        with ui.item(on_click=act):
            with ui.item_section().props("avatar"):
                ui.icon(icon)
            with ui.item_section():
                ui.label(name).classes("break-all")
