"""The file that a measurement leaves: its results and, on a bundle's weights, what they were measured with."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from medseglatdiff_monai.bundle.segmenter import Segmenter
from medseglatdiff_monai.data.datalist import load_datalist
from medseglatdiff_monai.ensemble.inferer import sampling_settings
from medseglatdiff_monai.files import save_json
from medseglatdiff_monai.provenance import provenance

RESULTS = Path(__file__).resolve().parent / "results"


def measurement_arguments(description: str | None, seed: int, output: str | None = None) -> argparse.ArgumentParser:
    """Arguments that the measurements share: the prepared data, the bundle, the number of samples and the seed.

    Without a name for the results' file, --output must be given.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("--bundle", default="lung_nodule_ct_latent_diffusion")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--num-samples", type=int, default=16)
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--output", type=Path, default=output and RESULTS / output, required=output is None)
    return parser


def read_cases(
    arguments: argparse.Namespace, segmenter: Segmenter
) -> Iterator[tuple[dict, torch.Tensor, torch.Tensor]]:
    """Each case's item, image (1, C, H, W) as the network sees it, and raters' masks (1, R, H, W) bool."""
    items = load_datalist(arguments.dataset_dir, arguments.split, arguments.max_cases, arguments.seed)
    for item in tqdm(items, desc="Sampling"):
        loaded = segmenter.preprocessing({"image": item["image"], "label": item["label"]})
        image = loaded["image"].as_tensor()[None].to(segmenter.device)
        yield item, image, loaded["label"].as_tensor()[None] > 0


def write_record(arguments: argparse.Namespace, segmenter: Segmenter, results: dict[str, Any]) -> None:
    """Write ``results`` beside the arguments, how masks are sampled, checksum of the weights, hardware and versions."""
    record = {
        **results,
        "num_samples": arguments.num_samples,
        "settings": sampling_settings(segmenter.inferer, segmenter.network),
        "split": arguments.split,
        "seed": arguments.seed,
        "bundle": arguments.bundle,
        "weights_sha256": segmenter.weights_sha256,
        "provenance": provenance(segmenter.device),
    }
    save_record(record, arguments.output)


def save_record(record: dict[str, Any], path: Path) -> None:
    """Write a record, and print where it is."""
    save_json(record, path)
    print(path)
