"""The command ``to-nnunet``: a prepared folder in the layout that nnU-Net trains on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..console import Progress
from ..data.datalist import load_datalist, load_dataset_info
from ..data.splits import SPLITS
from ..errors import InputError
from ..files import save_bytes, save_json
from ..io.formats import NIFTI_SUFFIXES

if TYPE_CHECKING:
    import numpy as np

# nnU-Net's convention for the spacing between slices of a two-dimensional image.
NO_SLICES_MM = 999.0


def to_nnunet(dataset_dir: str | Path, output_dir: str | Path) -> Path:
    """Write a prepared folder as nnU-Net v2 reads it: one label, the pixels that at least half of the raters marked.

    The training part becomes imagesTr and labelsTr, validation and test imagesTs: train with the fold all. What
    nnUNetv2_predict writes for imagesTs is scored by medseglatdiff score, or in a benchmark by
    --run "nnU-Net=FOLDER".

    Example: medseglatdiff to-nnunet data/lidc --output-dir nnUNet_raw/Dataset501_LIDC

    Args:
        dataset_dir: prepared folder of images, not of volumes.
        output_dir: new or empty folder, named DatasetNNN_NAME as nnU-Net wants it.

    Returns:
        The output folder.

    Raises:
        InputError: another name; a folder that holds something; no prepared folder, or one of volumes.
    """
    output, info = Path(output_dir), load_dataset_info(dataset_dir)
    if not re.fullmatch(r"Dataset\d{3}_[\w-]+", output.name):
        raise InputError(f"--output-dir {output}: expected a name such as Dataset501_{info['name'].split('-')[0]}.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output-dir {output} holds something already; expected a new or empty folder.")
    import numpy as np

    from ..io.prepared import LoadCase
    from ..metrics.masks import fuse_masks

    parts = [(name, load_datalist(dataset_dir, name)) for name in SPLITS if info.get(name)]
    load_image, load_masks = LoadCase(), LoadCase(is_label=True)
    with Progress("Writing", sum(len(items) for _, items in parts), "cases") as bar:
        for name, items in parts:
            end = "Tr" if name == "training" else "Ts"
            for item in items:
                image = load_image(item["image"]).numpy()
                if image.ndim != 3 or len(image) != info["num_channels"]:
                    raise InputError(
                        f"{item['image']}: shape {image.shape}; expected an image of {info['num_channels']} "
                        "channel(s). Volumes are not written: nnU-Net reads them as they are."
                    )
                if not item["image"].endswith(NIFTI_SUFFIXES):
                    image = image.astype(np.uint8)
                spacing = item.get("spacing_mm") or (1.0, 1.0)
                for number, channel in enumerate(image):
                    _save(channel, spacing, output / f"images{end}" / f"{item['case']}_{number:04}.nii.gz")
                if end == "Tr":
                    label = fuse_masks(load_masks(item["label"])[None] > 0)[0, 0].numpy()
                    _save(label.astype(np.uint8), spacing, output / "labelsTr" / f"{item['case']}.nii.gz")
                bar.update()
    # Last: nnU-Net takes no folder without it. Its normalisation of CT is made for Hounsfield units.
    hounsfield = info.get("modality") == "CT" and info["training"][0]["image"].endswith(NIFTI_SUFFIXES)
    grey = "CT" if hounsfield else "grey"
    names = [grey] if info["num_channels"] == 1 else ["R", "G", "B"]
    save_json(
        {
            "channel_names": {str(number): name for number, name in enumerate(names)},
            "labels": {"background": 0, info["labels"]["1"]: 1},
            "numTraining": len(info["training"]), "file_ending": ".nii.gz",
        },
        output / "dataset.json",
    )  # fmt: skip
    return output


def _save(plane: np.ndarray, spacing: tuple[float, float], path: Path) -> None:
    """A plane (H, W) as a volume of one slice, rows first as in the prepared folder."""
    import numpy as np

    from ..data.case_files import encode_nifti

    save_bytes(encode_nifti(plane[..., None], np.diag([*spacing, NO_SLICES_MM, 1.0])), path, sync=False)
