"""ISIC-2018 Task 1: dermoscopy images with one lesion mask each; every image is its own group.

Layout: ``ISIC2018_Task1-2_Training_Input/ISIC_*.jpg`` with
``ISIC2018_Task1_Training_GroundTruth/ISIC_*_segmentation.png`` (and the same for Validation and Test, where they are
beside them).
"""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from .source import Case, Source, SourceInfo

MASK_ENDING = "_segmentation.png"


class ISICSource(Source):
    """ISIC-2018 Task 1; groups are images."""

    info = SourceInfo(
        name="ISIC-2018 Task 1",
        modality="dermoscopy",
        description="Skin lesion boundary segmentation in dermoscopy images.",
        labels={"0": "background", "1": "lesion"},
        group_unit="image",
        num_raters=1,
    )
    suffixes = (".jpg", ".jpeg", ".png")

    def find_cases(self, src: Path | None) -> list[Case]:
        """One case per image, wherever in the folder it lies."""
        assert src is not None  # src_required
        masks = {path.name[: -len(MASK_ENDING)]: path for path in src.rglob(f"ISIC_*{MASK_ENDING}")}
        images = [path for path in src.rglob("ISIC_*") if path.suffix.lower() in (".jpg", ".jpeg")]
        if not images:
            raise InputError(
                f"{src}: no ISIC_*.jpg in it; expected ISIC2018_Task1-2_Training_Input/ISIC_*.jpg and its masks."
            )
        cases = []
        for path in images:
            if path.stem not in masks:
                raise InputError(
                    f"{path}: has no mask; expected {path.stem}{MASK_ENDING} in ISIC2018_Task1_Training_GroundTruth/ "
                    f"under {src}."
                )
            cases.append(Case(path.stem, path.stem, files=(str(path), str(masks[path.stem]))))
        return cases
