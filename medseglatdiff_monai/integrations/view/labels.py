"""Saving an accepted mask as a label: into a folder that `train` takes, and of a series as DICOM SEG, too."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from ...data.labelled import add_labels, crop_case
from ...data.sources.source import PreparedCase
from ...errors import InputError
from ...extras import EXTRAS
from ...io.dicom_results import DicomWriter, SegmentedNodule
from ...io.planes import index_to_point, point_to_index
from ...io.raster import RasterInput
from ...io.reading import DicomInput
from ...predict.record import describe_run
from .case import OpenCase, Shown
from .draft import Draft

RUN_KEYS = ("bundle", "bundle_version", "weights_sha256", "num_samples", "num_inference_steps", "seed")


def name_thing(stem: str) -> str:
    """Name of a picture, or of the scan of a nodule, that can be a case id."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-") or "case"


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
        InputError: no name; the folder cannot be written to, or holds something else.
    """
    if not who.strip():
        raise InputError("Nobody is named who accepts the label; write a name into the field 'Rater'.")
    ensemble, source = shown.ensemble, case.source
    run = describe_run(dataclasses.replace(case.segmenter, inferer=shown.sampling), None, shown.sampling.seed)
    labelled = {
        "by": who.strip(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "sample": None if draft.sample is None else draft.sample + 1,
        "threshold": draft.threshold,
        "corrected": draft.corrected,
        **{key: run[key] for key in RUN_KEYS},
    }
    thing = group = name_thing(source.stem)
    numbers = np.flatnonzero(draft.mask.any((1, 2))).tolist() or [ensemble.clicked]
    if not isinstance(source, RasterInput) and case.needs_point:
        plane = ensemble.planes[ensemble.clicked]
        # The clicked pixel is the middle of the crop.
        middle = index_to_point([plane.shape[1] // 2, plane.shape[2] // 2, 0], np.asarray(plane.affine, dtype=float))
        voxel = np.rint(point_to_index(middle.tolist(), source.affine)).astype(int)
        thing = f"{group}-{'_'.join(map(str, voxel))}"
    names = [f"{thing}-slice{number}" for number in numbers] if case.needs_point else [thing]
    if isinstance(source, DicomInput):
        # A split must keep a patient together; it need not know who it is.
        group = "patient-" + hashlib.sha256(source.series.patient_id.encode()).hexdigest()[:12]
    cases = [
        _make_case(name, ensemble.planes[number], draft.mask[number], isinstance(source, RasterInput), labelled)
        for name, number in zip(names, numbers, strict=True)
    ]
    path = add_labels(folder, group, thing, cases)
    saved = f"Saved {draft.describe()} as label: {len(cases)} case(s) in {path}"
    if not isinstance(source, DicomInput):
        return f"{saved}."
    if not EXTRAS["dicom"].is_installed():
        return f"{saved}; no DICOM SEG, since highdicom (extra 'dicom') is not installed."
    start, mask = source.paste_stack(torch.from_numpy(draft.mask.astype(np.uint8)), ensemble.planes)
    target = path.parent / "dicom" / f"{thing}_label.dcm"
    target.parent.mkdir(exist_ok=True)
    nodule = SegmentedNodule(start, mask, mask.astype(np.float32), {})
    DicomWriter(source, run).write_label(nodule, target, who.strip(), draft.describe())
    return f"{saved}, and {target}."


def _make_case(name: str, plane: MetaTensor, mask: np.ndarray, picture: bool, labelled: dict[str, Any]) -> PreparedCase:
    """A plane (C, H, W) with its mask (H, W)."""
    if not picture:
        return crop_case(name, plane, mask, labelled=labelled)
    values = plane.as_tensor().numpy()
    image = values.astype(np.uint8 if values.max() <= 255 else np.int16)
    # A picture has no millimetres.
    return PreparedCase(
        name, image[0] if len(image) == 1 else image.transpose(1, 2, 0), mask[None], extra={"labelled": labelled}
    )
