"""Training on what was labelled in MONAI Label: it becomes a prepared folder, and a bundle trains on.

Pictures are used whole. In a volume every connected region of the label is a nodule: a crop is cut around its middle
out of every axial slice that it touches. With weights at hand the last stage continues from them and the codecs stay as
they are, so that latents keep their meaning; without, all stages are trained.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage

from ...bundle.config import load_stage_config
from ...bundle.folders import find_bundle
from ...data.labelled import add_labels, crop_case
from ...data.schema import make_case_id
from ...data.sources.images import image_stem, read_image, read_masks
from ...data.sources.source import PreparedCase
from ...data.splits import split_by_ratio
from ...errors import InputError
from ...files import file_sha256
from ...io.formats import NIFTI_SUFFIXES
from ...io.planes import cut_axial, find_slice_axis, index_to_point
from ...training.run import train

logger = logging.getLogger(__name__)


def prepare_labelled(
    items: Sequence[Mapping[str, str]], output_dir: str | Path, crop_size: int | None, val_split: float = 0.2
) -> Path:
    """Make a prepared folder of labelled images.

    Args:
        items: ``{"image": file, "label": file}``; a label is on its image's grid, background is 0.
        output_dir: new or empty folder; the prepared data is ``output_dir/prepared``.
        crop_size: side of the crops around nodules, pixels, for bundles that work on crops; otherwise ``None``.
        val_split: share of the images for validation, in (0, 1); at least one.

    Returns:
        The prepared folder.

    Raises:
        InputError: fewer than two labelled images with something to train on, a label that does not fit its image,
            grey values that are no whole numbers of 16 bits, or a folder that is not empty.
    """
    if not 0.0 < val_split < 1.0:
        raise InputError(f"val_split is {val_split}; expected a share in (0, 1), e.g. 0.2.")
    output_dir = Path(output_dir)
    if output_dir.is_dir() and any(output_dir.iterdir()):
        raise InputError(f"{output_dir}: holds files; expected a new or empty folder. Choose another folder.")
    prepared = output_dir / "prepared"
    # A volume of which nothing is marked has no nodule to cut out.
    groups = [
        f"{number:05d}" for number, item in enumerate(items) if not _is_scan(item, crop_size) or _mark(item).any()
    ]
    if items and not groups:
        raise InputError(f"The labels of all {len(items)} images are empty: there is no nodule to train on.")
    if len(groups) < 2:
        raise InputError(
            f"{len(groups)} labelled image(s), not counting {len(items) - len(groups)} in which no nodule is marked; "
            "expected at least two, one to train on and one to validate. Submit more labels."
        )
    parts = split_by_ratio(groups, f"{1.0 - val_split}:{val_split}:0", seed=0)
    split = f"a share of {val_split} of the images for validation, drawn with seed 0"
    for group in groups:
        item = items[int(group)]
        # The number keeps apart what differs in characters that are not allowed in case ids.
        name = f"{group}_{make_case_id(image_stem(Path(item['image'])))}"
        cases = _cut_nodules(item, name, crop_size) if _is_scan(item, crop_size) else [_read_picture(item, name)]
        file = Path(item["image"])
        add_labels(prepared, group, name, cases, (file.name, file_sha256(file)), parts[group], split)
    return prepared


def train_labelled(
    bundle: str | Path,
    items: Sequence[Mapping[str, str]],
    output_dir: str | Path,
    val_split: float = 0.2,
    pretrained: bool = True,
    **overrides: Any,
) -> Path:
    """Train a bundle on labelled images.

    Args:
        bundle: folder or name.
        items: see :func:`prepare_labelled`.
        output_dir: new folder; gets ``dataset`` and ``run``.
        val_split: share of the images for validation.
        pretrained: continue from the bundle's weights, if it has any.
        overrides: configuration keys, e.g. ``max_epochs=1``.

    Returns:
        The run's folder; its weights are ``models/model.pt``.

    Raises:
        InputError: see :func:`prepare_labelled` and :func:`~medseglatdiff_monai.training.run.train`.
    """
    root, output = find_bundle(bundle), Path(output_dir).absolute()
    weights = root / "models" / "model.pt"
    start = weights if pretrained and weights.is_file() else None
    crop_size = load_stage_config(root, "inference").get("crop_size")
    prepared = prepare_labelled(items, output / "dataset", crop_size, val_split)
    return train(root, prepared, output_dir=output / "run", initial_weights=start, plan=False, **overrides)


def _load(path: str) -> Any:
    try:
        return nibabel.load(path)
    except Exception as error:  # nibabel raises many kinds
        raise InputError(f"{path}: unreadable, or no NIfTI ({error}). Save images and labels as .nii.gz.") from error


def _is_scan(item: Mapping[str, str], crop_size: int | None) -> bool:
    """Whether nodules are cut out of the image."""
    nifti = crop_size is not None and item["image"].lower().endswith(NIFTI_SUFFIXES)
    return nifti and _load(item["image"]).shape[2:3] > (1,)


def _mark(item: Mapping[str, str]) -> np.ndarray:
    """What is marked in a volume, (X, Y, Z) bool."""
    volume, regions = _load(item["image"]), _load(item["label"])
    marked = np.asarray(regions.dataobj).reshape(regions.shape[:3]) > 0
    if marked.shape != volume.shape[:3] or not np.allclose(regions.affine, volume.affine, atol=1e-2):
        raise InputError(
            f"{item['label']}: shape {marked.shape} and affine {np.round(regions.affine, 3).tolist()}; expected those "
            f"of its image {item['image']}, {volume.shape[:3]} and {np.round(volume.affine, 3).tolist()}. Draw the "
            "label on the image."
        )
    return marked


def _read_picture(item: Mapping[str, str], name: str) -> PreparedCase:
    """An image that is taken whole."""
    path = Path(item["image"])
    image = read_image(path)
    masks = read_masks([Path(item["label"])], path, image.array, affine=image.affine)
    return PreparedCase(name, image.array, masks, image.spacing_mm, image.affine)


def _cut_nodules(item: Mapping[str, str], name: str, size: int | None) -> list[PreparedCase]:
    """One crop per nodule and slice."""
    assert size is not None  # `_is_scan` has looked
    volume, marked = _load(item["image"]), _mark(item)
    array = np.asarray(volume.dataobj, dtype=np.float32).reshape(volume.shape[:3])
    affine = torch.from_numpy(np.asarray(volume.affine, dtype=float))
    scan = MetaTensor(torch.from_numpy(array)[None], affine=affine)
    axis, _ = find_slice_axis(volume.affine)
    numbered, count = ndimage.label(marked, structure=np.ones((3, 3, 3)))
    cases = []
    for number in range(1, count + 1):
        nodule = numbered == number
        mask = MetaTensor(torch.from_numpy(nodule.astype(np.uint8))[None], affine=affine)
        center = np.rint(ndimage.center_of_mass(nodule))
        for index in np.flatnonzero(nodule.any(axis=tuple(other for other in range(3) if other != axis))):
            center[axis] = index
            point = index_to_point(center, volume.affine)
            outline = cut_axial(mask, point, size)[0].numpy()
            crop = cut_axial(scan, point, size)
            cases.append(crop_case(f"{name}-nodule{number}-slice{index}", crop, outline, Path(item["image"])))
    return cases
