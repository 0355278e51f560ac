"""The samples as choices: in an order in which neighbours look alike, and in kinds where they fall into kinds."""

from __future__ import annotations

import itertools
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.ndimage import binary_dilation
from scipy.spatial.distance import squareform

from ...metrics.distances import pairwise_iou_distance
from .picture import encode

# Samples that overlap less than this on average (IoU) are of different kinds; with more kinds than this there are none,
# the samples merely vary.
SAME_KIND, MOST_KINDS = 0.5, 4
# Kinds whose median areas differ by this factor are told apart by size.
OTHER_SIZE = 1.25
SIZE_NAMES = {1: ("marked",), 2: ("small", "large"), 3: ("small", "medium", "large"),
              4: ("smallest", "small", "large", "largest")}  # fmt: skip
# Side of a thumbnail, pixels; samples are compared on at most this many pixels.
THUMBNAIL, COMPARED = 72, 1 << 16


@dataclass(frozen=True)
class Kind:
    """Samples that look alike.

    Attributes:
        name: e.g. "small".
        members: their numbers, in order.
    """

    name: str
    members: tuple[int, ...]


def find_box(samples: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the square around all samples (N, S, H, W), with a margin; all of them if all are empty."""
    seen: np.ndarray = np.asarray(samples.any((0, 1)))
    if not seen.any():
        return slice(0, seen.shape[0]), slice(0, seen.shape[1])
    ends = [np.flatnonzero(seen.any(axis))[[0, -1]] for axis in (1, 0)]
    side = int(max(16, 1.3 * max(last - first + 1 for first, last in ends)))
    starts = [
        max(0, min(int(first + last - side) // 2, length - side))
        for (first, last), length in zip(ends, seen.shape, strict=True)
    ]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def _thin_out(samples: np.ndarray) -> np.ndarray:
    """Samples (N, S, h, w) of the part around them, with at most some `COMPARED` pixels each."""
    rows, columns = find_box(samples)
    part = samples[:, :, rows, columns]
    step = max(1, round(np.sqrt(part[0].size / COMPARED)))
    return part[:, :, ::step, ::step]


def order_samples(samples: np.ndarray) -> list[int]:
    """Numbers of the samples (N, S, H, W) along the first principal component of the masks, small ones first."""
    flat = _thin_out(samples).reshape(len(samples), -1).astype(np.float32)
    areas = flat.sum(1)
    flat -= flat.mean(0)
    # The scores of the first component are the first eigenvector of the samples' products.
    scores = np.linalg.eigh((flat @ flat.T).astype(float))[1][:, -1]
    if scores @ (areas - areas.mean()) < 0:
        scores = -scores
    # Equal masks stand side by side whatever the rounding.
    return sorted(range(len(samples)), key=lambda i: (round(float(scores[i]), 6), areas[i], i))


def group_samples(samples: np.ndarray, order: Sequence[int], nothing: str) -> list[Kind]:
    """The kinds of the samples (N, S, H, W), small ones first; an empty list if there is but one.

    Args:
        samples: the masks.
        order: from :func:`order_samples`.
        nothing: name of the empty ones, e.g. "no nodule".
    """
    part = _thin_out(samples)
    areas = part.sum((1, 2, 3))
    members = {"": [i for i in order if areas[i] == 0]}
    filled = [i for i in order if areas[i] > 0]
    if len(filled) > 1:
        distances = pairwise_iou_distance(part[None, filled], part[None, filled])[0].numpy()
        tree = linkage(squareform(distances, checks=False), "average")
        labels = fcluster(tree, SAME_KIND, "distance")
        members |= {str(label): [i for i, own in zip(filled, labels, strict=True) if own == label] for label in labels}
    elif filled:
        members["1"] = filled
    kinds = sorted((kind for kind in members.values() if kind), key=lambda kind: float(np.median(areas[kind])))
    if not 1 < len(kinds) <= MOST_KINDS:
        return []
    empty = [nothing] if members[""] else []
    sizes = [float(np.median(areas[kind])) for kind in kinds[len(empty) :]]
    by_size = all(large >= OTHER_SIZE * small for small, large in itertools.pairwise(sizes))
    names = SIZE_NAMES[len(sizes)] if by_size else [f"form {letter}" for letter in string.ascii_uppercase[: len(sizes)]]
    return [Kind(name, tuple(kind)) for name, kind in zip([*empty, *names], kinds, strict=True)]


def describe_kinds(kinds: Sequence[Kind], count: int) -> str:
    """The kinds and their shares of `count` samples: ``"no nodule 25 %, small 50 %, large 25 %"``."""
    return ", ".join(f"{kind.name} {100 * len(kind.members) / count:.0f} %" for kind in kinds)


def render_thumbnail(pixels: np.ndarray, mask: np.ndarray, box: tuple[slice, slice], colour: str) -> str:
    """PNG of a part of the image with the outline of a mask, as a data URI.

    Args:
        pixels: (H, W) or (H, W, 3) uint8.
        mask: (H, W) bool.
        box: rows and columns, from :func:`find_box`.
        colour: of the outline, ``#rrggbb``.
    """
    image, inside = Image.fromarray(pixels[box]).convert("RGB"), Image.fromarray(mask[box])
    scale = THUMBNAIL / max(image.size)
    size = round(image.width * scale), round(image.height * scale)
    thumbnail, shape = (np.array(part.resize(size, Image.Resampling.NEAREST)) for part in (image, inside))
    thumbnail[binary_dilation(shape, iterations=2) & ~shape] = tuple(bytes.fromhex(colour[1:]))
    return encode(thumbnail)
