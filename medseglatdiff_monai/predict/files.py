"""The command ``predict``: from users' files to ensembles of masks, written in each file's own geometry.

A picture goes through the bundle's preprocessing as in training; of a CT volume first the axial slices and in them the
crop around the nodule are cut out, and each is prepared by itself. The samples are brought back by inverting the
preprocessing (linear interpolation and a threshold of 1/2 where it resized), and there confidence = mean of the
samples, consensus = confidence ≥ threshold or what another fusion makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.segmenter import load_segmenter
from ..errors import InputError
from ..io.dicom_results import DicomWriter, can_write_dicom
from ..io.places import find_points
from ..io.raster import RasterInput
from ..io.reading import DicomInput, VolumeInput, open_input
from .arguments import check_predict
from .image import segment_image
from .nodule import segment_nodule
from .record import describe_run
from .results import PredictionRun, write_nodules, write_plane

if TYPE_CHECKING:
    import torch

__all__ = ["predict"]


def predict(
    bundle: str | Path,
    inputs: str | Path | Sequence[str | Path],
    output_dir: str | Path,
    weights: str | Path | None = None,
    experiment: str | None = None,
    num_samples: int | None = None,
    num_inference_steps: int | None = None,
    seed: int = 0,
    point: Any = None,
    index: Any = None,
    roi: Any = None,
    slices: int | None = None,
    reach_mm: float = 30.0,
    dicom: bool | None = None,
    device: str | torch.device | None = None,
    **overrides: Any,
) -> list[dict[str, Any]]:
    """Sample an ensemble of masks for each input and write it.

    For an input ``NAME.…`` the ``output_dir`` receives ``NAME_consensus`` and ``NAME_confidence`` (PNG of the input's
    size, 0 or 255 and round(255 · confidence); NIfTI of the volume's shape and affine, uint8 and float32,
    for NIfTI and DICOM), ``NAME_panel.png``, ``NAME_samples.npz`` (``samples``, ``confidence``, ``consensus``,
    ``entropy`` on the plane of the prediction) and ``NAME_prediction.json``. They appear together once the input is
    done; an earlier prediction is replaced.

    For a volume and a place the whole nodule is segmented: the clicked slice and its neighbours up and down until the
    consensus is empty (see :func:`~medseglatdiff_monai.predict.nodule.segment_nodule`). The JSON then has a list
    ``nodules`` with volume, diameter, area and agreement of each
    (:meth:`~medseglatdiff_monai.predict.ensemble.Ensemble.describe`). The arrays of the ``.npz`` get a slice axis,
    (N, S, H, W) or (S, H, W) from the feet upwards, unless ``slices`` is 1, and ``affine``, (row, column, slice) to RAS
    millimetres. With several nodules the n-th has the number n in the consensus NIfTI (where two overlap, the more
    confident; the confidence is the higher one) and ``NAME_samples_n.npz`` and ``NAME_panel_n.png``. For a DICOM series
    ``NAME_seg_consensus.dcm``, ``NAME_seg_confidence.dcm`` and ``NAME_report.dcm`` are written, too
    (:class:`~medseglatdiff_monai.io.DicomWriter`).

    Args:
        bundle: folder, or name under ``bundles/``.
        inputs: PNG, JPEG and NIfTI files, and folders that hold one DICOM CT series each.
        output_dir: where the files go.
        weights: other weights than the bundle's own.
        experiment: overlay that the weights were trained with.
        num_samples: masks per input; default the bundle's. An interval of volumes wants 16 or more.
        num_inference_steps: denoiser calls per mask; default the bundle's.
        seed: the noise is that of (seed, sample index), the same for every input and every slice.
        point: where the nodule is in a volume, (x, y, z) in LPS millimetres; a list of such for several nodules of one
            volume; with several volumes a list with an entry (a place or a list of places) for each.
        index: the same as a voxel index (i, j, k): column, row, slice of a DICOM series.
        roi: the same as a box, (x0, y0, z0, x1, y1, z1) in LPS millimetres, whose centre is taken.
        slices: at most this many slices of a nodule, an odd number; 1 takes the clicked slice alone, without a volume.
        reach_mm: no slice of a nodule farther than this from the clicked one, millimetres.
        dicom: write DICOM results of a DICOM series; by default where highdicom (extra ``dicom``) is installed.
        device: e.g. ``"cuda:1"``; by default CUDA if there is one.
        overrides: configuration keys of the bundle.

    Returns:
        For each input the contents of ``NAME_prediction.json``, with absolute paths under ``files``.

    Raises:
        InputError: see :func:`~medseglatdiff_monai.bundle.segmenter.load_segmenter` and
            :func:`~medseglatdiff_monai.io.open_input`; an argument out of its range; a place that is missing, given
            twice, outside the volume or not needed; an image that the network cannot take; DICOM results asked for
            without highdicom, or of a series that lacks what they must repeat.
    """
    paths, places = check_predict(
        inputs, num_samples, num_inference_steps, seed, point, index, roi, slices, reach_mm, dicom, device
    )
    segmenter = load_segmenter(
        bundle, weights, experiment, device,
        num_samples=num_samples, num_inference_steps=num_inference_steps, seed=seed, **overrides,
    )  # fmt: skip
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
                "Predict them in separate calls with another --output-dir each."
            )
