"""The measurement report of a prediction (TID 1500): sizes of nodules with their intervals, and the remarks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

MANUFACTURER = "medseglatdiff_monai"
# The standard's code lists have no percentiles and no agreement of samples: these codes are ours, as "99" marks them.
OWN_SCHEME = "99MEDSEGLATDIFF"


def build_report(
    slices: Sequence[Any], seg: Any, measured: Sequence[Mapping[str, Any]], record: Mapping[str, Any], number: int
) -> Any:
    """The report on the segments of a consensus.

    Args:
        slices: headers of the source slices.
        seg: Segmentation of the consensus, one segment per nodule.
        measured: of each nodule, see :class:`~medseglatdiff_monai.io.dicom_results.SegmentedNodule`.
        record: of the run, see :class:`~medseglatdiff_monai.io.dicom_results.DicomWriter`.
        number: of the report's series.
    """
    import highdicom.sr as sr
    from highdicom import UID
    from pydicom.sr.codedict import codes

    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=_device_uid(record), name=MANUFACTURER, manufacturer_name=MANUFACTURER,
            model_name=record["bundle"][:64], serial_number=record["weights_sha256"][:16],
        ),
    )  # fmt: skip
    sources = [sr.SourceImageForSegmentation.from_source_image(header) for header in slices]
    groups = [
        sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(uid=segment.TrackingUID, identifier=segment.TrackingID),
            referenced_segment=sr.ReferencedSegment(
                sop_class_uid=seg.SOPClassUID,
                sop_instance_uid=seg.SOPInstanceUID,
                segment_number=int(segment.SegmentNumber),
                source_images=sources,
            ),
            finding_type=codes.SCT.Nodule,
            finding_category=codes.SCT.MorphologicallyAbnormalStructure,
            finding_sites=[sr.FindingSite(anatomic_location=codes.SCT.Lung)],
            measurements=_measure(values),
            algorithm_id=sr.AlgorithmIdentification(name=record["bundle"], version=str(record["bundle_version"])),
        )
        for segment, values in zip(seg.SegmentSequence, measured, strict=True)
    ]
    for group, values in zip(groups, measured, strict=True):
        if notes := join_notes(values):
            # The template has no place for remarks, and may be extended.
            group[0].ContentSequence.append(
                sr.TextContentItem(
                    name=codes.DCM.Comment, value=notes, relationship_type=sr.RelationshipTypeValues.CONTAINS
                )
            )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=sr.CodedConcept("24627-2", "LN", "CT Chest"),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    return sr.Comprehensive3DSR(
        evidence=[*slices, seg],
        content=report[0],
        series_instance_uid=UID(),
        series_number=number,
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=all(values.get("complete", True) for values in measured),
        series_description="Nodule measurements with intervals over sampled masks",
    )


def _device_uid(record: Mapping[str, Any]) -> str:
    """The same for the same weights, as a device keeps its own (PS3.5 B.2: 2.25 and a UUID as an integer)."""
    digest = hashlib.sha256(f"{MANUFACTURER}/{record['weights_sha256']}".encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _measure(values: Mapping[str, Any]) -> list[Any]:
    """Consensus, median and interval of each measurement, and the agreement; what is ``None`` is left out."""
    from highdicom.sr import CodedConcept, Measurement
    from pydicom.sr.codedict import codes

    derivations = [
        (codes.SCT.Median, "median", None),
        (CodedConcept("P05", OWN_SCHEME, "5th percentile of sampled masks"), "interval", 0),
        (CodedConcept("P95", OWN_SCHEME, "95th percentile of sampled masks"), "interval", 1),
    ]
    measurements = []
    for key, name, unit in (
        ("volume_mm3", codes.SCT.Volume, codes.UCUM.CubicMillimeter),
        ("longest_diameter_mm", codes.SCT.LongAxis, codes.UCUM.Millimeter),
    ):
        numbers = values[key]
        if numbers is None:
            continue
        measurements.append(Measurement(name=name, value=numbers["consensus"], unit=unit))
        for derivation, entry, place in derivations:
            if numbers[entry] is None:
                continue
            number = numbers[entry] if place is None else numbers[entry][place]
            measurements.append(Measurement(name=name, value=number, unit=unit, derivation=derivation))
    agreement = values["agreement"]["mean_pairwise_iou"]
    if agreement is not None:
        name = CodedConcept("MEAN-PAIR-IOU", OWN_SCHEME, "Mean pairwise intersection over union of samples")
        measurements.append(Measurement(name=name, value=agreement, unit=codes.UCUM.NoUnits))
    return measurements


def join_notes(values: Mapping[str, Any]) -> str:
    """Remarks about a nodule as one text, of at most the 1024 characters that a short text holds."""
    return " ".join(values.get("notes", ()))[:1024]
