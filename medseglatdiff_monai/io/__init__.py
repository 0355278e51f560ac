"""What `predict` reads and writes: PNG, JPEG, NIfTI, DICOM in; masks, maps and panels in the same geometry out."""

from .comparison import ComparedCase, draw_comparison
from .panel import draw_panel
from .places import Place, find_point, parse_places
from .reading import DicomInput, NiftiInput, RasterInput, VolumeInput, open_input
from .writing import OutputFolder, save_png, save_samples, save_volume

__all__ = [
    "ComparedCase",
    "DicomInput",
    "NiftiInput",
    "OutputFolder",
    "Place",
    "RasterInput",
    "VolumeInput",
    "draw_comparison",
    "draw_panel",
    "find_point",
    "open_input",
    "parse_places",
    "save_png",
    "save_samples",
    "save_volume",
]
