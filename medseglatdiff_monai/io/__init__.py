"""What `predict` reads and writes: PNG, JPEG, NIfTI, DICOM in; masks, maps, panels, DICOM SEG and SR out.

Names are imported when first used, so that arguments can be checked without torch and MONAI.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparison import ComparedCase, draw_comparison
    from .dicom_results import DicomWriter, SegmentedNodule, can_write_dicom
    from .panel import draw_panel
    from .places import Place, find_points, parse_places
    from .reading import DicomInput, NiftiInput, RasterInput, VolumeInput, open_input
    from .writing import OutputFolder, save_png, save_samples, save_volume

__all__ = [
    "ComparedCase",
    "DicomInput",
    "DicomWriter",
    "NiftiInput",
    "OutputFolder",
    "Place",
    "RasterInput",
    "SegmentedNodule",
    "VolumeInput",
    "can_write_dicom",
    "draw_comparison",
    "draw_panel",
    "find_points",
    "open_input",
    "parse_places",
    "save_png",
    "save_samples",
    "save_volume",
]

# Submodule → what of it is a name of the package.
HOMES = {
    "comparison": ("ComparedCase", "draw_comparison"),
    "dicom_results": ("DicomWriter", "SegmentedNodule", "can_write_dicom"),
    "panel": ("draw_panel",),
    "places": ("Place", "find_points", "parse_places"),
    "reading": ("DicomInput", "NiftiInput", "RasterInput", "VolumeInput", "open_input"),
    "writing": ("OutputFolder", "save_png", "save_samples", "save_volume"),
}


def __getattr__(name: str) -> Any:
    for home, names in HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
