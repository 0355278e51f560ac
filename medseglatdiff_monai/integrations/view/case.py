"""What the page looks at, without the page: an opened image, the ensemble drawn of it, and sizes at any threshold.

The consensus at a threshold t is confidence ≥ t. A volume is drawn slice by slice from the clicked one as `predict`
does, so that the page and the command give the same numbers.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from monai.data import MetaTensor

from ...bundle.segmenter import Segmenter
from ...errors import InputError
from ...io.places import find_points
from ...io.planes import index_to_point
from ...io.prepared import LoadCase
from ...io.reading import NiftiInput, RasterInput, VolumeInput, open_input
from ...metrics.energy import generalized_energy_distance
from ...metrics.matching import hungarian_matched_iou
from ...metrics.overlap import dice_score, iou_score
from ...predict.image import predict_image
from ...predict.measure import longest_diameter, summarize_values
from ...predict.nodule import Nodule, draw_nodule

__all__ = ["Drawn", "OpenCase", "Sizes", "open_case"]

# Shares such as 3/6 must reach 0.5 whatever the rounding of their mean.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Sizes:
    """Sizes of one mask; ``None`` where the image has no scale, or is no volume.

    Attributes:
        area_pixels: in the slice that is shown.
        area_mm2: the same in mm².
        volume_mm3: over all slices.
        diameter_mm: longest axial one over all slices.
    """

    area_pixels: int
    area_mm2: float | None
    volume_mm3: float | None
    diameter_mm: float | None


@dataclass(frozen=True)
class Drawn:
    """An ensemble over S slices (1 of a picture), from the feet upwards, and the readers' masks where there are any.

    Attributes:
        images: S planes (C, h, w) in the file's own grey values.
        samples: (N, S, h, w) bool.
        confidence: (S, h, w) float32 in [0, 1].
        clicked: the slice of the point.
        seen: (top, left, bottom, right) of the part that the network saw.
        edges: (3, 2), millimetres from row to row and column to column; ``None`` of a picture.
        voxel_mm3: ``None`` where it is no volume.
        threshold: the bundle's.
        readers: (R, S, h, w) bool, or ``None``.
        notes: what a reader of the sizes should know.
    """

    images: tuple[np.ndarray, ...]
    samples: np.ndarray
    confidence: np.ndarray
    clicked: int
    seen: tuple[int, int, int, int]
    edges: np.ndarray | None
    voxel_mm3: float | None
    threshold: float
    readers: np.ndarray | None
    notes: tuple[str, ...] = ()

    def consensus(self, threshold: float) -> np.ndarray:
        """(S, h, w) bool: where at least this share of the samples, in (0, 1], has the voxel."""
        return self.confidence >= threshold - TOLERANCE

    @functools.cached_property
    def _pixel_mm2(self) -> float | None:
        return None if self.edges is None else float(np.linalg.norm(np.cross(self.edges[:, 0], self.edges[:, 1])))

    def measure(self, mask: np.ndarray, slice_number: int) -> Sizes:
        """Sizes of a mask (S, h, w), the area in one of its slices."""
        area = int(mask[slice_number].sum())
        if self.edges is None or self._pixel_mm2 is None:
            return Sizes(area, None, None, None)
        return Sizes(
            area_pixels=area,
            area_mm2=area * self._pixel_mm2,
            volume_mm3=None if self.voxel_mm3 is None else float(mask.sum()) * self.voxel_mm3,
            diameter_mm=max(longest_diameter(plane, self.edges) for plane in mask),
        )

    @functools.cached_property
    def _sample_sizes(self) -> list[list[Sizes]]:
        """Of each slice and sample: computed once, since the page asks at every move of the threshold."""
        first = [self.measure(sample, 0) for sample in self.samples]
        areas = self.samples.sum((2, 3))
        scale = self._pixel_mm2
        return [
            [
                dataclasses.replace(
                    size, area_pixels=int(area), area_mm2=None if scale is None else float(area) * scale
                )
                for size, area in zip(first, areas[:, number], strict=True)
            ]
            for number in range(self.samples.shape[1])
        ]

    def summarize_samples(self, slice_number: int) -> dict[str, dict[str, Any]]:
        """`summarize_values` of the samples' volumes, if it is a volume, and areas, by the names of `Sizes`."""
        sizes = self._sample_sizes[slice_number]
        names = ("volume_mm3", "diameter_mm", "area_mm2" if self.edges is not None else "area_pixels")
        values = {name: [getattr(size, name) for size in sizes] for name in names}
        return {name: summarize_values(found) for name, found in values.items() if None not in found}

    def compare(self, threshold: float) -> dict[str, Any]:
        """The consensus at a threshold against each reader, and the ensemble against all of them.

        Returns:
            ``readers``: for each reader ``dice`` and ``iou`` over all slices (both empty → 1), and the ``sizes`` in
            the clicked slice; ``ged`` (V-statistic) and ``hm_iou`` of the ensemble, which no threshold changes.

        Raises:
            InputError: there are no readers' masks.
        """
        if self.readers is None:
            raise InputError("No readers' masks are open; give them with --readers.")
        mask = self.consensus(threshold)
        # The functions take (B, N, H, W[, D]).
        ours = np.broadcast_to(mask, self.readers.shape)[None]
        dice, iou = (score(ours, self.readers[None], ignore_empty=False)[0] for score in (dice_score, iou_score))
        return {
            "readers": [
                {"dice": float(dice[i]), "iou": float(iou[i]), "sizes": self.measure(reader, self.clicked)}
                for i, reader in enumerate(self.readers)
            ],
            **self._ensemble_scores,
        }

    @functools.cached_property
    def _ensemble_scores(self) -> dict[str, float]:
        assert self.readers is not None  # `compare` has looked
        ours, truth = self.samples[None], self.readers[None]
        return {
            "ged": float(generalized_energy_distance(ours, truth)[0]),
            "hm_iou": float(hungarian_matched_iou(ours, truth)[0]),
        }


@dataclass(frozen=True)
class OpenCase:
    """An opened image, from which slices are shown and ensembles are drawn.

    Attributes:
        source: what was opened.
        readers: readers' masks (R, H, W) bool of a picture, opened mask volumes of a volume, or ``None``.
        segmenter: the loaded bundle.
        num_slices: from the feet upwards; 1 of a picture.
        needs_point: whether it must be said where the nodule is.
    """

    source: RasterInput | VolumeInput
    readers: np.ndarray | tuple[NiftiInput, ...] | None
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
        affine = np.asarray(self.read_slice(0).affine, dtype=float)
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        normal *= np.sign(normal[2]) / np.linalg.norm(normal)
        ras = np.asarray(point, dtype=float) * [-1.0, -1.0, 1.0]
        heights = [
            abs(float(normal @ (ras - np.asarray(self.read_slice(number).affine, dtype=float)[:3, 3])))
            for number in (0, self.num_slices - 1)
        ]
        return round((self.num_slices - 1) * heights[0] / max(sum(heights), 1e-9))

    def pixel_to_point(self, number: int, row: float, column: float) -> tuple[float, float, float]:
        """LPS millimetres of a pixel of slice `number`."""
        x, y, z = index_to_point((row, column, 0.0), np.asarray(self.read_slice(number).affine, dtype=float))
        return round(float(x), 3), round(float(y), 3), round(float(z), 3)

    def draw(
        self,
        num_samples: int,
        num_inference_steps: int,
        seed: int,
        point: Sequence[float] | None = None,
        slices: int | None = None,
        report: Callable[[int], None] = lambda done: None,
    ) -> Drawn:
        """Draw the ensemble.

        Args:
            num_samples: masks.
            num_inference_steps: denoiser calls a mask.
            seed: seed of the noise.
            point: LPS millimetres of the nodule, for a volume.
            slices: as in `predict`.
            report: called with the number of slices that are done.

        Raises:
            InputError: a number below 1, a point that is missing, not needed or outside, readers' masks that do not
                fit, an image that the network cannot take.
        """
        if num_samples < 1 or num_inference_steps < 1:
            raise InputError(f"{num_samples} samples of {num_inference_steps} steps; expected at least 1 of each.")
        inferer = copy.copy(self.segmenter.inferer)
        inferer.num_samples, inferer.num_inference_steps, inferer.seed = num_samples, num_inference_steps, seed
        segmenter = dataclasses.replace(self.segmenter, inferer=inferer)
        places = [] if point is None else [("point", tuple(float(value) for value in point))]
        points = find_points(self.source, places, segmenter.crop_size is not None, segmenter.bundle_dir.name)
        done = 0

        def draw_plane(plane: MetaTensor):
            nonlocal done
            try:
                found = predict_image(plane, segmenter)
            except ValueError as error:
                raise InputError(f"{self.source.path}: {error}") from error
            done += 1
            report(done)
            return found

        if not len(points):
            plane = self.read_slice(0)
            found = draw_plane(plane)
            nodule = Nodule(
                (plane,), found.samples[:, None], found.confidence[None], found.consensus[None], found.entropy[None],
                0, ("slices", "slices"), found.seen,
            )  # fmt: skip
        else:
            assert isinstance(self.source, VolumeInput)  # find_points refuses places in a picture
            nodule = draw_nodule(self.source.open_planes(points[0].tolist(), segmenter.crop_size), draw_plane, slices)
        edges = voxel_mm3 = None
        if isinstance(self.source, VolumeInput):
            edges = nodule.affine[:3, :2]
            if len(points) and self.source.shape[2] > 1 and slices != 1:
                voxel_mm3 = float(abs(np.linalg.det(self.source.affine[:3, :3])))
        cut_off = [
            f"Towards the {side} the {'scan' if end == 'volume' else 'search'} ends while the consensus is not empty: "
            "the volume is a part."
            for end, place, side in zip(nodule.ended, (0, -1), ("feet", "head"), strict=True)
            if voxel_mm3 is not None and end != "empty" and nodule.consensus[place].any()
        ]
        return Drawn(
            images=tuple(plane.as_tensor().numpy() for plane in nodule.planes),
            samples=nodule.samples,
            confidence=nodule.confidence,
            clicked=nodule.clicked,
            seen=nodule.seen,
            edges=edges,
            voxel_mm3=voxel_mm3,
            threshold=inferer.threshold,
            readers=self._cut_readers(nodule),
            notes=tuple(cut_off),
        )

    def _cut_readers(self, nodule: Nodule) -> np.ndarray | None:
        """The readers' masks (R, S, h, w) on the planes of a nodule."""
        if self.readers is None:
            return None
        if isinstance(self.readers, np.ndarray):
            return self.readers[:, None]
        stacks = []
        for reader in self.readers:
            planes = []
            for plane in nodule.planes:
                height, width = plane.shape[1:]
                # The same pixel is the middle of the reader's crop, on the same grid.
                middle = index_to_point((height // 2, width // 2, 0.0), np.asarray(plane.affine, dtype=float))
                planes.append(reader.cut(middle.tolist(), self.segmenter.crop_size).as_tensor().numpy()[0] > 0.5)
            stacks.append(np.stack(planes))
        return np.stack(stacks)


def open_case(
    path: str | Path, segmenter: Segmenter, readers: str | Path | Sequence[str | Path] | None = None
) -> OpenCase:
    """Open an image for the page.

    Args:
        path: PNG, JPEG or NIfTI file, or a folder with one DICOM series.
        segmenter: the loaded bundle.
        readers: masks to compare with: a file of a prepared folder (``masks/CASE.nii.gz``, a channel a reader), one
            PNG or NIfTI a reader, or of a volume one NIfTI a reader on the volume's own grid. Several as a list, or
            text with commas between.

    Raises:
        InputError: see :func:`~medseglatdiff_monai.io.open_input`; masks of another size or grid than the image.
    """
    source = open_input(path, segmenter.in_channels)
    names = [part.strip() for part in readers.split(",")] if isinstance(readers, str) else readers
    paths = [Path(name) for name in ([names] if isinstance(names, Path) else names or []) if str(name)]
    if isinstance(source, RasterInput):
        plane: MetaTensor = source.read()
        return OpenCase(source, _load_masks(paths, source.size, source), segmenter, 1, False, _only(plane))
    middle = index_to_point([(side - 1) / 2 for side in source.shape], source.affine).tolist()
    if not source.needs_place:
        # A NIfTI of one slice is taken as a crop, as `predict` does.
        plane = source.cut(middle, None)
        masks = _load_masks(paths, (int(plane.shape[1]), int(plane.shape[2])), source)
        return OpenCase(source, masks, segmenter, 1, False, _only(plane))
    # Checks that the bundle takes volumes at all.
    find_points(source, [("point", tuple(middle))], segmenter.crop_size is not None, segmenter.bundle_dir.name)
    axis = int(np.flatnonzero(nibabel.orientations.io_orientation(source.affine)[:, 0] == 2)[0])
    sign = int(nibabel.orientations.io_orientation(source.affine)[axis, 1])
    feet = [(side - 1) / 2 for side in source.shape]
    feet[axis] = 0 if sign > 0 else source.shape[axis] - 1
    cut_plane = source.open_planes(index_to_point(feet, source.affine).tolist(), None)
    volumes = tuple(_open_mask_volume(entry, source) for entry in paths) or None
    return OpenCase(source, volumes, segmenter, source.shape[axis], True, cut_plane)


def _only(plane: MetaTensor) -> Callable[[int], MetaTensor | None]:
    return lambda number: plane if number == 0 else None


def _load_masks(paths: Sequence[Path], size: tuple[int, int], source: RasterInput | VolumeInput) -> np.ndarray | None:
    """Masks (R, H, W) bool of a picture."""
    if not paths:
        return None
    masks = []
    for path in paths:
        mask = _load_mask(path, source)
        if mask.shape[1:] != size:
            raise InputError(
                f"--readers {path}: masks of {mask.shape[1]}x{mask.shape[2]} pixels; expected those of "
                f"{source.path.name}, {size[0]}x{size[1]}."
            )
        # 0 and 1, or 0 and 255 as pictures have it.
        masks.append(mask > (127 if mask.max() > 1 else 0))
    return np.concatenate(masks)


def _load_mask(path: Path, source: RasterInput | VolumeInput) -> np.ndarray:
    """Masks (R, H, W) of one file, row first."""
    if isinstance(source, NiftiInput) and path.name.lower().endswith((".nii", ".nii.gz")):
        # On the image's own grid it is turned as the image is; otherwise it is a prepared one, rows first.
        found = open_input(path, 1)
        if found.shape == source.shape and np.allclose(found.affine, source.affine, atol=1e-2):  # type: ignore[union-attr]
            middle = index_to_point([(side - 1) / 2 for side in source.shape], source.affine)
            return found.cut(middle.tolist(), None).as_tensor().numpy()  # type: ignore[union-attr]
    return np.array(LoadCase(is_label=True)(path))


def _open_mask_volume(path: Path, source: VolumeInput) -> NiftiInput:
    """A reader's mask on the grid of a volume."""
    found = open_input(path, 1)
    if not isinstance(found, NiftiInput):
        raise InputError(f"--readers {path}: expected a NIfTI on the grid of {source.path.name}, as predict writes it.")
    if found.shape != source.shape or not np.allclose(found.affine, source.affine, atol=1e-2):
        raise InputError(
            f"--readers {path}: a grid of shape {found.shape} that is not that of {source.path.name}, "
            f"{source.shape}; resample the masks to the image first."
        )
    return found
