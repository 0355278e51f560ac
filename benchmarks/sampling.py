"""Write ``benchmarks/results/sampling.json``: what the number of steps and the sampler do to an ensemble.

Usage: python benchmarks/sampling.py DATASET_DIR [--bundle NAME] [--max-cases 40]

Every validation case is drawn in each way, so that differences are within a case; their intervals are bootstraps over
patients. Numbers of DDIM steps, and DDPM's noisy steps, are compared with the most steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pandas as pd
import torch
from compare_cases import rounded
from records import measurement_arguments, write_record
from tqdm import tqdm

from medseglatdiff_monai.benchmark.statistics import compare_groups, group_interval
from medseglatdiff_monai.bundle import Segmenter, load_segmenter
from medseglatdiff_monai.data.datalist import load_datalist
from medseglatdiff_monai.metrics import generalized_energy_distance, hungarian_matched_iou

STEPS = (1, 2, 5, 10, 25, 50, 250)
Draw = Callable[[torch.Tensor, str], torch.Tensor]


def ways_of_drawing(segmenter: Segmenter, num_samples: int, seed: int) -> tuple[dict[str, Draw], str]:
    """Functions of image and case to masks (1, N, H, W), by name, and the name of the one to compare with."""

    def draw(**options) -> Draw:
        def masks(image: torch.Tensor, case: str) -> torch.Tensor:
            return segmenter.network.ensemble_logits(image, num_samples, seed, [case], **options) > 0

        return masks

    ways = {f"ddim, {steps} steps": draw(num_inference_steps=steps, sampler="ddim") for steps in STEPS}
    return {**ways, "ddpm, 10 steps": draw(num_inference_steps=10, sampler="ddpm")}, f"ddim, {STEPS[-1]} steps"


def main() -> None:
    """Command line."""
    parser = measurement_arguments(__doc__, "sampling.json", seed=2)
    parser.add_argument("--max-cases", type=int, default=40, help="drawn by seed")
    arguments = parser.parse_args()
    segmenter = load_segmenter(arguments.bundle)
    ways, reference = ways_of_drawing(segmenter, arguments.num_samples, arguments.seed)
    items = load_datalist(arguments.dataset_dir, arguments.split, arguments.max_cases, arguments.seed)
    rows: dict[str, list[dict]] = {name: [] for name in ways}
    for item in tqdm(items, desc="Drawing"):
        loaded = segmenter.preprocessing({"image": item["image"], "label": item["label"]})
        image = loaded["image"].as_tensor()[None].to(segmenter.device)
        readers = loaded["label"].as_tensor()[None] > 0
        for name, draw in ways.items():
            masks = draw(image, item["case"]).cpu()
            rows[name].append(
                {
                    "case": item["case"],
                    "group": item["group"],
                    "ged_v": float(generalized_energy_distance(masks, readers)),
                    "hm_iou": float(hungarian_matched_iou(masks, readers)),
                    "samples_nonempty": float(masks.flatten(2).any(2).float().mean()),
                }
            )
    frames = {name: pd.DataFrame(found).set_index("case") for name, found in rows.items()}
    results = []
    for name, frame in frames.items():
        result: dict = {"name": name, "samples_nonempty": round(float(frame["samples_nonempty"].mean()), 4)}
        for metric in ("ged_v", "hm_iou"):
            result[metric] = rounded(group_interval(frame[metric], frame["group"]))
            if name != reference:
                result[f"{metric}_difference"] = rounded(compare_groups(frame, frames[reference], metric))
        results.append(result)
    print(json.dumps(results, indent=1))
    write_record(arguments, segmenter, {"results": results, "reference": reference})


if __name__ == "__main__":
    main()
