"""A suite's remarks: what it left out, what failed, what does not apply."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from .member import Member

logger = logging.getLogger(__name__)


class Notes:
    """Collects the remarks of one call, which go into ``results.json``.

    Attributes:
        left_out: what was left out, and why.
        failures: what failed, and with which message.
        warnings: what was scored and must not be taken for more than it is.
        not_applicable: figure → why it is undefined.
        refused: runs whose weights must not be scored.
    """

    def __init__(self) -> None:
        self.left_out: list[dict[str, str]] = []
        self.failures: list[dict[str, str]] = []
        self.warnings: list[str] = []
        self.not_applicable: dict[str, str] = {}
        self.refused: set[Path] = set()
        self._explained: set[tuple[str, int]] = set()

    def leave_out(self, what: str, why: str) -> None:
        """Note that something was left out."""
        logger.info("Left out: %s: %s", what, why)
        self.left_out.append({"what": what, "why": why})

    def warn_of_empty_masks(self, what: str, summary: Mapping[str, Any]) -> None:
        """Note that all masks of a member are empty where the raters' are not: its figures say nothing of the system.

        Args:
            what: the member and the evaluation.
            summary: of the evaluation's ``metrics.json``.
        """
        if summary.get("samples_nonempty") == 0 and summary.get("raters_nonempty"):
            text = f"{what}: all its masks are empty. It was trained for too little time to be compared."
            logger.warning(text)
            self.warnings.append(text)

    def fail(self, what: str, error: Exception) -> None:
        """Note that something failed; an unexpected error is logged with its traceback."""
        logger.error("Failed: %s: %s", what, error)
        if not isinstance(error, InputError):
            logger.error("This is unexpected:", exc_info=error)
        self.failures.append({"what": what, "message": str(error) or type(error).__name__})

    def explain(self, member: Member, why: str, part: str = "") -> None:
        """Note why a member, or a part of its work, is left out."""
        self._explained.add((member.system.name, member.seed))
        self.leave_out(f"{member.label}, {part}" if part else member.label, why)

    def refuse(self, member: Member, error: Exception) -> None:
        """Note that a member's training failed: weights may lie there, but not those that this call asks for."""
        self.refused.add(member.run)
        self._explained.add((member.system.name, member.seed))
        self.fail(f"{member.label}, training", error)

    def explains(self, member: Member) -> bool:
        """Whether the absence of a member is explained."""
        return (member.system.name, member.seed) in self._explained
