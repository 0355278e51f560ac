"""LIDC-IDRI nodule crops as published by "LIDC-IDRI-slices": 128×128, 8-bit, four masks per slice.

Layout: ``LIDC-IDRI-XXXX/nodule-N/images/slice-K.png`` with ``nodule-N/mask-{0,1,2,3}/slice-K.png``. The mask's
number is a slot, not a certain radiologist; an all-zero mask is of a rater who did not mark the nodule. Each crop is
min-max normalised by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError
from .images import read_image, read_masks
from .lidc_annotations import NUM_RATERS
from .lidc_split import PublishedLIDCSplit
from .source import Case, PreparedCase, Source, SourceInfo, natural_key

CROP_SIZE = 128


class LIDCSlicesSource(PublishedLIDCSplit, Source):
    """The published crops; groups are patients, one case per nodule.

    Args:
        crop: 128, the size of the published crops, or None; nothing else is possible.

    Raises:
        InputError: another crop size.
    """

    info = SourceInfo(
        name="LIDC-IDRI-slices",
        modality="CT",
        description="LIDC-IDRI nodule crops, 128×128 at native pixel spacing, min-max normalised, four raters.",
        labels={"0": "background", "1": "nodule"},
        group_unit="patient",
        num_raters=NUM_RATERS,
    )
    suffixes = (".png",)

    def __init__(self, crop: int | None = None) -> None:
        if crop is not None and crop != CROP_SIZE:
            raise InputError(
                f"--crop {crop}: the published crops are {CROP_SIZE}×{CROP_SIZE}; leave --crop out (a bundle's "
                "preprocessing crops further), or prepare other sizes from DICOM with the source 'lidc'."
            )

    def find_cases(self, src: Path | None) -> list[Case]:
        """One case per nodule folder."""
        assert src is not None  # src_required
        nodules: dict[Path, list[str]] = {}
        for folder, subfolders, files in os.walk(src):
            subfolders.sort()
            path = Path(folder)
            if path.name == "images" and path.parent.name.startswith("nodule-"):
                nodules[path.parent] = sorted((name for name in files if name.endswith(".png")), key=natural_key)
        if not nodules:
            raise InputError(f"{src}: no LIDC-XXXX/nodule-N/images/ in it; expected the layout of LIDC-IDRI-slices.")
        return [
            Case(
                key=f"{nodule.parent.name}_{nodule.name}",
                group=nodule.parent.name,
                payload=(str(nodule), slices),
                columns={"nodule": f"{nodule.parent.name}_{nodule.name}"},
                files=tuple(
                    str(nodule / folder / name)
                    for folder in ("images", *(f"mask-{slot}" for slot in range(NUM_RATERS)))
                    for name in slices
                ),
            )
            for nodule, slices in nodules.items()
        ]

    def read(self, case: Case) -> Iterator[PreparedCase]:
        """Every slice of the nodule."""
        nodule, slices = Path(case.payload[0]), case.payload[1]
        if not slices:
            raise InputError(f"{nodule / 'images'}: holds no PNG; unpack the data set again.")
        for name in slices:
            image_path = nodule / "images" / name
            mask_paths = [nodule / f"mask-{slot}" / name for slot in range(NUM_RATERS)]
            for path in mask_paths:
                if not path.is_file():
                    raise InputError(f"{path}: missing mask of {image_path}; expected mask-0 to mask-{NUM_RATERS - 1}.")
            image = read_image(image_path)
            yield PreparedCase(
                case=f"{case.key}_{image_path.stem}",
                image=image.array,
                masks=read_masks(mask_paths, image_path, image.array),
            )
