"""The panel of a prediction: what stands in it in words and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..plots.panel import plot_panel
from .ensemble import Ensemble
from .record import describe_steps

__all__ = ["save_panel"]


def save_panel(found: Ensemble, path: Path, title: str, record: Mapping[str, Any]) -> None:
    """Write the PNG of a plane, or of the clicked slice of a nodule: the part that the network saw.

    Args:
        found: the ensemble with its planes.
        path: the PNG.
        title: its first line.
        record: see :func:`~medseglatdiff_monai.predict.record.describe_run`.
    """
    volume = None if found.voxel_mm3 is None else found.volume_mm3()
    shown = found.plane(found.clicked) if found.confidence.ndim == 3 else found
    top, left, bottom, right = shown.seen
    part = (..., slice(top, bottom), slice(left, right))
    image = shown.planes[0].as_tensor().numpy()[part]
    unit, area = "mm²", shown.area_mm2()
    if area is None:
        unit, area = "px", shown.area_pixels()
    what = f"Consensus {area.consensus:.0f} {unit}"
    if volume is not None:
        size = volume.describe()
        low, high = size["interval"]
        what = (
            f"Volume {size['consensus']:.0f} mm³ ({low:.0f} to {high:.0f}), clicked slice: "
            f"consensus {area.consensus:.0f} {unit}"
        )
    plot_panel(
        image[0] if len(image) == 1 else np.clip(image, 0, 255).astype(np.uint8).transpose(1, 2, 0),
        shown.samples[part],
        shown.confidence[part],
        shown.fused[part],
        shown.entropy()[part],
        path,
        title=title,
        subtitle=(
            f"{what}, samples {min(area.samples):.0f} to {max(area.samples):.0f} {unit}  ·  "
            f"{describe_steps(record)}  ·  {record['bundle']}"
        ),
        sample_titles=[
            f"Sample {number}: {f'{size:.0f} {unit}' if size else 'empty'}"
            for number, size in enumerate(area.samples, start=1)
        ],
        confidence_title=None if record["confidence"] == "samples" else f"Confidence ({len(shown.samples)} samples)",
    )
