"""A data set with a folder for each patient: PATIENT/image.png and PATIENT/mask-RATER.png."""

from pathlib import Path

from medseglatdiff_monai.data.sources.source import SOURCES, Case, Source, SourceInfo, SourceRow
from medseglatdiff_monai.errors import InputError


class PerPatientSource(Source):
    """A folder for each patient; groups are patients."""

    info = SourceInfo(
        name="a folder for each patient",
        modality="photograph",
        description="Lesions outlined by several raters.",
        labels={"0": "background", "1": "lesion"},
        group_unit="patient",
    )
    suffixes = (".png",)

    def find_cases(self, src: Path | None) -> list[Case]:
        """One case per folder; the source's `read` reads the image and the masks of its files."""
        assert src is not None
        cases = []
        for image in src.glob("*/image.png"):
            masks = sorted(image.parent.glob("mask-*.png"))
            if not masks:
                raise InputError(f"{image.parent}: no mask-RATER.png beside the image.")
            patient = image.parent.name
            cases.append(Case(patient, patient, files=(str(image), *map(str, masks))))
        return cases


SOURCES["per-patient"] = SourceRow(
    "per_patient:PerPatientSource",
    default_bundle=None,
    address="our archive",
    licence="ours",
    size="any",
    layout="PATIENT/image.png and PATIENT/mask-RATER.png",
    split="8:1:1 at random; file: patient,split",
)
