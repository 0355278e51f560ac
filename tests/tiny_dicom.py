"""DICOM series of a few small slices for tests, written by pydicom from an array."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset, validate_file_meta
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat

CORNER_MM = (-50.0, -40.0, 10.0)
# Row, column and slice of the "nodule" of the small CT: off the middle, so that no axis can be mistaken.
ROW, COLUMN, SLICE = 70, 90, 2
POINT = (CORNER_MM[0] + COLUMN * 0.75, CORNER_MM[1] + ROW * 0.5, CORNER_MM[2] + SLICE * 2.0)


def make_ct(slices: int = 4, rows: int = 150, columns: int = 170, seed: int = 0) -> np.ndarray:
    """Hounsfield units, (slice, row, column) int16: blobs with noise, different in every slice and corner."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((slices, rows, columns), dtype=float)
    smooth = 300 * np.sin(x / 9 + z) * np.cos(y / 13 - z) + 2 * x + y
    return np.rint(smooth - 700 + rng.normal(0, 30, smooth.shape)).astype(np.int16)


def to_8_bits(crop: np.ndarray) -> np.ndarray:
    """The rounding of the public crops, found on LIDC-IDRI-0023: halves go up, after a product in double precision."""
    return np.floor((crop - crop.min()) * (255.0 / (crop.max() - crop.min())) + 0.5).astype(np.uint8)


def write_series(
    folder: Path,
    volume: np.ndarray,
    spacing_mm: tuple[float, float, float] = (0.5, 0.75, 2.0),
    modality: str = "CT",
    uid: str | None = None,
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    step: int = 1,
) -> Path:
    """Write (slice, row, column) with spacing (row, column, slice); file names do not follow the slices' order.

    `orientation` is ImageOrientationPatient; slices follow each other along the normal (`step` 1) or against it (-1).
    """
    folder.mkdir(parents=True, exist_ok=True)
    uid = uid or generate_uid()
    count = len(volume)
    for number, plane in enumerate(volume):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        # As in data/phantom.py: whole headers from pydicom 2 and 3 alike.
        validate_file_meta(meta)
        meta.FileMetaInformationGroupLength = 0
        image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=False)
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        image.Modality, image.PatientID, image.PatientName = modality, "TEST", "Test^Series"
        image.StudyInstanceUID, image.SeriesInstanceUID = "1.2.3", uid
        image.InstanceNumber = count - number
        normal = np.cross(orientation[:3], orientation[3:])
        corner = np.array(CORNER_MM) + number * step * spacing_mm[2] * normal
        image.ImagePositionPatient = [DSfloat(value, auto_format=True) for value in corner]
        image.ImageOrientationPatient = [DSfloat(value, auto_format=True) for value in orientation]
        image.FrameOfReferenceUID = generate_uid(entropy_srcs=[uid, "frame of reference"])
        image.PixelSpacing = [str(spacing_mm[0]), str(spacing_mm[1])]
        image.SliceThickness = str(spacing_mm[2])
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.Rows, image.Columns = plane.shape
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 1
        image.RescaleIntercept, image.RescaleSlope = "-1024", "1"
        image.PixelData = (plane + 1024).astype("<i2").tobytes()
        image.save_as(folder / f"{(number * 7) % 10}{number}.dcm")
    return folder
