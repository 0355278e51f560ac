"""What SIGTERM and SIGINT do to a training: the iteration is finished, the checkpoint written, and the process ends.

Clusters send SIGTERM before they kill. The exit status says that the same command resumes the training.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

# "Temporary failure, try again", of sysexits.h.
RESUMABLE = 75
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(SystemExit):
    """A signal ended the training, and nothing is lost: ends the process with status `RESUMABLE`."""

    def __init__(self, number: int) -> None:
        super().__init__(RESUMABLE)
        self.number = number

    def __str__(self) -> str:
        """For logs; Python itself prints nothing."""
        return f"{signal.Signals(self.number).name}: the same command resumes the training (exit status {RESUMABLE})"


@dataclass
class StopRequest:
    """The signal that has come, and whether a stage is in its iterations."""

    number: int | None = None
    iterating: bool = False

    def raise_if_made(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self.number is not None:
            raise Interrupted(self.number)


# One per process, as signals are.
stop_request = StopRequest()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let signals end the training inside cleanly; outside of the main thread, where Python has none, do nothing.

    Raises:
        Interrupted: a signal came; a stage that was running has written its checkpoint.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            pressed_again = stop_request.number is not None and number == signal.SIGINT
            stop_request.number = number
            # Pressed again: now. What was done since the last checkpoint is done again. And while data are loaded or
            # networks made there is nothing to finish.
            if pressed_again or not stop_request.iterating:
                raise Interrupted(number)
        elif number == signal.SIGTERM:
            # A forked worker of a data loader, which its parent ends in this way; Ctrl-C is the parent's business.
            os._exit(128 + number)

    stop_request.number, stop_request.iterating = None, False
    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
        stop_request.raise_if_made()
    except Interrupted as error:
        # A bundle's logging.conf may send what is logged elsewhere.
        print(error, file=sys.stderr, flush=True)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop_request.number, stop_request.iterating = None, False
