"""Pictures of the report: sizes of the samples, of the consensus by threshold, and the confidence slice by slice."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .panel import CONSENSUS_COLOUR, SAMPLE_COLOUR, TEXT_COLOUR, outline

THRESHOLDS = tuple(np.linspace(0.05, 0.95, 19).tolist())
SLICES_PER_ROW = 6


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
    left.set_xlabel(f"{band}line: consensus at threshold {threshold:g}", fontsize=8, color="#666666")
    left.set_xticks([1, len(values)] if len(values) > 1 else [1])
    right.plot(THRESHOLDS, by_threshold, color=CONSENSUS_COLOUR, linewidth=2)
    right.axvline(threshold, color="#888888", linewidth=1, linestyle=":")
    right.set_title(f"{name} by consensus threshold", fontsize=9.5, loc="left", color=TEXT_COLOUR)
    right.set_xlabel("share of samples that a pixel needs · dotted: the one used", fontsize=8, color="#666666")
    top = 1.08 * max(float(values.max()), max(by_threshold), consensus) or 1.0
    for axes in (left, right):
        axes.set_ylim(0.0, top)
        axes.set_ylabel(measure["unit"], fontsize=8.5, color=TEXT_COLOUR)
        axes.tick_params(labelsize=8, colors="#555555")
        axes.spines[["top", "right"]].set_visible(False)
    return _save(figure)


def plot_slices(
    image: np.ndarray | None, confidence: np.ndarray, consensus: np.ndarray, clicked: int | None = None
) -> bytes:
    """PNG: every slice from the feet to the head with its confidence and the consensus's outline, cropped around both.

    Args:
        image: (S, H, W) grey, shown below from its minimum to its maximum in that part; ``None`` leaves it black.
        confidence: (S, H, W) in [0, 1].
        consensus: (S, H, W) bool.
        clicked: number of the slice that gets a frame.
    """
    count = len(confidence)
    rows = -(-count // SLICES_PER_ROW)
    part = (slice(None), *_part_with_confidence(confidence))
    confidence, consensus = confidence[part], consensus[part]
    image = np.zeros_like(confidence) if image is None else image[part]
    figure = _make_figure(9.6 / SLICES_PER_ROW * 1.12 * rows + 0.1)
    grid = figure.subplots(rows, SLICES_PER_ROW, squeeze=False)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    for number, axes in enumerate(grid.flat[:count]):
        axes.set(xticks=[], yticks=[])
        axes.imshow(image[number], cmap="gray", vmin=image.min(), vmax=image.max(), interpolation="nearest")
        share = np.ma.masked_less_equal(confidence[number], 0.0)
        axes.imshow(share, cmap="magma", vmin=0.0, vmax=1.0, alpha=0.4, interpolation="nearest")
        outline(axes, consensus[number], CONSENSUS_COLOUR, width=1.0)
        name, weight = f"{number + 1} of {count}", "normal"
        if number == clicked:
            name, weight = f"{name}, clicked", "bold"
        axes.set_title(name, fontsize=8, weight=weight, color=TEXT_COLOUR, pad=3)
        axes.spines[:].set(visible=number == clicked, color=SAMPLE_COLOUR, linewidth=3.0)
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
