"""The files of a prepared case: the image, and the masks with a channel per rater."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import save_bytes
from .schema import CASE_ID, CASE_ID_MEANS
from .sources.source import PreparedCase


def write_case(case: PreparedCase, group: str, output: Path, written: list[Path]) -> tuple[dict[str, Any], list[Any]]:
    """Write one case; returns its datalist item and what all cases must agree on.

    That is [channels, suffix, raters], with "volume" added for a volume.
    """
    image, masks = np.asarray(case.image), np.asarray(case.masks)
    volume = masks.ndim == 4
    if not CASE_ID.fullmatch(case.case):
        raise InputError(f"case id {case.case!r} is not a safe file name; expected {CASE_ID_MEANS}.")
    if masks.ndim not in (3, 4) or masks.shape[0] < 1 or masks.shape[1:] != image.shape[: masks.ndim - 1]:
        raise InputError(f"{case.case}: masks of shape {masks.shape} do not fit the image of shape {image.shape}.")
    if masks.max(initial=0) > 1 or masks.min(initial=0) < 0:
        raise InputError(f"{case.case}: mask values run from {masks.min()} to {masks.max()}; expected 0 and 1.")
    if any(key.startswith("image_") for key in case.extra):
        raise InputError(f"{case.case}: extra keys must not start with 'image_' (MONAI takes them for metadata).")
    affine = case.affine
    if affine is None:
        affine = np.diag([*((case.spacing_mm or (1.0, 1.0)) + (1.0, 1.0))[:3], 1.0])

    if image.dtype == np.int16 and image.ndim == (3 if volume else 2):
        suffix, image_bytes = ".nii.gz", encode_nifti(image, affine)
    elif image.dtype == np.uint8 and not volume and (image.ndim == 2 or image.shape[2:] == (3,)):
        suffix, image_bytes = ".png", _encode_png(image)
    else:
        raise InputError(
            f"{case.case}: image of shape {image.shape} and type {image.dtype}; expected 8-bit grey or RGB, or 16-bit "
            "grey, or a 16-bit volume."
        )
    item: dict[str, Any] = {
        "image": f"images/{case.case}{suffix}",
        "label": f"masks/{case.case}.nii.gz",
        "case": case.case,
        "group": group,
        "spacing_mm": None if case.spacing_mm is None else [float(value) for value in case.spacing_mm],
        **case.extra,
    }
    label_bytes = encode_nifti(np.moveaxis(masks, 0, -1).astype(np.uint8), affine)
    for name, content in ((item["image"], image_bytes), (item["label"], label_bytes)):
        # Thousands of files: the disk is waited for once, before dataset.json calls them complete.
        save_bytes(content, output / name, sync=False)
        written.append(output / name)
    layout = [3 if image.ndim == 3 and not volume else 1, suffix, int(masks.shape[0])]
    return item, [*layout, "volume"] if volume else layout


def _encode_png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def encode_nifti(array: np.ndarray, affine: np.ndarray) -> bytes:
    """Bytes of a ``.nii.gz``, the same for the same array and affine; millimetres."""
    import nibabel

    image = nibabel.Nifti1Image(np.ascontiguousarray(array), np.asarray(affine, dtype=np.float64))
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)  # no time stamp: same bytes every run
