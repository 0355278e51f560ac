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
from ...data.prepare import prepare
from ...data.sources.images import IMAGE_SUFFIXES, image_stem
from ...errors import InputError
from ...io.planes import ExtractNoduleCrop, index_to_point
from ...training.run import train

logger = logging.getLogger(__name__)

NIFTI_SUFFIXES = (".nii", ".nii.gz")


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
        InputError: fewer than two labelled images, a label that does not fit its image, or labels that are all empty.
    """
    if not 0.0 < val_split < 1.0:
        raise InputError(f"val_split is {val_split}; expected a share in (0, 1), e.g. 0.2.")
    if len(items) < 2:
        raise InputError(
            f"{len(items)} labelled image(s); expected at least two, one to train on and one to validate. "
            "Submit more labels."
        )
    output = Path(output_dir)
    images, masks = output / "images", output / "masks"
    for folder in (images, masks):
        folder.mkdir(parents=True)
    for number, item in enumerate(items):
        image, label = Path(item["image"]), Path(item["label"])
        # The number keeps apart what differs in characters that are not allowed in case ids; '_' ends the group.
        stem = f"{number:05d}_{image_stem(image)}"
        if crop_size is not None and image.name.lower().endswith(NIFTI_SUFFIXES) and _load(image).shape[2:3] > (1,):
            _cut_nodules(image, label, images, masks, stem, crop_size)
        else:
            for source, folder in ((image, images), (label, masks)):
                suffix = next((end for end in IMAGE_SUFFIXES if source.name.lower().endswith(end)), None)
                if suffix is None:
                    raise InputError(f"{source}: unknown format; expected {', '.join(IMAGE_SUFFIXES)}.")
                (folder / f"{stem}{suffix}").symlink_to(source.resolve())
    if not any(images.iterdir()):
        raise InputError(f"The labels of all {len(items)} images are empty: there is no nodule to train on.")
    shares = f"{1.0 - val_split}:{val_split}:0"
    prepared = output / "prepared"
    prepare(
        "folder", output_dir=prepared, images=str(images), masks=str(masks), group_pattern=r"^(\d+)_", ratios=shares,
        workers=1,
    )  # fmt: skip
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


def _load(path: Path) -> Any:
    try:
        return nibabel.load(path)
    except Exception as error:  # nibabel raises many kinds
        raise InputError(f"{path}: unreadable, or no NIfTI ({error}). Save images and labels as .nii.gz.") from error


def _cut_nodules(image: Path, label: Path, images: Path, masks: Path, stem: str, size: int) -> None:
    """Write one crop per nodule and slice: NIfTI (column, row), int16 and uint8."""
    volume, regions = _load(image), _load(label)
    array = np.asarray(volume.dataobj, dtype=np.float32).reshape(volume.shape[:3])
    marked = np.asarray(regions.dataobj).reshape(regions.shape[:3]) > 0
    if marked.shape != array.shape or not np.allclose(regions.affine, volume.affine, atol=1e-2):
        raise InputError(
            f"{label}: shape {marked.shape} and affine {np.round(regions.affine, 3).tolist()}; expected those of its "
            f"image {image}, {array.shape} and {np.round(volume.affine, 3).tolist()}. Draw the label on the image."
        )
    affine = torch.from_numpy(np.asarray(volume.affine, dtype=float))
    scan = MetaTensor(torch.from_numpy(array)[None], affine=affine)
    axis = int(np.flatnonzero(nibabel.orientations.io_orientation(volume.affine)[:, 0] == 2)[0])
    numbered, count = ndimage.label(marked, structure=np.ones((3, 3, 3)))
    cut = ExtractNoduleCrop(size)
    for number in range(1, count + 1):
        nodule = numbered == number
        mask = MetaTensor(torch.from_numpy(nodule.astype(np.uint8))[None], affine=affine)
        center = np.rint(ndimage.center_of_mass(nodule))
        for index in np.flatnonzero(nodule.any(axis=tuple(other for other in range(3) if other != axis))):
            center[axis] = index
            point = index_to_point(center, volume.affine)
            crop = cut(scan, point)
            pixels = np.rint(crop[0].numpy()).clip(-32768, 32767).astype(np.int16)
            outline = cut(mask, point)[0].numpy()
            # (row, column) to (column, row), as NIfTI files of pictures are laid out.
            grid = np.asarray(crop.affine, dtype=float)[:, [1, 0, 2, 3]]
            name = f"{stem}-nodule{number}-slice{index}.nii.gz"
            nibabel.Nifti1Image(pixels.T, grid).to_filename(images / name)
            nibabel.Nifti1Image(np.ascontiguousarray(outline.T), grid).to_filename(masks / name)
