"""Pictures of the report: sizes of the samples, of the consensus by threshold, and the confidence slice by slice."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .panel import CONSENSUS_COLOUR, SAMPLE_COLOUR, TEXT_COLOUR, outline

__all__ = ["THRESHOLDS", "plot_sizes", "plot_slices"]

THRESHOLDS = tuple(np.linspace(0.05, 0.95, 19).tolist())
MAX_SLICES = 12


def plot_sizes(measure: Mapping[str, Any], by_threshold: Sequence[float], threshold: float) -> bytes:
    """PNG: left the samples in order of size with their interval, right the consensus's size at other thresholds.

    Args:
        measure: ``name`` and ``unit`` of a size; its values ``consensus``, ``samples`` and ``interval``, or ``None``.
        by_threshold: size of the consensus at each of ``THRESHOLDS``.
        threshold: of the consensus.
    """
    name, consensus = measure["name"], measure["consensus"]
    figure = _make_figure(2.7)
    left, right = figure.subplots(1, 2)
    values = np.sort(np.asarray(measure["samples"], dtype=float))
    left.bar(np.arange(1, len(values) + 1), values, color=SAMPLE_COLOUR, width=0.75)
    band = ""
    if measure["interval"] is not None:
        left.axhspan(*measure["interval"], color="#888888", alpha=0.18, linewidth=0)
        band = "grey: 5th to 95th percentile · "
    left.axhline(consensus, color=CONSENSUS_COLOUR, linewidth=2)
    left.set_title(f"{name} of each sample, sorted", fontsize=9.5, loc="left", color=TEXT_COLOUR)
    left.set_xlabel(f"{band}line: consensus", fontsize=8, color="#666666")
    left.set_xticks([1, len(values)] if len(values) > 1 else [1])
    right.plot(THRESHOLDS, by_threshold, color=CONSENSUS_COLOUR, linewidth=2)
    right.axvline(threshold, color="#888888", linewidth=1, linestyle=":")
    right.set_title(f"{name} by consensus threshold", fontsize=9.5, loc="left", color=TEXT_COLOUR)
    right.set_xlabel("share of samples that a voxel needs · dotted: the one used", fontsize=8, color="#666666")
    top = 1.08 * max(float(values.max()), max(by_threshold), consensus) or 1.0
    for axes in (left, right):
        axes.set_ylim(0.0, top)
        axes.set_ylabel(measure["unit"], fontsize=8.5, color=TEXT_COLOUR)
        axes.tick_params(labelsize=8, colors="#555555")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return _save(figure)


def plot_slices(confidence: np.ndarray, consensus: np.ndarray) -> bytes:
    """PNG: confidence of each slice from the feet to the head with the consensus's outline, cropped around it.

    Args:
        confidence: (S, H, W) in [0, 1].
        consensus: (S, H, W) bool.
    """
    count = len(confidence)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_SLICES)).round().astype(int))
    rows = -(-len(chosen) // 6)
    part = _part_with_confidence(confidence)
    figure = _make_figure(9.6 / 6 * rows + 0.35)
    grid = figure.subplots(rows, 6, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, number in zip(grid.flat, chosen, strict=False):
        axes.imshow(confidence[number][part], cmap="magma", vmin=0.0, vmax=1.0, interpolation="nearest")
        outline(axes, consensus[number][part], CONSENSUS_COLOUR, width=1.0)
        axes.set_title(f"slice {number + 1} of {count}", fontsize=8, color=TEXT_COLOUR, pad=2)
    return _save(figure)


def _make_figure(height: float) -> Any:
    # Without pyplot: no window, no global state.
    from matplotlib.figure import Figure

    return Figure(figsize=(9.6, height), facecolor="white", layout="constrained")


def _save(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()


def _part_with_confidence(confidence: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a square around all voxels (S, H, W) with confidence, or the whole plane without any."""
    rows, columns = np.nonzero(confidence.max(0) > 0)
    if not len(rows):
        return slice(None), slice(None)
    half = max(np.ptp(rows), np.ptp(columns)) // 2 + 5
    middle = (rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2
    top, left = (max(0, int(place) - half) for place in middle)
    bottom, right = (min(side, int(place) + half + 1) for place, side in zip(middle, confidence.shape[1:], strict=True))
    return slice(top, bottom), slice(left, right)
