"""What the page does in another thread, so that it answers meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from nicegui import run

from ...errors import InputError
from .controls import Controls

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Asking:
    """One question at a time: an answer that comes after the next question is dropped.

    Args:
        controls: show that something is on its way, and what went wrong.

    Attributes:
        number: counts the questions.
    """

    def __init__(self, controls: Controls) -> None:
        self.controls = controls
        self.number = 0

    async def ask(self, function: Callable[..., T], *arguments: Any) -> T | None:
        """The function's result; ``None`` if it failed, or something else was asked for since."""
        self.number += 1
        number = self.number
        self.controls.spinner.visible = True
        failure = ""
        result = None
        try:
            result = await run.io_bound(function, *arguments)
        except InputError as error:
            failure = str(error)
        except Exception as error:  # whatever it is, the page must not wait for ever
            failure = f"Unexpected error, please report it: {type(error).__name__}: {error}"
            if number == self.number:
                logger.exception("The page could not do what it was asked for")
        if number != self.number:
            return None
        self.controls.spinner.visible = False
        if failure:
            self.controls.say(failure, wrong=True)
        return result
