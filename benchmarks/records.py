"""The file that a measurement on a bundle's weights leaves: its results, and what they were measured with."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from medseglatdiff_monai.bundle.segmenter import Segmenter
from medseglatdiff_monai.ensemble.inferer import sampling_settings
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
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")
    print(arguments.output)
