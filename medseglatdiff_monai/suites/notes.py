"""A suite's remarks: what it left out, what failed, what does not apply."""

from __future__ import annotations

import logging
from pathlib import Path

from ..errors import InputError
from .member import Member

logger = logging.getLogger(__name__)


class Notes:
    """Collects the remarks of one call, which go into ``results.json``.

    Attributes:
        left_out: what was left out, and why.
        failures: what failed, and with which message.
        not_applicable: figure → why it is undefined.
        refused: runs whose weights must not be scored.
    """

    def __init__(self) -> None:
        self.left_out: list[dict[str, str]] = []
        self.failures: list[dict[str, str]] = []
        self.not_applicable: dict[str, str] = {}
        self.refused: set[Path] = set()
        self._explained: set[tuple[str, int]] = set()

    def leave_out(self, what: str, why: str) -> None:
        """Note that something was left out."""
        logger.info("Left out: %s: %s", what, why)
        self.left_out.append({"what": what, "why": why})

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
