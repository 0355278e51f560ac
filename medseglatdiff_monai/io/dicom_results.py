"""Results as DICOM: Segmentations, a Parametric Map, a measurement report (TID 1500), for a PACS and any DICOM viewer.

A Segmentation has one type, so there are several: the consensus as BINARY, the confidence as FRACTIONAL, of kind
PROBABILITY (DICOM PS3.3 C.8.20.2.3), and, for viewers that show no fractions, what is in at least 10%, 50% and 90% of
the samples as BINARY. The Parametric Map is the confidence once more, as an image. All are coded in SNOMED CT, and take
patient, study, frame of reference and the position of every frame from the source slices themselves, so that no
orientation is converted. The report refers to the segments of the consensus. They are written by highdicom, which is
optional: extra ``dicom``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..extras import require
from .dicom_report import MANUFACTURER, OWN_SCHEME, build_report, join_notes
from .reading import DicomInput

# Numbers of the new series, above those that scanners use.
SERIES_NUMBERS = {
    "seg_consensus": 9001, "seg_confidence": 9002, "report": 9003, "seg_levels": 9004, "map_confidence": 9005,
    "seg_label": 9006,
}  # fmt: skip
# Percent of the samples that a voxel is in → colour (CIELab) in which a viewer may show it: wide and pale to narrow and
# dark.
LEVELS = {10: (85.0, -10.0, 60.0), 50: (65.0, 35.0, 60.0), 90: (45.0, 65.0, 35.0)}
# Of an object that nobody accepted, as a person's name.
CREATOR = f"{MANUFACTURER}^"
# Colours of the nodules: green, orange, blue, violet.
NODULE_COLOURS = ((75.0, -50.0, 45.0), (70.0, 30.0, 65.0), (60.0, -10.0, -45.0), (55.0, 50.0, -45.0))
# What the standard requires, even if empty (type 2), and highdicom copies.
COPIED_KEYWORDS = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip


@dataclass(frozen=True)
class SegmentedNodule:
    """A nodule on the grid of its series.

    Attributes:
        start: index of the first slice among the series' files.
        consensus: (X, Y, slices) bool or uint8: columns, rows, slices of the series.
        confidence: (X, Y, slices) float32 in [0, 1].
        measurements: see :meth:`~medseglatdiff_monai.predict.ensemble.Ensemble.describe`; with ``notes``, texts for
            whoever uses the result, and ``complete``, whether all of the nodule was segmented.
    """

    start: int
    consensus: np.ndarray
    confidence: np.ndarray
    measurements: Mapping[str, Any]


class DicomWriter:
    """Writes the results on one series.

    Args:
        source: the series, checked for missing and double slices when it was opened.
        record: ``bundle``, ``bundle_version``, ``weights_sha256``, ``num_samples``, ``seed``, ``confidence`` of the
            run.

    Raises:
        InputError: highdicom is not installed, or a slice lacks what a Segmentation must repeat.
    """

    def __init__(self, source: DicomInput, record: Mapping[str, Any]) -> None:
        require("dicom", "DICOM SEG and a structured report")
        self.record = record
        self.source = source
        self.headers = [_read_header(path) for path in source.series.files]
        frames = {header.FrameOfReferenceUID for header in self.headers}
        if len(frames) > 1:
            raise InputError(
                f"{source.path}: its slices have {len(frames)} FrameOfReferenceUIDs; expected one. Slices of several "
                "series were merged: give one of them."
            )

    def write(self, nodules: Sequence[SegmentedNodule], folder: Path, stem: str) -> dict[str, str]:
        """Write ``STEM_KIND.dcm`` for each kind of :data:`SERIES_NUMBERS` but the label.

        The objects refer only to the slices that were segmented. Segmentations store only frames with a voxel of a
        segment (all segmented slices if there is none).

        Returns:
            The files' names by kind.
        """
        slices, consensus, confidence = self._stack(nodules)
        measured = [nodule.measurements for nodule in nodules]
        # 0.1 has no exact value in single precision.
        levels = [confidence >= percent / 100 - 1e-6 for percent in LEVELS]
        # Segments in the order nodule 1 at 10, 50, 90%, nodule 2 …
        nested = np.stack(levels, axis=-1).reshape(*confidence.shape[:3], -1).astype(np.uint8)
        with _names_as_they_are():
            segments = [
                self._describe(number + 1, f"Nodule {number + 1}", NODULE_COLOURS[number % len(NODULE_COLOURS)], values)
                for number, values in enumerate(measured)
            ]
            nested_segments = [
                self._describe(
                    number * len(LEVELS) + place, f"Nodule {number + 1}, in {percent}% of the samples", colour, values
                )
                for number, values in enumerate(measured)
                for place, (percent, colour) in enumerate(LEVELS.items(), start=1)
            ]
            seg = self._segment(slices, consensus, "BINARY", segments, "seg_consensus", "Consensus mask")
            datasets = {
                "seg_consensus": seg,
                "seg_confidence": self._segment(
                    slices, confidence, "FRACTIONAL", segments, "seg_confidence", "Share of sampled masks"
                ),
                "seg_levels": self._segment(
                    slices, nested, "BINARY", nested_segments, "seg_levels", "Levels of the share of sampled masks"
                ),
                "map_confidence": self._map(slices, confidence.max(-1)),
                "report": build_report(slices, seg, measured, self.record, SERIES_NUMBERS["report"]),
            }
        names = {}
        for kind, dataset in datasets.items():
            names[kind] = f"{stem}_{kind}.dcm"
            dataset.save_as(folder / names[kind], enforce_file_format=True)
        return names

    def write_label(self, nodule: SegmentedNodule, path: Path, who: str, what: str) -> None:
        """Write a mask that somebody accepted as a Segmentation.

        Args:
            nodule: the mask is its consensus.
            path: the file.
            who: name of whoever accepted it.
            what: was accepted, such as "sample 3, corrected".
        """
        slices, mask, _ = self._stack([nodule])
        with _names_as_they_are():
            segment = self._describe(1, "Nodule 1", NODULE_COLOURS[0], nodule.measurements)
            seg = self._segment(slices, mask, "BINARY", [segment], "seg_label", f"Accepted: {what}"[:64], who)
        # Whoever accepted it may have a name in any script.
        seg.SpecificCharacterSet = "ISO_IR 192"
        seg.save_as(path, enforce_file_format=True)

    def _stack(self, nodules: Sequence[SegmentedNodule]) -> tuple[list[Any], np.ndarray, np.ndarray]:
        """Headers of the slices with a nodule; consensus and confidence on them, (slices, rows, columns, nodules)."""
        numbers = sorted({nodule.start + k for nodule in nodules for k in range(nodule.consensus.shape[2])})
        shape = (len(numbers), *self.source.series.shape, len(nodules))
        consensus, confidence = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
        for place, nodule in enumerate(nodules):
            first = numbers.index(nodule.start)
            rows = slice(first, first + nodule.consensus.shape[2])
            # (columns, rows, slices) → (slices, rows, columns)
            consensus[rows, ..., place] = nodule.consensus.transpose(2, 1, 0)
            confidence[rows, ..., place] = nodule.confidence.transpose(2, 1, 0)
        return [self.headers[number] for number in numbers], consensus, confidence

    @property
    def _largest_value(self) -> int:
        """The integer that a share of 1 is stored as: shares of N samples are exact if N divides it."""
        count = self.record["num_samples"]
        exact = self.record["confidence"] == "samples" and count <= 255
        return 255 - 255 % count if exact else 255

    def _describe_object(self, slices: Sequence[Any], name: str, content: str, who: str = CREATOR) -> dict[str, Any]:
        """What every object says of its sources, its series and its maker."""
        from highdicom import UID

        from .. import __version__

        return {
            "source_images": slices,
            "series_instance_uid": UID(),
            "series_number": SERIES_NUMBERS[name],
            "sop_instance_uid": UID(),
            "instance_number": 1,
            "content_description": content,
            "content_creator_name": who,
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": self.record["bundle"][:64],
            "software_versions": __version__,
            # Which weights made it: type 1, and there is no device.
            "device_serial_number": self.record["weights_sha256"][:16],
        }

    def _describe(self, number: int, label: str, colour: tuple[float, float, float], values: Mapping[str, Any]) -> Any:
        """Description of a segment."""
        from highdicom import UID, AlgorithmIdentificationSequence
        from highdicom.color import CIELabColor
        from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
        from pydicom.sr.codedict import codes

        segment = SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Nodule,
            # A person says where the nodule is.
            algorithm_type=SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
            algorithm_identification=AlgorithmIdentificationSequence(
                name=self.record["bundle"][:64],
                family=codes.cid7162.ArtificialIntelligence,
                version=str(self.record["bundle_version"]),
                source=MANUFACTURER,
                parameters={
                    "num_samples": str(self.record["num_samples"]),
                    "seed": str(self.record["seed"]),
                    "weights_sha256": self.record["weights_sha256"],
                },
            ),
            tracking_uid=UID(),
            tracking_id=label,
            anatomic_regions=[codes.SCT.Lung],
            display_color=CIELabColor(*colour),
        )
        if notes := join_notes(values):
            segment.SegmentDescription = notes
        return segment

    def _segment(
        self,
        slices: Sequence[Any],
        values: np.ndarray,
        kind: str,
        segments: list[Any],
        name: str,
        content: str,
        who: str = CREATOR,
    ) -> Any:
        from highdicom.seg import Segmentation
        from pydicom.uid import ExplicitVRLittleEndian, RLELossless

        return Segmentation(
            **self._describe_object(slices, name, content, who),
            pixel_array=values,
            segmentation_type=kind,
            segment_descriptions=segments,
            max_fractional_value=self._largest_value,
            # Nearly all of it is zeros; one bit a voxel cannot be compressed so.
            transfer_syntax_uid=ExplicitVRLittleEndian if kind == "BINARY" else RLELossless,
            series_description=f"{content}, {self.record['num_samples']} samples"[:64],
            content_label=name.removeprefix("seg_").upper(),
        )

    def _map(self, slices: Sequence[Any], confidence: np.ndarray) -> Any:
        """The highest confidence (slices, rows, columns) of any nodule as a Parametric Map."""
        from highdicom import VOILUTTransformation
        from highdicom.pm import ParametricMap, RealWorldValueMapping
        from highdicom.sr import CodedConcept
        from pydicom import Dataset
        from pydicom.sr.codedict import codes
        from pydicom.uid import DeflatedExplicitVRLittleEndian

        content = "Share of sampled masks"
        dataset = ParametricMap(
            **self._describe_object(slices, "map_confidence", content),
            # 3D Slicer's reader (dcmqi) takes floating point alone, and ends without it.
            pixel_array=confidence.astype(np.float32),
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[
                RealWorldValueMapping(
                    lut_label="CONFIDENCE",
                    lut_explanation=content,
                    unit=codes.UCUM.NoUnits,
                    value_range=(0.0, 1.0),
                    slope=1.0,
                    intercept=0.0,
                    quantity_definition=CodedConcept("SHARE", OWN_SCHEME, content),
                )
            ],
            voi_lut_transformations=[VOILUTTransformation(window_center=0.5, window_width=1.0)],
            series_description=f"{content}, {self.record['num_samples']} samples, as a map",
            content_label="CONFIDENCE",
        )
        # The same reader asks for the anatomy, which highdicom leaves out; a side is not known.
        anatomy = Dataset()
        anatomy.AnatomicRegionSequence = [CodedConcept.from_code(codes.SCT.Lung)]
        anatomy.FrameLaterality = "B"
        dataset.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [anatomy]
        # And it takes the frames to follow the slice normal, against which highdicom writes them.
        frames = dataset.PerFrameFunctionalGroupsSequence
        row, column = np.reshape(slices[0].ImageOrientationPatient, (2, 3)).astype(float)
        places = np.array([frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames], dtype=float)
        order = np.argsort(places @ np.cross(row, column))
        dataset.PerFrameFunctionalGroupsSequence = [frames[number] for number in order]
        values = np.frombuffer(dataset.FloatPixelData, np.float32).reshape(len(frames), -1)
        dataset.FloatPixelData = values[order].tobytes()
        # Nearly all of it is zeros. Floating point is compressed as a file only, not as frames.
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        return dataset


@contextmanager
def _names_as_they_are() -> Iterator[None]:
    """No warning of names without a caret: they are common in research data, and are the source's own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The string .* is unlikely to represent the intended person name")
        yield


def _read_header(path: str) -> Any:
    import pydicom

    header = pydicom.dcmread(path, stop_before_pixels=True)
    if not header.get("FrameOfReferenceUID"):
        raise InputError(
            f"{path}: no FrameOfReferenceUID; expected the one of the series, without which a DICOM SEG has no place. "
            "Fix the series."
        )
    for keyword in COPIED_KEYWORDS:
        if keyword not in header:
            setattr(header, keyword, "")
    return header
