"""A nodule in three dimensions: one mask volume per sample over neighbouring slices.

The network works on axial slices. From the slice of the clicked point it continues towards the head and the feet, at
the same rows and columns, until the consensus is empty. Sample i starts from the same noise in every slice: its slices
then err in the same direction, and the sample's volume Σ area · distance spreads as raters' volumes do, whereas errors
that are independent from slice to slice would cancel in the sum and make the interval too narrow.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from monai.data import MetaTensor

from ..bundle.segmenter import Segmenter
from ..ensemble.inferer import SamplingSettings
from ..errors import InputError
from ..io.reading import VolumeInput
from .arguments import check_range
from .ensemble import Ensemble, stack_planes
from .image import segment_image


def segment_nodule(
    segmenter: Segmenter,
    volume: VolumeInput,
    point: Sequence[float] | np.ndarray,
    sampling: SamplingSettings | None = None,
    slices: int | None = None,
    reach_mm: float = 30.0,
    progress: Callable[[int], None] | None = None,
) -> Ensemble:
    """Sample an ensemble of the nodule at a point of a volume.

    Args:
        segmenter: the loaded bundle.
        volume: the opened NIfTI or series.
        point: (x, y, z), LPS millimetres, inside the volume.
        sampling: by default the bundle's own settings.
        slices: see :func:`follow_nodule`; the clicked slice alone has no volume.
        reach_mm: see :func:`follow_nodule`.
        progress: called with the number of slices that are done.

    Returns:
        The ensemble, (N, S, H, W).

    Raises:
        InputError: ``slices`` or ``reach_mm`` out of range; see
            :func:`~medseglatdiff_monai.predict.image.segment_image`.
    """
    done = itertools.count(1)

    def segment(plane: MetaTensor) -> Ensemble:
        try:
            found = segment_image(segmenter, plane, sampling)
        except ValueError as error:
            raise InputError(f"{volume.path}: {error}") from error
        if progress is not None:
            progress(next(done))
        return found

    # The file does not say how thick a single slice is, and one slice of several is no volume.
    voxel_mm3 = float(abs(np.linalg.det(volume.affine[:3, :3]))) if volume.shape[2] > 1 and slices != 1 else None
    cut_plane = volume.open_planes(np.asarray(point, dtype=float).tolist(), segmenter.crop_size)
    return follow_nodule(cut_plane, segment, slices, reach_mm, voxel_mm3)


def follow_nodule(
    cut_plane: Callable[[int], MetaTensor | None],
    segment: Callable[[MetaTensor], Ensemble],
    slices: int | None = None,
    reach_mm: float = 30.0,
    voxel_mm3: float | None = None,
) -> Ensemble:
    """Segment the clicked slice, then its neighbours up and down until the consensus of one is empty.

    The first slice of empty consensus is kept: single samples may reach into it.

    Args:
        cut_plane: from :meth:`~medseglatdiff_monai.io.VolumeInput.open_planes`.
        segment: gives the ensemble of a plane; sample i must start from the same noise at every call.
        slices: at most this many slices, an odd number with the clicked one in the middle; 1 is the clicked slice
            alone.
        reach_mm: no slice farther than this from the clicked one. A nodule measures at most 30 mm by definition
            (Fleischner Society glossary; beyond it is a mass), so the default takes in all of one wherever it is hit.
        voxel_mm3: handed to the ensemble.

    Raises:
        InputError: ``slices`` is even or less than 1, ``reach_mm`` is negative or not finite.
    """
    check_range(slices, reach_mm)
    first = cut_plane(0)
    assert first is not None  # the slice of a point that is inside
    found: dict[int, Ensemble] = {0: segment(first)}
    ended = []
    affine = np.asarray(first.affine, dtype=float)
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal /= np.linalg.norm(normal)
    for direction in (-1, 1):
        for offset in itertools.count(direction, direction):
            if slices is not None and abs(offset) > slices // 2:
                end = "slices"
            elif (plane := cut_plane(offset)) is None:
                end = "volume"
            elif abs(float(normal @ (np.asarray(plane.affine)[:3, 3] - affine[:3, 3]))) > reach_mm + 1e-3:
                end = "reach"
            else:
                found[offset] = segment(plane)
                if found[offset].fused.any():
                    continue
                end = "empty"
            ended.append(end)
            break
    order = sorted(found)
    return stack_planes([found[offset] for offset in order], order.index(0), (ended[0], ended[1]), voxel_mm3)
