"""Write ``benchmarks/results/precision_DEVICE.json``: number formats and layouts of inference, and CPU against GPU.

Usage: python benchmarks/precision.py [--device cuda] [--repeats 20]

For each bundle an ensemble of one random image is drawn in float32 and in bfloat16 autocast, in the usual layout and
with channels last. In the file are median seconds, and how many pixels of the masks differ between CPU and device and
between the formats.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from records import RESULTS, save_record
from speed_drawing import WALL, make_clock

from medseglatdiff_monai.bundle.segmenter import load_segmenter
from medseglatdiff_monai.ensemble.inferer import sampling_settings
from medseglatdiff_monai.provenance import provenance

# Bundle → numbers of samples that are timed; the first is also compared.
NUMBERS = {
    "lung_nodule_ct_latent_diffusion": (5, 16, 100),
    "skin_lesion_dermoscopy_latent_diffusion": (5,),
    "retinal_vessel_fundus_latent_diffusion": (5,),
}
SEED, CASE = 0, "precision"


def measure(bundle: str, device: torch.device, repeats: int) -> dict:
    """Seconds by format, layout and number of samples; shares of pixels that differ."""
    loaded = load_segmenter(bundle, device=device)
    network, config = loaded.network, loaded.config
    shape = [1, config.get_parsed_content("image_channels"), *[config.get_parsed_content("image_size")] * 2]
    image = F.avg_pool2d(torch.rand(shape, generator=torch.Generator().manual_seed(SEED)), 9, 1, 4)

    def draw(x: torch.Tensor, number: int, half: bool) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            return network.ensemble_logits(x, number, SEED, [CASE])

    clock = make_clock(device)
    few = NUMBERS[bundle][0]
    on_cpu = load_segmenter(bundle, device="cpu").network.ensemble_logits(image, few, SEED, [CASE]) > 0
    masks = {half: draw(image.to(device), few, half).cpu() > 0 for half in (False, True)}
    seconds = []
    for layout in (torch.contiguous_format, torch.channels_last):
        network.to(memory_format=layout)
        x = image.to(device, memory_format=layout)
        for half in (False, True):
            for number in NUMBERS[bundle]:
                took = []
                for _ in range(repeats + 3):
                    began = clock()
                    draw(x, number, half)
                    took.append((clock() - began)[WALL])
                names = {"channels_last": layout is torch.channels_last, "bfloat16": half}
                seconds.append({"num_samples": number, **names, "seconds": float(np.median(took[3:]))})
    return {
        "bundle": bundle,
        "weights_sha256": loaded.weights_sha256,
        "settings": sampling_settings(loaded.inferer, network),
        "foreground": float(on_cpu.float().mean()),
        "differ_from_cpu": float((on_cpu != masks[False]).float().mean()),
        "differ_in_bfloat16": float((masks[True] != masks[False]).float().mean()),
        "seconds": seconds,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--repeats", type=int, default=20, help="after three that are not timed")
    arguments = parser.parse_args()
    rows = [measure(bundle, arguments.device, arguments.repeats) for bundle in NUMBERS]
    record = {"rows": rows, "repeats": arguments.repeats, "provenance": provenance(arguments.device)}
    save_record(record, RESULTS / f"precision_{arguments.device.type}.json")


if __name__ == "__main__":
    main()
