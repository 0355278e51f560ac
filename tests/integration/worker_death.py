"""What the tests of dying nodes add to a training: rank 1 is killed once, by itself, so that it is certain when."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from ignite.engine import Engine, Events


def attach(trainer: Engine, rank: int, marker: str, node: bool) -> None:
    """Rank 1 dies after the second epoch, unless the file ``marker`` is there; with ``node`` its torchrun dies, too."""

    def die(engine: Engine) -> None:
        if rank == 1 and engine.state.epoch == 2 and not Path(marker).exists():
            Path(marker).touch()
            if node:
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

    trainer.add_event_handler(Events.EPOCH_COMPLETED, die)
