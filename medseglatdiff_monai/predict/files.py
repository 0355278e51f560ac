"""From users' files to ensembles of masks, written in each file's own geometry.

A picture goes through the bundle's preprocessing as in training. From a CT volume the crop around the nodule is cut out
of each axial slice first, and prepared by itself. The samples are brought back by inverting the preprocessing (linear
interpolation and a threshold of 1/2 where it resized). On the original grid, confidence = mean of the samples, and
consensus = confidence ≥ threshold, or the result of another fusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..bundle.segmenter import Segmenter
from ..errors import InputError
from ..io.dicom_results import DicomWriter, can_write_dicom
from ..io.places import Place, find_points
from ..io.raster import RasterInput
from ..io.reading import DicomInput, VolumeInput, open_input
from .image import segment_image
from .nodule import segment_nodule
from .record import describe_run
from .results import PredictionRun, write_nodules, write_plane

__all__ = ["predict_inputs"]


def predict_inputs(
    segmenter: Segmenter,
    paths: Sequence[Path],
    places: Sequence[Sequence[Place]],
    output_dir: str | Path,
    experiment: str | None,
    seed: int,
    slices: int | None,
    reach_mm: float,
    dicom: bool | None,
) -> list[dict[str, Any]]:
    """Sample an ensemble of masks for each input and write it, see :func:`~medseglatdiff_monai.predict.predict`.

    Args:
        segmenter: the loaded bundle.
        paths: the inputs.
        places: where to look in each of them.
        output_dir: where the files go.
        experiment: overlay that the weights were trained with, for the record.
        seed: of the noise, for the record.
        slices: at most this many slices of a nodule, or ``None``.
        reach_mm: no slice of a nodule farther than this from the clicked one.
        dicom: whether DICOM results are written; ``None`` where they can be.
    """
    # All headers before the first pixel: a misspelt last input should not cost the work on the first.
    opened = [open_input(path, segmenter.in_channels) for path in paths]
    _check_stems(opened)
    points = [
        find_points(source, where, segmenter.crop_size is not None, segmenter.bundle_dir.name)
        for source, where in zip(opened, places, strict=True)
    ]
    record = describe_run(segmenter, experiment, seed)
    wanted = can_write_dicom() if dicom is None else dicom
    writers = [DicomWriter(source, record) if wanted and isinstance(source, DicomInput) else None for source in opened]
    run = PredictionRun(segmenter, record, Path(output_dir), slices, reach_mm, dicom)
    results = []
    for source, where, at, writer in zip(opened, places, points, writers, strict=True):
        if len(at):
            assert not isinstance(source, RasterInput)  # which has no places
            nodules = [segment_nodule(segmenter, source, point, None, slices, reach_mm) for point in at]
            results.append(write_nodules(source, where, at, nodules, run, writer))
        else:
            results.append(write_plane(source, segment_image(segmenter, source), run))
    return results


def _check_stems(opened: Sequence[RasterInput | VolumeInput]) -> None:
    seen: dict[str, Path] = {}
    for source in opened:
        other = seen.setdefault(source.stem, source.path)
        if other is not source.path:
            raise InputError(
                f"{source.path} and {other}: two inputs called {source.stem!r}, whose files would have the same names. "
                "Predict them in separate calls, each with its own --output-dir."
            )
