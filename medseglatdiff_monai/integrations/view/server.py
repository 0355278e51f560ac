"""The server of the page: who may ask it, and a page for each visitor."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from nicegui import app, ui
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ...bundle.segmenter import Segmenter
from .bundles import Bundles
from .controls import Controls
from .guard import HOST, Gate, Guard
from .page import Page
from .queue import open_first


def serve(
    segmenter: Segmenter,
    path: str | Path | None,
    raters: str | Sequence[str] | None,
    point: Sequence[float] | None,
    num_samples: int,
    seed: int,
    port: int,
    show: bool,
    labels: str | Path,
) -> None:
    """Serve the page until it is interrupted; the arguments are those of `view`, checked."""
    # Before the browser opens: a wrong path is an error of the command.
    opened = None if path is None else open_first(path, segmenter, raters, labels)
    # A page elsewhere must not reach this one under another name that leads to 127.0.0.1.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    address = f"http://{HOST}:{port}"
    # Flushed: the address is wanted now, also through a pipe.
    gate = Gate(port, lambda path: print(f"For another browser: {address}{path}", flush=True))
    app.add_middleware(Guard, gate=gate)
    lock = threading.Lock()
    bundles = Bundles(segmenter, seed)

    def root() -> None:
        Page(bundles, lock, Controls(bundles.names, path, raters, num_samples, seed), opened, point, labels)

    print(f"Open {address}{gate.path} (Ctrl-C ends it)", flush=True)
    # A browser that was busy for a while comes back to the same page; without the last messages it would load again.
    ui.run(
        root, host=HOST, port=port, title="medseglatdiff", favicon="🫁", reload=False,
        show=gate.path if show else False, show_welcome_message=False, message_history_length=100,
        reconnect_timeout=30.0,
    )  # fmt: skip
