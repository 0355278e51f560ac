"""Sampled masks on the grid of their image: the one object that commands, pages and files are made from.

Confidence is the share of the samples that contain a pixel, consensus where it reaches a threshold, entropy that of the
confidence. Whoever wants an area, a volume or an agreement asks the ensemble.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from ..ensemble.fusion import reaches
from ..ensemble.summary import measure_entropy
from ..metrics.distances import pairwise_iou
from .measure import Measurement, longest_diameter


@dataclass(frozen=True)
class Ensemble:
    """N samples of a plane (H, W), or of S neighbouring slices (S, H, W) from the feet upwards.

    Attributes:
        samples: (N, H, W) or (N, S, H, W) bool.
        confidence: (H, W) or (S, H, W) float32 in [0, 1].
        fused: what the sampling settings' fusion and threshold make of the samples, (H, W) or (S, H, W) bool.
        seen: (top, left, bottom, right) of the part that the network saw; outside it all is background.
        affine: (4, 4), (row, column, slice) to RAS millimetres; ``None`` for a picture, which has no millimetres.
        planes: the planes (C, H, W) that were segmented; empty if the ensemble was read from a file.
        voxel_mm3: ``None`` where it is unknown or a volume has no meaning, as for one slice.
        clicked: index of the slice of the point.
        ended: why it ends towards the feet and towards the head: ``"empty"`` (the consensus of the last slice is
            empty), ``"volume"`` (the scan ends), ``"reach"`` or ``"slices"`` (a limit of the call).
    """

    samples: np.ndarray
    confidence: np.ndarray
    fused: np.ndarray
    seen: tuple[int, int, int, int]
    affine: np.ndarray | None = None
    planes: tuple[MetaTensor, ...] = ()
    voxel_mm3: float | None = None
    clicked: int = 0
    ended: tuple[str, str] = ("slices", "slices")

    def consensus(self, threshold: float | None = None) -> np.ndarray:
        """(H, W) or (S, H, W) bool: where the confidence reaches the threshold in (0, 1]; with ``None``, ``fused``."""
        return self.fused if threshold is None else reaches(self.confidence, threshold)

    def entropy(self) -> np.ndarray:
        """(H, W) or (S, H, W) float32 in [0, 1] bit."""
        return measure_entropy(torch.from_numpy(self.confidence)).numpy()

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays to store: ``samples``, ``confidence``, ``consensus``, ``entropy``, ``affine`` if it has one.

        Of several slices also their ``image`` (S, H, W) float32 and ``clicked``, the number of the slice of the point.
        """
        arrays = {"samples": self.samples, "confidence": self.confidence, "consensus": self.fused}
        arrays["entropy"] = self.entropy()
        if self.affine is not None:
            arrays["affine"] = self.affine
        if self.confidence.ndim == 3 and self.planes:
            arrays["image"] = np.stack([plane.as_tensor().numpy()[0] for plane in self.planes])
            arrays["clicked"] = np.array(self.clicked)
        return arrays

    def plane(self, number: int) -> Ensemble:
        """Slice ``number`` by itself."""
        planes = self.planes[number : number + 1]
        affine = np.asarray(planes[0].affine, dtype=float) if planes and self.affine is not None else self.affine
        return Ensemble(self.samples[:, number], self.confidence[number], self.fused[number], self.seen, affine, planes)

    def volume_mm3(self, threshold: float | None = None) -> Measurement | None:
        """Volume of all slices; ``None`` without ``voxel_mm3``."""
        if self.voxel_mm3 is None:
            return None
        volumes = (self._sample_areas.sum(1) * self.voxel_mm3).tolist()
        return Measurement(float(self.consensus(threshold).sum() * self.voxel_mm3), volumes)

    def diameter_mm(self, threshold: float | None = None) -> Measurement | None:
        """Longest axial diameter over all slices; ``None`` for a picture."""
        if self.affine is None:
            return None
        return Measurement(self._measure_diameter(self.consensus(threshold)), self._sample_diameters)

    def area_pixels(self, threshold: float | None = None, number: int | None = None) -> Measurement:
        """Pixels in slice ``number``, by default in the clicked one."""
        number = self.clicked if number is None else number
        consensus = self.consensus(threshold)
        area = int(consensus.reshape(-1, *consensus.shape[-2:])[number].sum())
        return Measurement(area, self._sample_areas[:, number].tolist())

    def area_mm2(self, threshold: float | None = None, number: int | None = None) -> Measurement | None:
        """Area in slice ``number``, by default in the clicked one; ``None`` for a picture."""
        if self.affine is None:
            return None
        pixel = float(np.linalg.norm(np.cross(self.affine[:3, 0], self.affine[:3, 1])))
        pixels = self.area_pixels(threshold, number)
        return Measurement(pixels.consensus * pixel, [count * pixel for count in pixels.samples])

    def area(self, threshold: float | None = None, number: int | None = None) -> tuple[Measurement, str]:
        """Area in slice ``number``, by default in the clicked one, and its unit: mm², or px for a picture."""
        size = self.area_mm2(threshold, number)
        return (self.area_pixels(threshold, number), "px") if size is None else (size, "mm²")

    def agreement(self) -> float | None:
        """Mean IoU of two different samples over all slices, both empty → 1; ``None`` for a single sample."""
        return self._agreement

    @functools.cached_property
    def _agreement(self) -> float | None:
        number = len(self.samples)
        if number < 2:
            return None
        table = pairwise_iou(self.samples[None], self.samples[None])[0]
        return float((table.sum() - table.diagonal().sum()) / (number * (number - 1)))

    def mean_entropy(self) -> float:
        """Mean entropy over the pixels that at least one sample contains, in bit; 0 where all samples are empty.

        Over the whole image the figure would depend on the size of the background.
        """
        union = self.samples.any(axis=0)
        return float(self.entropy()[union].mean()) if union.any() else 0.0

    def describe(self) -> dict[str, Any]:
        """JSON values of a nodule: its sizes as of :meth:`Measurement.describe` or ``None``, and ``agreement``."""
        sizes = {
            "volume_mm3": self.volume_mm3(), "longest_diameter_mm": self.diameter_mm(), "area_mm2": self.area_mm2(),
        }  # fmt: skip
        described = {name: None if size is None else size.describe() for name, size in sizes.items()}
        return {**described, "agreement": self.describe_agreement()}

    def describe_agreement(self) -> dict[str, float | None]:
        """JSON values: ``mean_pairwise_iou``, see :meth:`agreement`."""
        agreement = self.agreement()
        return {"mean_pairwise_iou": None if agreement is None else round(agreement, 4)}

    def note_cut_ends(self, reasons: Mapping[str, str]) -> list[str]:
        """Remarks where the search ended before the consensus was empty; ``reasons`` puts ``ended`` into words."""
        ends = zip(("feet", "head"), self.ended, (0, -1), strict=True)
        return [
            f"Towards the {side} {reasons[end]} while the consensus was not empty: the volume covers only part of the "
            "nodule."
            for side, end, place in ends
            if end != "empty" and self.fused[place].any()
        ]

    def _measure_diameter(self, mask: np.ndarray) -> float:
        """Longest axial diameter in mm of a mask (H, W) or (S, H, W) on this grid, which must have an ``affine``."""
        assert self.affine is not None
        edges = self.affine[:3, :2]
        return max(longest_diameter(plane, edges) for plane in mask.reshape(-1, *mask.shape[-2:]))

    # Measured once for all samples: a page asks at every move of the threshold.
    @functools.cached_property
    def _sample_areas(self) -> np.ndarray:
        """(N, S), pixels."""
        areas = self.samples.sum((-2, -1))
        return areas.reshape(len(areas), -1)

    @functools.cached_property
    def _sample_diameters(self) -> list[float]:
        return [self._measure_diameter(sample) for sample in self.samples]


def stack_planes(
    planes: Sequence[Ensemble],
    clicked: int = 0,
    ended: tuple[str, str] = ("slices", "slices"),
    voxel_mm3: float | None = None,
) -> Ensemble:
    """Ensembles (N, H, W) of neighbouring planes as one (N, S, H, W), from the feet upwards.

    The affine's last column is the mean distance of the slices, if they are unevenly spaced.
    """
    affine, last = planes[0].affine, planes[-1].affine
    if affine is not None and last is not None and len(planes) > 1:
        affine = affine.copy()
        affine[:3, 2] = (last[:3, 3] - affine[:3, 3]) / (len(planes) - 1)
    return Ensemble(
        samples=np.stack([plane.samples for plane in planes], axis=1),
        confidence=np.stack([plane.confidence for plane in planes]),
        fused=np.stack([plane.fused for plane in planes]),
        seen=planes[0].seen,
        affine=affine,
        planes=tuple(image for plane in planes for image in plane.planes),
        voxel_mm3=voxel_mm3,
        clicked=clicked,
        ended=ended,
    )
