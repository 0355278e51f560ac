"""The command `predict`: its arguments are checked before torch and MONAI are imported, which takes seconds."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.segmenter import load_segmenter
from ..errors import InputError
from ..extras import require
from ..io.dicomweb import Archive
from ..io.formats import list_inputs
from ..io.places import parse_places
from ..startup import heavy_imports
from .arguments import check_options

if TYPE_CHECKING:
    import torch


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
    dicomweb: str | None = None,
    device: str | torch.device | None = None,
    **overrides: Any,
) -> list[dict[str, Any]]:
    """Sample an ensemble of masks: consensus and confidence in the input's geometry, samples, and a picture.

    For an input NAME.… these files are written to output_dir: NAME_consensus and NAME_confidence (PNG of the input's
    size, 0 or 255 and round(255 · confidence); NIfTI of the volume's shape and affine, uint8 and float32, for NIfTI and
    DICOM), NAME_panel.png, NAME_samples.npz (samples, confidence, consensus, entropy on the plane of the prediction)
    and NAME_prediction.json. They appear together once the input is done; an earlier prediction is replaced.

    In a volume the whole nodule at the given place is segmented: the clicked slice and its neighbours up and down until
    the consensus is empty. The JSON then has a list "nodules" with volume in mm³, diameter, area and agreement of each,
    with intervals. The arrays of the .npz get a slice axis, (N, S, H, W) or (S, H, W) from the feet upwards, unless
    slices is 1, and there are "affine", (row, column, slice) to RAS millimetres, "image" and "clicked", the number of
    the clicked slice. With several nodules, the n-th is number n in the consensus NIfTI (where two overlap, the more
    confident; the confidence is the higher one), NAME_samples_n.npz and NAME_panel_n.png. For a DICOM series
    NAME_seg_consensus.dcm, NAME_seg_confidence.dcm, NAME_seg_levels.dcm (in 10%, 50% and 90% of the samples),
    NAME_map_confidence.dcm (a Parametric Map) and NAME_report.dcm are written, too, where the extra 'dicom' is
    installed.

    Example: medseglatdiff predict lung_nodule_ct_latent_diffusion SERIES --point=-62.5,41,-120 --output-dir out

    Args:
        bundle: a bundle's folder or name, see medseglatdiff bundles.
        inputs: PNG, JPEG and NIfTI files, folders of PNG and JPEG files, and folders with one DICOM CT series each;
            with dicomweb, SeriesInstanceUIDs.
        output_dir: where the results go.
        weights: other weights than the bundle's own.
        experiment: overlay that the weights were trained with.
        num_samples: samples of each input (default: the bundle's, 16 for the lung bundle, else 5). Of fewer than
            16 no interval is stated.
        num_inference_steps: denoiser calls per sample (default: the bundle's).
        seed: the noise is that of (seed, sample index), the same for every input and every slice.
        point: x,y,z of a nodule in patient millimetres (LPS), as --point=-62.5,41,-120; for several nodules of one
            volume with semicolons between them, as --point="-62.5,41,-120;30,12,-85". From Python also a sequence, a
            list of places, and for several volumes a list with an entry (a place or a list of places) for each.
        index: i,j,k of a nodule, a voxel: column, row, slice of a DICOM series; several as with point.
        roi: x0,y0,z0,x1,y1,z1 of a box around a nodule in patient millimetres (LPS), whose centre is taken; several as
            with point.
        slices: at most this many slices of a nodule, an odd number; 1: the clicked slice alone, no volume. By default
            all, until the consensus is empty.
        reach_mm: no slice farther than this from the clicked one (nodules measure at most 30 mm).
        dicom: True: DICOM SEG and SR of a series must be written; False: they are not; by default they are where
            highdicom (extra dicom) is installed.
        dicomweb: address of a DICOMweb service, such as http://127.0.0.1:8042/dicom-web: the series are fetched from
            it, and the DICOM results stored in it, too. User and password are taken from .netrc. Needs the extras
            dicomweb and dicom.
        device: cpu, cuda, a numbered one such as cuda:1, or mps; by default CUDA if there is one.
        overrides: configuration keys.

    Returns:
        For each input the contents of ``NAME_prediction.json``, with absolute paths under ``files``.

    Raises:
        InputError: see :func:`~medseglatdiff_monai.bundle.segmenter.load_segmenter` and
            :func:`~medseglatdiff_monai.io.open_input`; a folder that holds neither pictures nor DICOM files, or both;
            an argument out of its range; a place that is missing, given twice, outside the volume or not needed; an
            image that the network cannot take; DICOM results asked for without highdicom, or of a series that lacks
            what they must repeat; an archive that has no such series, does not answer, or does not take the results.
    """
    given = [Path(path) for path in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    if not given:
        raise InputError(
            "No input: give at least one PNG, JPEG or NIfTI file, a folder of pictures, or one of a DICOM CT series."
        )
    check_options(num_samples, num_inference_steps, seed, slices, reach_mm, dicom, {**overrides, "device": device})
    with contextlib.ExitStack() as stack:
        archive = None
        if dicomweb is not None:
            if dicom is False:
                raise InputError(
                    "--dicom False is given with --dicomweb, to which DICOM results go; leave one of them out."
                )
            require("dicom", "--dicomweb")
            archive, dicom = Archive(dicomweb), True
        paths = given if archive is not None else [path for entry in given for path in list_inputs(entry)]
        places = parse_places({"point": point, "index": index, "roi": roi}, len(paths))
        segmenter = load_segmenter(
            bundle, weights, experiment, device,
            num_samples=num_samples, num_inference_steps=num_inference_steps, seed=seed, **overrides,
        )  # fmt: skip
        if archive is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="medseglatdiff-")))
            paths = [archive.fetch(str(uid), folder) for uid in given]
        with heavy_imports():
            from .results import predict_inputs

        results = predict_inputs(segmenter, paths, places, output_dir, experiment, slices, reach_mm, dicom)
        if archive is not None:
            archive.store(
                [Path(path) for result in results for path in result["files"].values() if path.endswith(".dcm")]
            )
    return results
