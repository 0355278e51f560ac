"""What the tests of whole bundles share: a prepared folder drawn on the spot, small networks, weights to start from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.bundle import ConfigParser
from PIL import Image
from torch import nn

from medseglatdiff_monai.bundle.build import write_run_folder
from medseglatdiff_monai.bundle.folders import bundles_dir
from medseglatdiff_monai.networks.weights import save_weights

LUNG = "lung_nodule_ct_latent_diffusion"
SKIN = "skin_lesion_dermoscopy_latent_diffusion"
POLYP = "polyp_colonoscopy_latent_diffusion"
RETINA = "retinal_vessel_fundus_latent_diffusion"
BUNDLES = (LUNG, SKIN, POLYP, RETINA)
STAGE_TYPES = {
    "image_codec": "train",
    "mask_codec": "train",
    "train": "train",
    "scoring": "train",
    "evaluate": "infer",
    "inference": "infer",
}
# The confidence from which a pixel belongs to the lung bundle's consensus.
THRESHOLD = json.loads((bundles_dir() / LUNG / "configs" / "inference.json").read_text())["threshold"]
LEVELS = {LUNG: 2, SKIN: 3, POLYP: 3, RETINA: 2}
# Channels of the images and raters of their masks.
DATA = {LUNG: (1, 4), SKIN: (3, 1), POLYP: (3, 1), RETINA: (3, 2)}


def small_sizes(bundle: str) -> dict[str, Any]:
    """Overrides that leave a bundle's downsampling as it is and make its networks tiny, without an image encoder."""
    return {
        "image_codec_channels": [8] * LEVELS[bundle],
        "mask_codec_channels": [8] * LEVELS[bundle],
        "image_codec_res_layers": 1,
        "mask_codec_res_layers": 1,
        "image_embedding_dim": 4,
        "mask_embedding_dim": 4,
        "image_num_embeddings": 16,
        "mask_num_embeddings": 16,
        # What MONAI's own run is given as None it leaves as it was.
        "image_encoder": "$None",
        "denoiser_channels": [16, 16],
        "denoiser_attention_levels": [False, True],
        "denoiser_head_channels": 8,
        "denoiser_norm_groups": 8,
        "image_size": 64,
        "num_samples": 2,
        "num_inference_steps": 2,
        "device": "cpu",
    }


def run_sizes(batch_size: int = 4) -> dict[str, Any]:
    """Overrides of a training stage for one short epoch."""
    return {"batch_size": batch_size, "max_epochs": 1, "cache_workers": 0, "warmup_iterations": 1}


def write_prepared(folder: Path, bundle: str, training: int = 8, validation: int = 4) -> Path:
    """Prepared folder of bright discs with a bundle's channels and raters; in every third case one saw nothing."""
    channels, raters = DATA[bundle]
    side = 128 if bundle == LUNG else 80
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    sections: dict[str, list[dict]] = {"training": [], "validation": []}
    rows, columns = np.mgrid[:side, :side]
    for number in range(training + validation):
        case = f"case-{number}"
        centre = side / 2 + rng.uniform(-6, 6, 2)
        distance = np.hypot(rows - centre[0], columns - centre[1])
        radius = rng.uniform(8, 14)
        image = rng.normal(60, 15, (side, side, channels)) + 120 * (distance < radius)[..., None]
        masks = np.stack([distance < radius + rng.normal(0, 1.5) for _ in range(raters)], axis=-1).astype(np.uint8)
        if raters > 1 and number % 3 == 0:
            masks[..., 0] = 0
        pixels = image.clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(folder / "images" / f"{case}.png")
        nibabel.Nifti1Image(masks, np.eye(4)).to_filename(folder / "masks" / f"{case}.nii.gz")
        section = "training" if number < training else "validation"
        item = {"image": f"images/{case}.png", "label": f"masks/{case}.nii.gz", "case": case, "group": case}
        sections[section].append({**item, "spacing_mm": None if number % 2 else [0.7, 0.7]})
    info = {"name": "discs", "num_channels": channels, "num_raters": raters, "labels": {"0": "background", "1": "disc"}}
    (folder / "dataset.json").write_text(json.dumps({**info, **sections, "test": []}))
    return folder


def build_network(bundle_root: Path, **changes: Any) -> tuple[nn.Module, ConfigParser]:
    """``network_def`` of a bundle with random weights of which every part matters, and its configuration."""
    parser = ConfigParser()
    parser.read_config(str(bundle_root / "configs" / "inference.json"))
    parser.update({"bundle_root": str(bundle_root), **changes})
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = parser.get_parsed_content("network_def").eval()
        for module in network.denoiser.modules():
            # MONAI's denoiser starts from convolutions of zeros: the image would not reach the masks.
            if isinstance(module, nn.Conv2d) and not module.weight.any():
                module.weight.normal_(0.0, 0.3)
        network.conditioner.codec.latent_std.fill_(0.1)
        image = torch.rand(1, parser["image_channels"], parser["image_size"], parser["image_size"])
        noise = network.draw_noise(image, 2, 0, [""], network.count_passes(2)).flatten(0, 1)
        logits = network.sample_logits(network.conditioner(image).expand(2, -1, -1, -1), noise, 2)
        # The decoder subtracts log w: with this w about half of every mask is foreground.
        network.mask_codec.positive_weight.mul_(logits.median().exp())
    return network, parser


def write_small_bundle(folder: Path, name: str = LUNG, **changes: Any) -> Path:
    """A run's folder as training would leave it, its networks small and with random weights."""
    root = write_run_folder(name, folder, None, {**small_sizes(name), **changes})
    save_weights(build_network(root)[0], root / "models" / "model.pt")
    return root


def copy_bundle(name: str, folder: Path, **changes: Any) -> Path:
    """Copy of a shipped bundle; where it ships no weights, or ``changes`` alter the networks, with random ones."""
    root = folder / name
    shutil.copytree(bundles_dir() / name, root)
    weights = root / "models" / "model.pt"
    if changes or not weights.is_file():
        save_weights(build_network(root, **changes)[0], weights)
    return root
