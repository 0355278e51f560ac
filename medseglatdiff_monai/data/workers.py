"""The worker processes that read and write cases."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from ..console import Progress, set_up_console
from ..errors import InputError
from .case_files import write_case
from .journal import Journal, stamp_files
from .sources.source import Case, LeftOut, Source


def read_cases(
    instance: Source,
    cases: list[Case],
    kept: dict[str, dict[str, Any]],
    journal: Journal,
    output: Path,
    workers: int,
) -> dict[str, dict[str, Any]]:
    """Read and write every case that is not finished; returns the journal's record of each case."""
    stamps = {case.key: stamp_files(case.files) for case in cases}
    records = {key: record for key, record in kept.items() if stamps.get(key) == record["stamp"]}
    todo = [case for case in cases if case.key not in records]
    # Whatever an earlier dataset.json says, it is true again only when this run has finished.
    if todo:
        (output / "dataset.json").unlink(missing_ok=True)
    owners = {item["case"]: key for key, record in records.items() for item in record["items"]}

    with journal.open(records) as handle, Progress("Preparing", len(cases), "cases", len(records)) as progress:
        for name in ("images", "masks"):
            (output / name).mkdir(exist_ok=True)

        def finish(case: Case, record: dict[str, Any]) -> None:
            for item in record["items"]:
                owner = owners.setdefault(item["case"], case.key)
                if owner != case.key:
                    raise InputError(f"{case.key} and {owner} both give the case {item['case']!r}; rename one of them.")
            journal.append(handle, record)
            records[case.key] = record
            progress.update()

        if min(workers, len(todo)) <= 1:
            for case in todo:
                finish(case, _read_case(instance, case, output))
            return records
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(workers, len(todo)), mp_context=context, initializer=_start_worker)
        try:
            # Hand out only a few cases ahead: an interruption then waits only for what is being read.
            waiting = iter(todo)
            first = itertools.islice(waiting, 4 * workers)
            running = {pool.submit(_read_case, instance, case, output): case for case in first}
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    finish(running.pop(future), future.result())
                    following = next(waiting, None)
                    if following is not None:
                        running[pool.submit(_read_case, instance, following, output)] = following
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"prepare: a worker process died (killed, or out of memory) after {len(records)} of {len(cases)} "
                "units; the finished ones are kept: run the same command again, with fewer --workers if memory was "
                "short. A script that calls prepare() needs 'if __name__ == \"__main__\":' around it, or workers=1."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return records


def _start_worker() -> None:
    """Set up a worker: Ctrl-C is the main process's business, and a worker does not outlive it."""
    set_up_console()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()


def _read_case(instance: Source, case: Case, output: Path) -> dict[str, Any]:
    """Read a case and write what it gives; if that fails, its files are removed again."""
    items: list[dict[str, Any]] = []
    layouts: list[list[Any]] = []
    left_out: Counter[str] = Counter()
    written: list[Path] = []
    stamp = stamp_files(case.files)  # before it is read: what changes meanwhile is read again next time
    try:
        for result in instance.read(case):
            if isinstance(result, LeftOut):
                left_out[result.reason] += result.count
                continue
            item, layout = write_case(result, case.group, output, written)
            items.append(item)
            layouts.append(layout)
    except BaseException as error:
        for path in written:
            path.unlink(missing_ok=True)
        if isinstance(error, (InputError, KeyboardInterrupt, SystemExit)):
            raise
        raise RuntimeError(f"prepare: {case.key}: {type(error).__name__}: {error}") from error
    return {
        "stub": case.key,
        "stamp": stamp,
        "items": items,
        "layouts": layouts,
        "left_out": dict(sorted(left_out.items())),
    }
