"""A bundle small enough for tests: the inference stage with tiny networks whose random masks react to the image."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from medseglatdiff_monai.bundle.build import build_stage
from medseglatdiff_monai.bundle.segmenter import inference_config
from medseglatdiff_monai.networks.weights import save_weights

CONFIGS_DIR = Path(__file__).resolve().parents[1] / "configs"
LUNG, SKIN = "lung_nodule_ct_latent_diffusion", "skin_lesion_dermoscopy_latent_diffusion"
SIZES = {
    "image_codec_channels": [8, 8],
    "mask_codec_channels": [8, 8],
    "image_codec_res_layers": 1,
    "mask_codec_res_layers": 1,
    "image_embedding_dim": 4,
    "image_num_embeddings": 0,
    "mask_embedding_dim": 4,
    "mask_num_embeddings": 0,
    "image_encoder": None,
    "denoiser_channels": [8, 16],
    "denoiser_attention_levels": [False, False],
    "denoiser_norm_groups": 4,
    "denoiser_head_channels": 4,
    "num_inference_steps": 2,
    "num_samples": 3,
    "device": "cpu",
}


def write_tiny_bundle(folder: Path, name: str = LUNG, **changes) -> Path:
    """Write ``folder/name`` with inference stage, metadata and weights; about half of each of its masks is filled."""
    root = folder / name
    (root / "configs").mkdir(parents=True)
    config = {**build_stage(CONFIGS_DIR, name, "inference"), **SIZES, **changes}
    (root / "configs" / "inference.json").write_text(json.dumps(config))
    (root / "configs" / "metadata.json").write_text(json.dumps({"version": "0.0.1"}))
    (root / "models").mkdir()
    weights = root / "models" / "model.pt"
    weights.touch()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = inference_config(root).get_parsed_content("network_def").eval()
        for module in network.denoiser.modules():
            # MONAI's denoiser starts from convolutions of zeros, which would hide the image.
            if isinstance(module, torch.nn.Conv2d) and not module.weight.any():
                module.weight.normal_(0.0, 0.3)
        network.conditioner.codec.latent_std.fill_(0.02)
        image = torch.rand(1, config["image_channels"], 64, 64)
        noise = network.draw_noise(image, 8, 0, [""], network.count_passes()).flatten(0, 1)
        logits = network.sample_logits(network.conditioner(image).expand(8, -1, -1, -1), noise)
        # The decoder subtracts log w from its logits.
        network.mask_codec.positive_weight.mul_(logits.median().exp())
    save_weights(network, weights)
    return root
