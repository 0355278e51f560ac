"""The metadata and model card of a new bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import save_text
from .config import Bundle

PLACEHOLDER = "FILL IN"

VERSION = "0.1.0"
METHOD = (
    "Ngoc HT, Nguyen HT, Luong SB, Tran QL. Diffusion Model in Latent Space for Medical Image Segmentation Task. "
    "arXiv:2512.01292, 2025."
)
INTENDED_USE = "Research on segmentation and its uncertainty. Not a medical device; not for diagnosis or treatment."
# Headings of the model zoo's template, in its order.
MODEL_CARD = """\
# {title}: an ensemble of masks by latent diffusion

### Authors
{authors}

### Tags
Segmentation, {modality}, Latent diffusion, Uncertainty

## Model Description
{description}

Method: arXiv 2512.01292. A mask codec compresses masks; a conditional diffusion model samples mask latents, which are
decoded, averaged to a confidence map, and thresholded for the consensus (`threshold` in `configs/inference.json`).

**Intended use.** {intended_use}

This bundle ships no weights yet: train it first (below), and give `--weights` or use the run's folder as the bundle.

## Data
FILL IN: which images of which patients, by which devices; {raters}; how they were split (patients, never images).

#### Preprocessing
{image_classes}.

Input of the network: image (B, {channels}, {shape}) float32 in [0, 1]. Output: (B, 1, {shape}),
the confidence in [0, 1] that a pixel is {structure}. Samples, steps, seed and threshold belong to the inferer and are
changed without reloading the network.

## Performance
FILL IN: the figures of `medseglatdiff evaluate`, with the number of cases, samples and steps.

## Additional Usage Steps
The bundle refers to the installed package `medseglatdiff_monai`.

```
medseglatdiff train {name} --dataset-dir DATA --output-dir runs/{name}
medseglatdiff evaluate runs/{name} --dataset-dir DATA --split validation --num-samples 16 --output-dir results
medseglatdiff predict runs/{name} IMAGE --output-dir out
```

## System Configuration
FILL IN: what it was trained on, and for how long.

## Limitations
- FILL IN: populations, devices and findings that are missing from the data; the model was not measured on them.

## Licences
Code and configurations: Apache-2.0 (`LICENSE`). Data and weights: `docs/data_license.txt`.

## References
- {method}
- FILL IN: the reference of the data.
"""
DATA_LICENSE = """\
Data licence of the bundle {name}

FILL IN: the data that the weights are trained on, who provides it, and its licence with the licence's address.

No image or annotation is part of this bundle. Weights that are trained on the data derive from it.
FILL IN: the terms under which weights may be shared. The code and configurations are under the Apache License 2.0 (see
LICENSE).

FILL IN: citations that the providers ask for.
"""


def make_metadata(
    name: str, opened: Bundle, config: dict, info: Mapping[str, Any], structure: str | None, modality: str | None
) -> dict[str, Any]:
    """``metadata.json``: what follows from the configuration and the data, and placeholders for the rest."""
    # What is outlined, in words.
    what = structure or info.get("labels", {}).get("1") or "foreground"
    known = info.get("modality")
    images = modality or (known if known not in (None, "unknown") else None) or f"{PLACEHOLDER}: modality"
    root, source = opened.root, opened.metadata
    channels, shape = config["image_channels"], [config["image_size"]] * config.get("spatial_dims", 2)
    colours = ["red", "green", "blue"] if channels == 3 else ["intensity"] if channels == 1 else None
    channel_def = {str(i): colours[i] if colours else f"channel {i}" for i in range(channels)}
    tensor = {
        "type": "image", "modality": images, "spatial_shape": shape, "dtype": "float32", "value_range": [0, 1],
        "is_patch_data": False,
    }  # fmt: skip
    raters = info.get("num_raters")
    slots = "one channel per rater" if raters is None else f"{raters} channel(s), one per rater"
    kept = ("schema", "monai_version", "pytorch_version", "numpy_version", "required_packages_version")
    missing = [key for key in kept if key not in source]
    if missing:
        raise InputError(f"{root}/configs/metadata.json has no {', '.join(missing)}: start from a complete bundle.")
    size = "×".join(str(side) for side in shape)
    return {
        "schema": source["schema"],
        "version": VERSION,
        "changelog": {VERSION: f"made from {root.name} {source.get('version', '')}".strip()},
        **{key: source[key] for key in kept[1:]},
        "supported_apps": {},
        "name": name.replace("_", " ").capitalize(),
        "task": f"Segmentation of {what} in {images} as several plausible masks with a confidence map",
        "description": f"Latent diffusion (MedSegLatDiff) that samples several plausible masks of {what} in {images}, "
        "and their confidence map and consensus.",
        "authors": f"{PLACEHOLDER}: authors",
        "copyright": f"{PLACEHOLDER}: copyright holders",
        "data_source": f"{PLACEHOLDER}: name, licence and address of the data",
        "data_type": f"{PLACEHOLDER}: file types of the data, e.g. png",
        "image_classes": f"{channels} channel(s), {images}, {size} pixels for the network, scaled to [0, 1]",
        "label_classes": f"{slots}, 1 is {what}, 0 is background",
        "pred_classes": f"one channel: confidence that a pixel is {what}, the share of sampled masks that contain it",
        "intended_use": INTENDED_USE,
        "references": [METHOD, f"{PLACEHOLDER}: the reference of the data"],
        "network_data_format": {
            "inputs": {
                "image": {**tensor, "format": "magnitude", "num_channels": channels, "channel_def": channel_def}
            },
            "outputs": {
                "pred": {
                    **tensor, "format": "segmentation", "num_channels": 1,
                    "channel_def": {"0": "background", "1": what},
                }
            },
        },
    }  # fmt: skip


def write_documents(folder: Path, name: str, metadata: Mapping[str, Any], info: Mapping[str, Any]) -> None:
    """Write metadata, model card and data licence of the bundle in ``folder``."""
    save_text(json.dumps(metadata, indent=2, ensure_ascii=False) + "\n", folder / "configs" / "metadata.json")
    raters, image = info.get("num_raters"), metadata["network_data_format"]["inputs"]["image"]
    card = MODEL_CARD.format(
        name=name, title=metadata["name"], channels=image["num_channels"], method=METHOD,
        shape=", ".join(map(str, image["spatial_shape"])), modality=image["modality"],
        structure=metadata["network_data_format"]["outputs"]["pred"]["channel_def"]["1"],
        raters="how many raters outlined each" if raters is None else f"{raters} rater(s) an image",
        **{key: metadata[key] for key in ("authors", "description", "intended_use", "image_classes")},
    )  # fmt: skip
    save_text(card, folder / "docs" / "README.md")
    save_text(DATA_LICENSE.format(name=name), folder / "docs" / "data_license.txt")
