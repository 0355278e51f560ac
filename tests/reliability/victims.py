"""What the killed processes run. They are forked from a server that has imported everything, which takes seconds."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, BinaryIO

CONTEXT = get_context("forkserver")
PRELOADED = [
    "medseglatdiff_monai.training.stages", "medseglatdiff_monai.training.run", "medseglatdiff_monai.evaluation.run",
    "medseglatdiff_monai.evaluation.result", "medseglatdiff_monai.predict.results", "medseglatdiff_monai.data.prepare",
]  # fmt: skip
CONTEXT.set_forkserver_preload(PRELOADED)
MESSAGE = 3


def start(
    function: str,
    log: Path,
    *arguments: Any,
    death: tuple[str, int, str] | None = None,
    limit: int | None = None,
    argv: Sequence[object] = (),
    **options: Any,
) -> BaseProcess:
    """Run ``module:function`` in a process of its own.

    Args:
        function: where it is.
        log: file for what it prints.
        arguments: of the function.
        death: the process kills itself ``"within"`` its n-th write of files whose names end so, when it is ``"done"``
            but has not got its name, or ``"after"`` it: (ending, n, when).
        limit: no file can have more bytes, as on a full disk.
        argv: words of the command line.
        options: of the function.
    """
    process = CONTEXT.Process(target=_run, args=(function, log, death, limit, argv, arguments, options))
    process.start()
    return process


def _run(
    function: str,
    log: Path,
    death: tuple[str, int, str] | None,
    limit: int | None,
    argv: Sequence[object],
    arguments: tuple,
    options: dict,
) -> None:
    import pkgutil

    from medseglatdiff_monai.errors import InputError

    with log.open("a") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    if argv:
        sys.argv = ["medseglatdiff", *map(str, argv)]
    called = pkgutil.resolve_name(function)
    if death is not None:
        _die_at_write(*death)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        called(*arguments, **options)
    except InputError as error:
        print(error)
        sys.exit(MESSAGE)


def _die_at_write(ending: str, number: int, when: str) -> None:
    from medseglatdiff_monai.networks import weights

    save, count = weights.save_with, 0

    def save_with(write: Callable[[BinaryIO], object], path: str | Path, sync: bool = True) -> None:
        nonlocal count
        count += str(path).endswith(ending)
        if count < number:
            return save(write, path, sync)

        def write_and_die(handle: BinaryIO) -> None:
            write(handle)
            handle.flush()
            if when == "within":
                handle.truncate(handle.tell() // 2)
            os.kill(os.getpid(), signal.SIGKILL)

        save(write if when == "after" else write_and_die, path, sync)
        os.kill(os.getpid(), signal.SIGKILL)

    weights.save_with = save_with


def train_tiny(folder: Path, epochs: int = 6) -> None:
    """A stage of a network of six weights, three iterations per epoch."""
    import torch
    from ignite.engine import Engine

    from medseglatdiff_monai.files import remove_leftovers
    from medseglatdiff_monai.training.checkpoints import StageCheckpoint

    # As a training begins.
    remove_leftovers(folder / "models")
    torch.manual_seed(0)
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)

    def update(engine: Engine, batch: float) -> None:
        optimizer.zero_grad()
        network.weight.square().sum().backward()
        optimizer.step()

    engine = Engine(update)
    StageCheckpoint(network, optimizer, folder / "models" / "model.pt").attach(engine)
    engine.run([0.0, 1.0, 2.0], max_epochs=epochs)
