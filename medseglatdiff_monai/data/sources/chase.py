"""CHASE_DB1: retinal fundus images of both eyes of children, vessels outlined by two observers.

Layout: ``Image_NNL.jpg`` with ``Image_NNL_1stHO.png`` and ``Image_NNL_2ndHO.png``, and the same for the right eye (R).
The two eyes of a child are alike, so groups are patients.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ...errors import InputError
from .source import Case, Source, SourceInfo

OBSERVERS = ("1stHO", "2ndHO")
# As the shipped weights were trained, so that the bundle is not scored on images that it has seen.
VALIDATION_PATIENTS, TEST_PATIENTS = ("03",), ("09", "10", "11", "12", "13", "14")


class CHASESource(Source):
    """CHASE_DB1; groups are patients ("01"), both eyes together."""

    info = SourceInfo(
        name="CHASE_DB1",
        modality="fundus photography",
        description="Retinal vessel segmentation by two observers.",
        labels={"0": "background", "1": "vessel"},
        group_unit="patient",
        num_raters=len(OBSERVERS),
    )
    rater_names = OBSERVERS
    suffixes = (".jpg", ".png")

    def find_cases(self, src: Path | None) -> list[Case]:
        """One case per eye."""
        assert src is not None  # src_required
        cases = []
        for path in src.rglob("Image_*.jpg"):
            match = re.fullmatch(r"Image_(\d+)([LR])", path.stem)
            if match is None:
                continue
            masks = [path.with_name(f"{path.stem}_{observer}.png") for observer in OBSERVERS]
            for mask in masks:
                if not mask.is_file():
                    raise InputError(f"{path}: has no mask; expected {mask}.")
            files = (str(path), *(str(mask) for mask in masks))
            cases.append(Case(path.stem, match[1], columns={"image": path.stem}, files=files))
        if not cases:
            raise InputError(f"{src}: no Image_NNL.jpg or Image_NNR.jpg in it; expected the files of CHASE_DB1.")
        return cases

    def default_split(self, groups: Sequence[str]) -> dict[str, str]:
        """Patient 03 for validation, 09 to 14 for test."""
        side = dict.fromkeys(VALIDATION_PATIENTS, "validation") | dict.fromkeys(TEST_PATIENTS, "test")
        return {group: side.get(group, "training") for group in groups}
