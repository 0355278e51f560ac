"""What commands print while they work: the package's own lines, a bar on a terminal, a line now and then elsewhere.

The log and the progress go to stderr, results to stdout. Other packages' messages are for whoever writes programs: all
but errors are left out here, in one place.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parent
# What speaks from WARNING on about things that a user can do nothing about; ignite's errors are raised as well.
QUIET = ("alembic", "highdicom", "ignite", "mlflow", "monai.data.image_reader", "onnxscript", "torch.onnx")
# MONAI gives these a level and a handler of their own when it is imported.
QUIET_MODULES = ("monai.bundle.workflows", "monai.data.nvimgcodec_pydicom_plugin")
# Seconds between two lines of progress, and the share of the time so far that replaces them in long runs.
LINE_SECONDS, LINE_SHARE = 5.0, 1 / 60
BAR_SECONDS = 0.5


class _ConsoleHandler(logging.StreamHandler):
    """Writes above the bar of a terminal, not into it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
        with contextlib.nullcontext() if tqdm is None else tqdm.external_write_mode(file=self.stream):
            super().emit(record)


def set_up_console() -> None:
    """Log this package from INFO on and others from WARNING or ERROR on; called by commands and by their workers.

    Warnings of this package become lines of the log, others are left out unless Python was asked for them (``-W``).
    """
    # MLflow gives its loggers their level when it is imported, and reads it here.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_ConsoleHandler()])
    logging.getLogger(__package__).setLevel(logging.INFO)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL if name == "ignite" else logging.ERROR)
    quiet_loaders()
    if not sys.warnoptions:
        warnings.showwarning = _show_warning


def quiet_loaders() -> None:
    """Leave out what MONAI warns of whenever it loads: an absent GPU decoder of DICOM, a bundle's settings of the log.

    Importing this package's readers calls it, so that this is left out for users of its Python functions as well.
    """
    for name in QUIET_MODULES:
        logging.getLogger(name).addFilter(_is_error)
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
    line: str | None = None,
) -> None:  # fmt: skip
    if Path(filename).resolve().is_relative_to(PACKAGE):
        logger.warning("Warning: %s", message)


def count(number: int, noun: str) -> str:
    """A number of things: ``"1 case"``, ``"1,200 cases"``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_duration(seconds: float) -> str:
    """A time in words: ``"40 seconds"``, ``"2.5 minutes"``, ``"3.2 hours"``."""
    if seconds < 59.5:
        number, unit = f"{seconds:.0f}", "second"
    elif seconds < 3597:
        number, unit = f"{seconds / 60:.2g}", "minute"
    else:
        number, unit = f"{seconds / 3600:.1f}", "hour"
    return f"{number} {unit}{'' if number == '1' else 's'}"


class Progress(contextlib.AbstractContextManager["Progress"]):
    """Counted work: a bar on a terminal that vanishes at the end; elsewhere a line of the log now and then.

    Work that is over within seconds has no line, and work of one step has no bar either.

    Args:
        title: what is done, e.g. ``"Preparing"``.
        total: steps.
        unit: what a step is, in the plural.
        done: steps that are done already.
    """

    def __init__(self, title: str, total: int, unit: str = "", done: int = 0) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self._started = self._told = time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty() and total > 1:
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, desc=title, unit=f" {unit}", leave=False, dynamic_ncols=True)

    def __exit__(self, *_: object) -> None:
        """Remove the bar."""
        self.close()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()

    def update(self, steps: int = 1, note: Callable[[], str] | None = None) -> None:
        """Count finished steps; ``note`` is what to say beside the number, and called only when it is shown."""
        self.done += steps
        now = time.monotonic()
        every = BAR_SECONDS if self._bar is not None else max(LINE_SECONDS, (now - self._started) * LINE_SHARE)
        due = now - self._told >= every and self.done < self.total
        text = note() if due and note is not None else ""
        if due:
            self._told = now
        if self._bar is not None:
            if text:
                self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(steps)
        elif due:
            counted = f"{self.done:,} of {self.total:,} {self.unit}".rstrip()
            logger.info("%s: %s%s", self.title, counted, f", {text}" if text else "")
