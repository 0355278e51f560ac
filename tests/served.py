"""The page of `view`, served by the real command in a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def served(folder: Path, *arguments: object) -> Iterator[str]:
    """The real command; yields the address that it prints."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    # pytest's own variable would make NiceGUI believe that it is under test.
    environment.pop("PYTEST_CURRENT_TEST", None)
    log = folder / "view.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "medseglatdiff_monai", "view", *map(str, arguments), "--port", str(port),
             "--show", "False"],
            stdout=stream, stderr=subprocess.STDOUT, env=environment, cwd=folder,
        )  # fmt: skip
    try:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.2)
        (address,) = re.findall(r"^Open (\S+) ", log.read_text(), re.MULTILINE)
        assert address.startswith(f"http://127.0.0.1:{port}/?token=")
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)
    assert "Traceback" not in log.read_text(), log.read_text()
