"""What `predict` reads and writes: PNG, JPEG, NIfTI, DICOM in; masks, maps, panels, DICOM SEG and SR out."""

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
