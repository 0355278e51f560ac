"""Saving an accepted mask as a label: into a folder that `train` takes, and of a series as DICOM SEG, too."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from ...data.labelled import add_labels, crop_case
from ...data.schema import make_case_id
from ...data.sources.images import read_image
from ...data.sources.source import PreparedCase
from ...errors import InputError
from ...files import file_sha256
from ...io.dicom_results import DicomWriter, SegmentedNodule
from ...io.formats import NIFTI_SUFFIXES, RASTER_SUFFIXES, find_stem
from ...io.planes import index_to_point, point_to_index
from ...io.raster import RasterInput
from ...io.reading import DicomInput, VolumeInput
from ...predict.record import describe_run
from .case import OpenCase, Shown
from .draft import Draft

RUN_KEYS = ("bundle", "bundle_version", "weights_sha256", "num_samples", "num_inference_steps", "seed")


# Characters of a file's name that a case id may repeat; what is cut off is in the digest.
NAME_LENGTH = 120


def name_thing(path: Path) -> str:
    """Name of a picture, or of the scan of a nodule, that can be a case id: another one for every file name.

    ``a.png`` is ``a``; what does not keep its name so (``a b.png``, ``a.jpg``) gets a digest of the name.
    """
    name = make_case_id(find_stem(path, RASTER_SUFFIXES + NIFTI_SUFFIXES))[:NAME_LENGTH]
    return name if path.name == f"{name}.png" else f"{name}-{_digest(path.resolve().name, 8)}"


def save_label(case: OpenCase, shown: Shown, draft: Draft, folder: str | Path, who: str) -> str:
    """Save a label.

    A picture is one case; of a nodule every slice is one that the mask reaches into, or the clicked one if it is empty.
    Saved again, it takes the place of what was saved before.

    Args:
        case: the image.
        shown: its ensemble.
        draft: the mask, and where it comes from.
        folder: of the labels, see :func:`~medseglatdiff_monai.data.labelled.add_labels`.
        who: name of whoever accepted it.

    Returns:
        What was saved, as a message.

    Raises:
        InputError: no name; the folder cannot be written to, or holds something else; pixels that `prepare` would
            refuse as well.
    """
    if not who.strip():
        raise InputError("Nobody is named who accepts the label; write a name into the field 'Rater'.")
    ensemble, source = shown.ensemble, case.source
    run = describe_run(dataclasses.replace(case.segmenter, inferer=shown.sampling), None)
    labelled = {
        "by": who.strip(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "sample": None if draft.sample is None else draft.sample + 1,
        "threshold": draft.threshold,
        "corrected": draft.corrected,
        **{key: run[key] for key in RUN_KEYS},
    }
    if isinstance(source, DicomInput):
        # A split must keep a patient together; it need not know who it is. Folders of many series have one name.
        group = f"patient-{_digest(source.series.patient_id, 12)}"
        digest = _digest(f"{source.series.patient_id} {source.series.uid}")
        thing = f"{make_case_id(source.stem)[:NAME_LENGTH]}-{digest[:8]}"
    else:
        thing = group = name_thing(source.path)
        digest = file_sha256(source.path)
    numbers = np.flatnonzero(draft.mask.any((1, 2))).tolist() or [ensemble.clicked]
    if not isinstance(source, RasterInput) and case.needs_point:
        plane = ensemble.planes[ensemble.clicked]
        # The clicked pixel is the middle of the crop.
        middle = index_to_point([plane.shape[1] // 2, plane.shape[2] // 2, 0], np.asarray(plane.affine, dtype=float))
        voxel = np.rint(point_to_index(middle.tolist(), source.affine)).astype(int)
        thing = f"{thing}-{'_'.join(map(str, voxel))}"
    names = [f"{thing}-slice{number}" for number in numbers] if case.needs_point else [thing]
    cases = [
        _make_case(name, source, ensemble.planes[number], draft.mask[number], labelled)
        for name, number in zip(names, numbers, strict=True)
    ]
    path = add_labels(folder, group, thing, cases, (source.path.resolve().name, digest))
    saved = f"Saved {draft.describe()} as label: {len(cases)} case(s) in {path}"
    if not isinstance(source, DicomInput):
        return f"{saved}."
    start, mask = source.paste_stack(torch.from_numpy(draft.mask.astype(np.uint8)), ensemble.planes)
    target = path.parent / "dicom" / f"{thing}_label.dcm"
    target.parent.mkdir(exist_ok=True)
    nodule = SegmentedNodule(start, mask, mask.astype(np.float32), {})
    try:
        DicomWriter(source, run).write_label(nodule, target, who.strip(), draft.describe())
    except InputError as error:
        # That of an earlier label would contradict this one.
        target.unlink(missing_ok=True)
        return f"{saved}; no DICOM SEG: {error}"
    return f"{saved}, and {target}."


def _make_case(
    name: str, source: RasterInput | VolumeInput, plane: MetaTensor, mask: np.ndarray, labelled: dict[str, Any]
) -> PreparedCase:
    """A plane (1, h, w) of a volume, or a whole picture, with its mask (h, w)."""
    if isinstance(source, RasterInput):
        # A picture has no millimetres.
        return PreparedCase(name, read_image(source.path).array, mask[None], extra={"labelled": labelled})
    return crop_case(name, plane, mask, source.path, hounsfield=isinstance(source, DicomInput), labelled=labelled)


def _digest(text: str, length: int | None = None) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
