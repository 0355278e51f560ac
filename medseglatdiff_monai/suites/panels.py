"""The panels of a suite's report: raters beside samples, as PNG inside the page."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..io.prepared import LoadCase
from ..plots.comparison import ComparedCase, plot_comparison
from ..plots.panel import plot_panel
from .request import Request
from .scoring import Scored


def choose_panels(request: Request, scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """What the report shows: a system's name, and of each of its cases ``case``, ``image`` and ``samples`` (paths)."""
    items = {item["case"]: item for item in request.info[request.split]}
    panels = []
    for part in scored:
        number = part.evaluation.panels
        if not number:
            continue
        frame = next(iter(part.frames.values()))
        # Cases in which the raters marked something, spread over the data set.
        marked = frame[frame["dice"].notna()].index if "dice" in frame else frame.index
        shown = list(marked if len(marked) else frame.index)
        cases = [shown[i * len(shown) // number] for i in range(min(number, len(shown)))]
        panels.append(
            {
                "system": part.member.system.name,
                "cases": [
                    {
                        "case": case,
                        "image": request.dataset_dir / items[case]["image"],
                        "samples": part.folder / "samples" / f"{case}.npz",
                    }
                    for case in cases
                ],
            }
        )
    return panels


def render_panels(entry: Mapping[str, Any]) -> list[dict[str, str]]:
    """Title and PNG, in base64: raters beside samples for all cases of a system, and its first case in detail."""
    cases = []
    for case in entry["cases"]:
        with np.load(case["samples"]) as saved:
            arrays = {name: saved[name] for name in ("samples", "raters", "confidence", "consensus")}
        cases.append((case["case"], _fit(_grey_or_rgb(case["image"]), arrays["samples"].shape[1:]), arrays))
    compared = [ComparedCase(name, image, a["raters"], a["samples"]) for name, image, a in cases]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "panel.png"
        plot_comparison(compared, path, entry["system"], "Raters and samples of the same cases")
        rendered = [{"title": f"{entry['system']}: raters and samples", "png": _base64(path)}]
        name, image, arrays = cases[0]
        p = arrays["confidence"].astype(float).clip(1e-9, 1 - 1e-9)
        entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
        plot_panel(
            image, arrays["samples"], arrays["confidence"], arrays["consensus"], entropy.clip(0, 1), path, name,
            entry["system"],
        )  # fmt: skip
        rendered.append({"title": f"{entry['system']}: {name}", "png": _base64(path)})
    return rendered


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
