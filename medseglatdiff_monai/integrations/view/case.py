"""The content of the page, without the page: an opened image, and the ensemble sampled of it.

A volume is segmented slice by slice from the clicked one as `predict` does, so that the page and the command give the
same numbers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor

from ...bundle.segmenter import Segmenter
from ...ensemble.inferer import EnsembleInferer
from ...errors import InputError
from ...io.places import find_points
from ...io.planes import find_slice_axis, index_to_point
from ...io.reading import NiftiInput, RasterInput, VolumeInput, open_input
from ...metrics.energy import generalized_energy_distance
from ...metrics.matching import hungarian_matched_iou
from ...metrics.overlap import dice_score, iou_score
from ...predict.ensemble import Ensemble, stack_planes
from ...predict.image import segment_image
from ...predict.nodule import segment_nodule
from .raters import cut_masks, load_masks, open_mask_volume


@dataclass(frozen=True)
class Shown:
    """What the page shows of an ensemble.

    Attributes:
        ensemble: over S slices, 1 for a picture.
        sampling: how it was sampled.
        raters: raters' masks (R, S, h, w) bool, or ``None``.
        notes: remarks for whoever reads the sizes.
    """

    ensemble: Ensemble
    sampling: EnsembleInferer
    raters: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @property
    def threshold(self) -> float:
        """Of the consensus, as the bundle has it."""
        return self.sampling.threshold

    def compare(self, threshold: float) -> dict[str, Any]:
        """The consensus at a threshold against each rater, and the ensemble against all of them.

        Returns:
            ``raters``: for each rater ``dice`` and ``iou`` over all slices (both empty → 1); ``ged`` (V-statistic)
            and ``hm_iou`` of the ensemble, which no threshold changes.

        Raises:
            InputError: there are no raters' masks.
        """
        if self.raters is None:
            raise InputError("No raters' masks are open; give them with --raters.")
        # The functions take (B, N, H, W[, D]).
        ours = np.broadcast_to(self.ensemble.consensus(threshold), self.raters.shape)[None]
        dice, iou = (score(ours, self.raters[None], ignore_empty=False)[0] for score in (dice_score, iou_score))
        raters = [{"dice": float(dice[i]), "iou": float(iou[i])} for i in range(len(self.raters))]
        return {"raters": raters, **self._ensemble_scores}

    @functools.cached_property
    def _ensemble_scores(self) -> dict[str, float]:
        assert self.raters is not None  # `compare` has looked
        ours, truth = self.ensemble.samples[None], self.raters[None]
        return {
            "ged": float(generalized_energy_distance(ours, truth)[0]),
            "hm_iou": float(hungarian_matched_iou(ours, truth)[0]),
        }


@dataclass(frozen=True)
class OpenCase:
    """An opened image, from which slices are shown and ensembles are sampled.

    Attributes:
        source: what was opened.
        raters: raters' masks (R, H, W) bool of a picture, opened mask volumes of a volume, or ``None``.
        segmenter: the loaded bundle.
        num_slices: from the feet upwards; 1 for a picture.
        needs_point: whether it must be said where the nodule is.
    """

    source: RasterInput | VolumeInput
    raters: np.ndarray | tuple[NiftiInput, ...] | None
    segmenter: Segmenter
    num_slices: int
    needs_point: bool
    cut_plane: Callable[[int], MetaTensor | None]

    def read_slice(self, number: int) -> MetaTensor:
        """Whole slice `number`, counted from the feet: (C, h, w), its affine from (row, column, 0) to RAS mm."""
        plane = self.cut_plane(number)
        if plane is None:
            raise InputError(f"{self.source.path}: no slice {number}; expected 0 to {self.num_slices - 1}.")
        return plane

    def find_slice(self, point: Sequence[float]) -> int:
        """Number of the slice of an LPS point, for `read_slice`."""
        assert isinstance(self.source, VolumeInput)
        index = self.source.find_slice(point)
        return index if find_slice_axis(self.source.affine)[1] > 0 else self.num_slices - 1 - index

    def pixel_to_point(self, number: int, row: float, column: float) -> tuple[float, float, float]:
        """LPS millimetres of a pixel of slice `number`."""
        x, y, z = index_to_point((row, column, 0.0), np.asarray(self.read_slice(number).affine, dtype=float))
        return round(float(x), 3), round(float(y), 3), round(float(z), 3)

    def segment(
        self,
        num_samples: int,
        num_inference_steps: int,
        seed: int,
        point: Sequence[float] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Shown:
        """Sample the ensemble.

        Args:
            num_samples: masks.
            num_inference_steps: denoiser calls per mask.
            seed: seed of the noise.
            point: LPS millimetres of the nodule, for a volume.
            progress: called with the number of slices that are done.

        Raises:
            InputError: a number below 1, a point that is missing, not needed or outside, raters' masks that do not
                fit, an image that the network cannot take.
        """
        segmenter = self.segmenter
        sampling = dataclasses.replace(
            segmenter.inferer, num_samples=num_samples, num_inference_steps=num_inference_steps, seed=seed
        )
        places = [] if point is None else [("point", tuple(float(value) for value in point))]
        points = find_points(self.source, places, segmenter.crop_size is not None, segmenter.bundle_dir.name)
        if len(points):
            assert isinstance(self.source, VolumeInput)  # find_points refuses places in a picture
            found = segment_nodule(segmenter, self.source, points[0], sampling, progress=progress)
        else:
            found = stack_planes([segment_image(segmenter, self.source, sampling)])
            if progress is not None:
                progress(1)
        reasons = {"volume": "the scan ends", "reach": "the search ended"}
        notes = () if found.voxel_mm3 is None else tuple(found.note_cut_ends(reasons))
        raters = cut_masks(self.raters, found.planes, segmenter.crop_size)
        return Shown(found, sampling, raters, notes)


def open_case(
    path: str | Path, segmenter: Segmenter, raters: str | Path | Sequence[str | Path] | None = None
) -> OpenCase:
    """Open an image for the page.

    Args:
        path: PNG, JPEG or NIfTI file, or a folder with one DICOM series.
        segmenter: the loaded bundle.
        raters: masks to compare with: a file of a prepared folder (``masks/CASE.nii.gz``, one channel per rater),
            one PNG or NIfTI per rater, or for a volume one NIfTI per rater on the volume's own grid. Several as a
            list, or text with commas between.

    Raises:
        InputError: see :func:`~medseglatdiff_monai.io.open_input`; masks of another size or grid than the image.
    """
    source = open_input(path, segmenter.in_channels)
    names = [part.strip() for part in raters.split(",")] if isinstance(raters, str) else raters
    paths = [Path(name) for name in ([names] if isinstance(names, Path) else names or []) if str(name)]
    if isinstance(source, RasterInput) or not source.needs_place:
        # A NIfTI of one slice is taken as a crop, as `predict` does.
        plane = source.read_plane()
        masks = load_masks(paths, (int(plane.shape[1]), int(plane.shape[2])), source)
        return OpenCase(source, masks, segmenter, 1, False, lambda number: plane if number == 0 else None)
    middle = [(side - 1) / 2 for side in source.shape]
    # Checks that the bundle takes volumes at all.
    anywhere = tuple(index_to_point(middle, source.affine).tolist())
    find_points(source, [("point", anywhere)], segmenter.crop_size is not None, segmenter.bundle_dir.name)
    axis, sign = find_slice_axis(source.affine)
    feet = middle.copy()
    feet[axis] = 0 if sign > 0 else source.shape[axis] - 1
    cut_plane = source.open_planes(index_to_point(feet, source.affine).tolist(), None)
    volumes = tuple(open_mask_volume(entry, source) for entry in paths) or None
    return OpenCase(source, volumes, segmenter, source.shape[axis], True, cut_plane)
