"""Sample masks of the same cases in several ways: ``benchmarks/results/sampling.json`` and ``drawing_….json``.

Usage: python benchmarks/sampling.py DATASET_DIR [--bundle NAME] [--max-cases 40] [--compare steps] --output FILE

Every validation case is sampled in each way, so that differences are within a case; their intervals are bootstraps over
patients. ``--compare steps``: numbers of the bundle's steps with the most of them. ``--compare choices``
(``drawing_….json``): what the bundle would do without one of its choices, with what it does.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import pandas as pd
import torch
from compare_cases import rounded
from records import measurement_arguments, read_cases, write_record

from medseglatdiff_monai.bundle.segmenter import Segmenter, load_segmenter
from medseglatdiff_monai.metrics import (
    dice_score,
    fuse_masks,
    generalized_energy_distance,
    hungarian_matched_iou,
    mean_mask,
    sample_diversity,
)
from medseglatdiff_monai.networks import noise_generator
from medseglatdiff_monai.suites.statistics import compare_groups, group_interval

STEPS = (1, 2, 4, 6, 10, 25, 250)
# Sampler, its steps, and of those of many steps power of the spacing and last timestep, see DiffusionProcess.
PATHS = (
    ("direct", 1, 1.0, 0),
    ("direct", 2, 1.0, 0),
    ("dpm++", 10, 2.0, 700),
    ("dpm++", 10, 1.0, 0),
    ("ddpm", 10, 1.0, 0),
)
# AmbDiffSeg empties a sample that is smaller than this share of the largest one.
SMALL = 0.5
Draw = Callable[[torch.Tensor, str], torch.Tensor]


def numbers_of_steps(segmenter: Segmenter, num_samples: int, seed: int) -> tuple[dict[str, Draw], str]:
    """Functions of image and case to masks (1, N, H, W), by name, and the name of the one to compare with."""

    def draw(steps: int) -> Draw:
        def masks(image: torch.Tensor, case: str) -> torch.Tensor:
            return segmenter.network.ensemble_logits(image, num_samples, seed, [case], steps, "dpm++") > 0

        return masks

    return {f"{steps} steps": draw(steps) for steps in STEPS}, f"{STEPS[-1]} steps"


def choices(segmenter: Segmenter, num_samples: int, seed: int) -> tuple[dict[str, Draw], str]:
    """What the bundle does, and what it would do without one of its choices; see :func:`numbers_of_steps`."""
    network = segmenter.network

    def draw(of_network: dict[str, Any] | None = None, **of_process: Any) -> Draw:
        def masks(image: torch.Tensor, case: str) -> torch.Tensor:
            with contextlib.ExitStack() as stack:
                for owner, changed in ((network, of_network), (network.process, of_process)):
                    if changed:
                        stack.enter_context(mock.patch.multiple(owner, **changed))
                return network.ensemble_logits(image, num_samples, seed, [case]) > 0

        return masks

    ways = {"as shipped": draw(), "no test-time augmentation": draw({"test_time_augmentation": False})}
    if network.noise_scale != 1.0:
        ways["noise not scaled"] = draw({"noise_scale": 1.0})

    def independent_noise(image: torch.Tensor, number: int, seed: int, cases: list[str], passes: int) -> torch.Tensor:
        channels, *sides = network.latent_shape(image)
        shape = (number, passes * channels, *sides)
        noise = torch.stack([torch.randn(shape, generator=noise_generator(seed, case, 0)) for case in cases])
        return noise.to(image.device)

    ways["noise of each sample independent"] = draw({"draw_noise": independent_noise})

    def large_alone(image: torch.Tensor, case: str) -> torch.Tensor:
        masks = draw()(image, case)
        area = masks.flatten(2).sum(2)
        return masks & (area >= SMALL * area.amax(1, keepdim=True))[:, :, None, None]

    ways["samples under half of the largest made empty"] = large_alone
    for sampler, steps, power, last in PATHS:
        if (sampler, steps) != (network.sampler, network.num_inference_steps):
            name = f"`{sampler}`, {steps} {'passes' if sampler == 'direct' else 'steps'}"
            if sampler != "direct":
                name += f", power {power:g}, last timestep {last or 'as even steps'}"
            changed = {"sampler": sampler, "num_inference_steps": steps}
            ways[name] = draw(changed, timestep_power=power, last_timestep=last)
    threshold = segmenter.inferer.threshold

    def mean_mask_alone(image: torch.Tensor, case: str) -> torch.Tensor:
        logits = network.conditioner.condition_and_mean_mask(image)[1]
        return (logits.sigmoid() >= threshold).expand(-1, num_samples, -1, -1)

    with torch.no_grad():
        probe = torch.zeros(1, segmenter.in_channels, *segmenter.image_size, device=segmenter.device)
        if network.conditioner.condition_and_mean_mask(probe)[1] is not None:
            ways["one mask: the conditioner's mean mask"] = torch.no_grad()(mean_mask_alone)
    return ways, "as shipped"


def main() -> None:
    """Command line."""
    parser = measurement_arguments(__doc__, seed=2)
    parser.add_argument("--max-cases", type=int, default=40, help="selected by seed")
    parser.add_argument("--compare", choices=("steps", "choices"), default="steps")
    arguments = parser.parse_args()
    segmenter = load_segmenter(arguments.bundle)
    compared = numbers_of_steps if arguments.compare == "steps" else choices
    ways, reference = compared(segmenter, arguments.num_samples, arguments.seed)
    rows: dict[str, list[dict]] = {name: [] for name in ways}
    for item, image, raters in read_cases(arguments, segmenter):
        raters_consensus = fuse_masks(raters)
        for name, draw in ways.items():
            masks = draw(image, item["case"]).cpu()
            consensus = mean_mask(masks) >= segmenter.inferer.threshold - 1e-6
            rows[name].append(
                {
                    "case": item["case"],
                    "group": item["group"],
                    "ged_v": float(generalized_energy_distance(masks, raters)),
                    "hm_iou": float(hungarian_matched_iou(masks, raters)),
                    "dice": float(dice_score(consensus, raters_consensus)) if raters_consensus.any() else math.nan,
                    "diversity": float(sample_diversity(masks)),
                    "samples_nonempty": float(masks.flatten(2).any(2).float().mean()),
                }
            )
    frames = {name: pd.DataFrame(found).set_index("case") for name, found in rows.items()}
    results = []
    for name, frame in frames.items():
        result: dict = {"name": name, "samples_nonempty": round(float(frame["samples_nonempty"].mean()), 4)}
        for metric in ("ged_v", "hm_iou", "dice", "diversity"):
            result[metric] = rounded(group_interval(frame[metric], frame["group"]))
            if name != reference:
                result[f"{metric}_difference"] = rounded(compare_groups(frame, frames[reference], metric))
        results.append(result)
    print(json.dumps(results, indent=1))
    write_record(arguments, segmenter, {"results": results, "reference": reference})


if __name__ == "__main__":
    main()
