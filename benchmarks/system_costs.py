"""Write ``benchmarks/results/system_costs.json``: what training and sampling cost, system by system.

Usage: ``python benchmarks/system_costs.py [--output FILE]``. Networks are new and images are noise, which changes no
cost. Times are processor time of one thread, the least of a few repetitions: a machine that others use as well takes
longer by the clock, and its caches are shared, so compare the times only with each other. Where a sample
takes more than ``LONG`` steps, its time is extended from two shorter samplings, as a step costs the same each time. For
the volumetric variant, each size is measured in a separate process, whose memory no other one has touched.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from records import RESULTS, save_record

from medseglatdiff_monai.bundle.config import load_stage_config
from medseglatdiff_monai.provenance import provenance
from medseglatdiff_monai.training.record import count_multiply_accumulates

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = "lung_nodule_ct_latent_diffusion"
SEED, RATERS, LONG = 0, 4, 25
BATCH_SIZE, REPEATS = 8, 2
VOLUME_SIDES, VOLUME_SAMPLES, VOLUME_STEPS = (32, 64), 4, 10


def processor_seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Least processor time of ``repeats`` calls, after one that is not counted."""
    work()
    took = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        took.append(time.process_time() - started)
    return min(took)


def make_stage(stage: str, experiment: str | None, bundle: str = BUNDLE, **overrides) -> ConfigParser:
    """A stage's configuration for networks without weights, on the CPU unless the overrides say otherwise."""
    # Weights are needed only for the stages in training_stages.
    keys = {"training_stages": ["train"], "device": "cpu", "mixed_precision": False, **overrides}
    parser = ConfigParser(load_stage_config(bundle, stage, experiment, keys))
    parser["bundle_root"] = str(ROOT / "bundles" / bundle)
    # Named where latents are kept, which they are not here.
    parser["train#dataset"] = None
    return parser


def make_step(
    parser: ConfigParser, batch_size: int, raters: int = RATERS, side: int | None = None
) -> Callable[[], None]:
    """One step of training as the stage's trainer does it: augmentation, forward and backward pass, optimiser."""
    shape = [side or parser.get_parsed_content("image_size")] * parser.get("spatial_dims", 2)
    device = torch.device(parser.get_parsed_content("device"))
    batch = {
        "image": torch.rand(batch_size, parser.get_parsed_content("image_channels"), *shape),
        "label": torch.rand(batch_size, raters, *shape) > 0.9,
        "case": [str(number) for number in range(batch_size)],
    }
    network = parser.get_parsed_content("network").train()
    prepare, infer, loss, optimizer = (
        parser.get_parsed_content(f"train#{name}") for name in ("prepare_batch", "inferer", "loss", "optimizer")
    )

    def step() -> None:
        image, target, *rest = prepare(batch, device)
        output = infer(image, network, *(rest[0] if rest else ()))
        optimizer.zero_grad()
        loss(output, target).backward()
        optimizer.step()

    return step


def measure_system(experiment: str | None) -> dict:
    """Row of one system."""
    parser = make_stage("train", experiment, draws=1)
    step_seconds = processor_seconds(make_step(parser, BATCH_SIZE))
    network = parser.get_parsed_content("network_def").eval()
    steps = int(parser.get_parsed_content("num_inference_steps"))
    side = parser.get_parsed_content("image_size")
    image = torch.rand(1, parser.get_parsed_content("image_channels"), side, side)

    def seconds_of(number: int) -> float:
        return processor_seconds(lambda: network.ensemble_logits(image, 1, num_inference_steps=number))

    if steps <= LONG:
        sample_seconds = seconds_of(steps)
    else:
        few, more = seconds_of(LONG // 5), seconds_of(LONG)
        sample_seconds = more + (steps - LONG) * (more - few) / (LONG - LONG // 5)
    return {
        "experiment": experiment,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "trainable_parameters": sum(weight.numel() for weight in network.parameters() if weight.requires_grad),
        "num_inference_steps": steps,
        "multiply_accumulates": count_multiply_accumulates(network, image, steps),
        "seconds_per_training_step": step_seconds,
        "seconds_per_sample": sample_seconds,
    }


def peak_bytes() -> int:
    """Largest resident memory of this process since :func:`forget_peak` (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def forget_peak() -> None:
    """Take the memory that is in use now as the largest so far (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def measure_volumes(side: int) -> dict:
    """Row of the volumetric variant with cubes of ``side`` voxels; memory is that of this whole process."""
    codec = make_stage("image_codec", "volumetric", image_size=side)
    parser = make_stage("train", "volumetric", image_size=side)
    batch_size = int(parser.get_parsed_content("batch_size"))
    network = parser.get_parsed_content("network_def")
    codec_step, step = make_step(codec, batch_size), make_step(parser, batch_size)
    forget_peak()
    before = peak_bytes()
    codec_seconds, step_seconds = (processor_seconds(work, repeats=1) for work in (codec_step, step))
    image = torch.rand(1, 1, side, side, side)
    network.eval()
    sample = lambda: network.ensemble_logits(image, VOLUME_SAMPLES, num_inference_steps=VOLUME_STEPS)  # noqa: E731
    return {
        "side": side,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "batch_size": batch_size,
        "draws": int(parser.get_parsed_content("draws")),
        "seconds_per_codec_step": codec_seconds,
        "seconds_per_training_step": step_seconds,
        "num_samples": VOLUME_SAMPLES,
        "num_inference_steps": VOLUME_STEPS,
        "seconds_of_the_samples": processor_seconds(sample, repeats=1),
        "peak_bytes_above_start": peak_bytes() - before,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS / "system_costs.json")
    parser.add_argument("--volume", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    if arguments.volume is not None:
        print(json.dumps(measure_volumes(arguments.volume)))
        return
    names = sorted(path.stem for path in (ROOT / "configs" / "experiments").glob("*.json"))
    systems = []
    for experiment in [None, *(name for name in names if name != "volumetric")]:
        systems.append(measure_system(experiment))
        print(systems[-1])
    volumes = []
    for side in VOLUME_SIDES:
        done = subprocess.run(
            [sys.executable, __file__, "--volume", str(side)], check=True, stdout=subprocess.PIPE, text=True
        )
        volumes.append(json.loads(done.stdout.splitlines()[-1]))
        print(volumes[-1])
    record = {
        "bundle": BUNDLE,
        "image_size": int(make_stage("train", None).get_parsed_content("image_size")),
        "batch_size": BATCH_SIZE,
        "draws": 1,
        "repeats": REPEATS,
        "seed": SEED,
        "times": "processor seconds of one thread on a machine in use by others; comparable with each other alone",
        "systems": systems,
        "volumetric": volumes,
        "provenance": provenance(),
    }
    save_record(record, arguments.output)


if __name__ == "__main__":
    main()
