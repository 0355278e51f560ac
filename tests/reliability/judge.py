"""How an input ends: refused by a message that names it, read as an independent reader reads it, or wrong."""

from __future__ import annotations

import shutil
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from bad_inputs import Input
from record import keep

from medseglatdiff_monai.errors import InputError

SECONDS = 60
JPEG_LEVELS, CHANGED_JPEG = 20.0, "b.jpg"
Reading = list[np.ndarray]


class _Hang(BaseException):
    """No Exception: what is tested catches these."""


@contextmanager
def _bounded(seconds: int = SECONDS) -> Iterator[None]:
    """Raise `_Hang` in what takes longer."""

    def stop(number: int, frame: Any) -> None:
        raise _Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def judge(
    path: Path,
    folder: Path,
    read: Callable[[Path], Reading],
    independent: Callable[[Path], Reading],
    arguments: Collection[str] = (),
) -> str:
    """``refused`` by a message that names a file of the folder or an argument, ``equal``, or what is wrong."""
    try:
        with _bounded():
            found = read(path)
    except InputError as error:
        message = str(error)
        named = str(folder) in message or any(word in message for word in arguments)
        return "refused" if named and len(message) < 1500 else f"unclear: {message[:300]}"
    except _Hang:
        return "hang"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {str(error)[:200]}"
    try:
        expected = independent(path)
    except Exception as error:
        return f"read, but by no independent reader: {type(error).__name__}: {str(error)[:200]}"
    for ours, theirs in zip(found, expected, strict=True):
        if ours.dtype.kind == "U":
            if not np.array_equal(ours, theirs):
                return f"silently wrong: {ours}, expected {theirs}"
            continue
        if ours.shape != theirs.shape:
            return f"silently wrong: shape {ours.shape}, expected {theirs.shape}"
        atol = 1e-3
        if path.is_file() and path.read_bytes()[:2] == b"\xff\xd8":
            # Decoders differ in how they smooth blocks and colours. Without a check sum a changed byte is read as it
            # stands, and such blocks have values far out of range, which each decoder cuts off in its own way.
            atol = np.inf if path.name == CHANGED_JPEG else JPEG_LEVELS
        # pixdim and sform may differ a little, and readers differ in which they take.
        rtol = 0.01 if ours.shape == (4, 4) else 1e-5
        if not np.allclose(ours, theirs, rtol=rtol, atol=atol, equal_nan=True):
            return f"silently wrong: up to {np.nanmax(np.abs(ours.astype(float) - theirs)):g} off"
    return "equal"


def try_all(
    name: str,
    inputs: Iterable[Input],
    folder: Path,
    read: Callable[[Path], Reading],
    independent: Callable[[Path], Reading],
    title: str,
    arguments: Collection[str] = (),
) -> Counter[str]:
    """Try each input in a folder of its own; nothing but refused and equal may come out."""
    ends: Counter[str] = Counter()
    failed = {}
    for number, entry in enumerate(inputs):
        own = folder / str(number)
        own.mkdir(parents=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outside = set(folder.iterdir())
            end = judge(entry.write(own), own, read, independent, arguments)
        if set(folder.iterdir()) != outside:
            end = "written outside"
        ends[end.partition(":")[0]] += 1
        if end not in ("refused", "equal"):
            failed[entry.name] = end
        shutil.rmtree(own)
    keep(name, title, {end: ends[end] for end in ("refused", "equal")}, len(failed))
    assert not failed, "\n" + "\n".join(f"{name}: {end}" for name, end in failed.items())
    return ends
