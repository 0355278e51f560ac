"""The panels of a suite's report: raters beside samples, as PNG inside the page."""

from __future__ import annotations

import base64
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..ensemble.summary import measure_entropy
from ..io.prepared import LoadCase
from ..plots.comparison import ComparedCase, plot_comparison
from ..plots.panel import plot_panel
from .request import Request
from .scoring import Scored

logger = logging.getLogger(__name__)


def render_panels(request: Request, scored: Sequence[Scored]) -> list[dict[str, str]]:
    """What the report shows, as title and PNG in base64.

    For each evaluation that asks for panels: raters beside samples for some of its cases, and the first one in detail.
    A codec on its own has no samples, and another program's masks are not kept.
    What cannot be plotted is logged: a report is not lost with a picture.
    """
    panels = []
    for part in scored:
        if part.evaluation.panels and not part.member.system.reconstruction and not part.member.predicted:
            try:
                panels += _render_system(request, part)
            except Exception:
                logger.warning("No panel of %s, %s", part.member.label, part.evaluation.title, exc_info=True)
    return panels


def _render_system(request: Request, part: Scored) -> list[dict[str, str]]:
    items = {item["case"]: item for item in request.info[request.split]}
    number, system = part.evaluation.panels, part.member.system.name
    frame = next(iter(part.frames.values()))
    # Cases in which the raters marked something, spread over the data set.
    marked = frame[frame["dice"].notna()].index if "dice" in frame else frame.index
    shown = list(marked if len(marked) else frame.index)
    cases = []
    for case in [shown[i * len(shown) // number] for i in range(min(number, len(shown)))]:
        with np.load(part.folder / "samples" / f"{case}.npz") as saved:
            masks = dict(saved)
        image = _grey_or_rgb(request.dataset_dir / items[case]["image"])
        cases.append((case, _fit(image, masks["samples"].shape[1:]), masks))
    compared = [ComparedCase(case, image, masks["raters"], masks["samples"]) for case, image, masks in cases]
    case, image, masks = cases[0]
    confidence = masks["confidence"]
    entropy = measure_entropy(torch.from_numpy(confidence)).numpy()
    panels = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "panel.png"
        plot_comparison(compared, path, system, "Raters and samples of the same cases", request.info.get("raters", ()))
        panels.append({"title": f"{system}: raters and samples", "png": _base64(path)})
        plot_panel(image, masks["samples"], confidence, masks["consensus"], entropy, path, case, system)
        panels.append({"title": f"{system}: {case}", "png": _base64(path)})
    return panels


def _grey_or_rgb(path: Path) -> np.ndarray:
    """(H, W) float32 or (H, W, 3) uint8."""
    image = np.asarray(LoadCase()(path))
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0).clip(0, 255).astype(np.uint8)


def _fit(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The centre of an image that was scored on a smaller grid of the same spacing."""
    top, left = ((have - want) // 2 for have, want in zip(image.shape, shape, strict=False))
    return image[top : top + shape[0], left : left + shape[1]] if top >= 0 and left >= 0 else image


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
