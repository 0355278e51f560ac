"""Write ``benchmarks/results/speed_cpu.json``: how fast masks are sampled, compared with other methods.

Usage: python benchmarks/speed.py [--device cpu] [--threads 1] [--repeats 5] [--data-dir ARCHIVES] [--quick]
       python benchmarks/figures.py     # puts the results into docs/speed.md

Samples of a lung crop and of a skin image are made by our default, by the same network with its former ten steps, by
MONAI's inferer, and by systems of the literature; the measure is the time of one pass of MONAI's BasicUNet on the same
image. The limit is the time that our multiply-accumulates would take at the rate of a large matrix product. After a
warm-up the methods alternate, round after round; both times of a ratio are of the same round. The memory of each method
is measured in a separate process. Also timed: a step of each stage of training, start-up, preparation of the data
sources.

On a CPU with one thread times are processor time, as a machine that others use as well takes longer by the clock;
elsewhere they are wall time. Of both, the medians are in the file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import RESULTS, save_record
from speed_around import measure_preparation, measure_start_up, measure_training
from speed_drawing import (
    LIMIT,
    MATMUL,
    METHODS,
    OURS,
    PICTURES,
    PROCESSOR,
    REFERENCE,
    SEED,
    WALL,
    Clock,
    Method,
    Picture,
    make_clock,
    matrix_product,
    measure_rounds,
    peak_memory,
)

from medseglatdiff_monai.provenance import provenance

MATMUL_SIDES = {"cpu": 2048, "cuda": 8192}
QUICK_MATMUL_SIDE, QUICK_NUMBERS, QUICK_REPEATS = 512, (2,), 2
QUICK_SIZES = {"image_size": 64, "batch_size": 4}


def summarise(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Median, least and most."""
    return {"median": float(np.median(values)), "min": float(np.min(values)), "max": float(np.max(values))}


def choose_clock(device: torch.device) -> int:
    """Which of the clock's columns times and ratios are of."""
    return PROCESSOR if device.type == "cpu" and torch.get_num_threads() == 1 else WALL


def both_clocks(took: np.ndarray) -> dict[str, Any]:
    """Summaries of (repeats, 2) seconds of wall and processor time."""
    return {"wall_seconds": summarise(took[:, WALL]), "processor_seconds": summarise(took[:, PROCESSOR])}


def describe_methods(
    methods: Mapping[str, Method], times: Mapping[str, np.ndarray], counted: Mapping[str, int], column: int
) -> list[dict[str, Any]]:
    """One row per method from (repeats, 2) seconds of wall and processor time, and one of the limit."""

    def describe(name: str, took: np.ndarray, macs: int) -> dict[str, Any]:
        ratio = summarise(took[:, column] / times[REFERENCE][:, column])
        return {"name": name, "ratio": ratio, **both_clocks(took), "multiply_accumulates": macs}

    rows = [
        {**describe(name, times[name], counted[name]), "steps": method.steps, "timed_steps": method.walked}
        for name, method in methods.items()
        if name != MATMUL
    ]
    return [*rows, describe(LIMIT, times[MATMUL] * (counted[OURS] / counted[MATMUL]), counted[OURS])]


def measure_drawing(
    picture: Picture, device: torch.device, repeats: int, clock: Clock, matmul_side: int
) -> list[dict[str, Any]]:
    """One entry for each number of samples of an image."""
    methods = {name: build(picture, device) for name, build in METHODS.items()}
    methods[MATMUL] = matrix_product(matmul_side, device)
    channels, height, width = picture.shape()
    column = choose_clock(device)
    entries = []
    for number in picture.numbers:
        times, counted = measure_rounds(methods, number, repeats, clock)
        rate = counted[MATMUL] / times[MATMUL][:, column]
        entries.append(
            {
                "image": picture.name,
                "bundle": picture.bundle,
                "channels": channels,
                "height": height,
                "width": width,
                "num_samples": number,
                "matmul_multiply_accumulates_per_second": summarise(rate),
                "methods": describe_methods(methods, times, counted, column),
            }
        )
        for row in entries[-1]["methods"]:
            print(picture.name, number, row["name"], row["ratio"], flush=True)
    return entries


def measure_memory(key: str, name: str, arguments: argparse.Namespace) -> list[int]:
    """:func:`peak_memory` in a fresh process."""
    command = [sys.executable, __file__, "--memory", key, name, "--device", arguments.device]
    command += ["--threads", str(arguments.threads), *(["--quick"] if arguments.quick else [])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def select_pictures(quick: bool) -> dict[str, Picture]:
    """Images and numbers of samples; in a quick run, few samples of small images."""
    if not quick:
        return PICTURES
    return {key: replace(picture, numbers=QUICK_NUMBERS, overrides=QUICK_SIZES) for key, picture in PICTURES.items()}


def describe_start_up(commands: Mapping[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """A row a command."""
    return [
        {"command": name, **{key: summarise([one[key] for one in runs]) for key in runs[0]}}
        for name, runs in commands.items()
    ]


def measure(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Everything, in one run: the record after each part, for an interrupted run."""
    device = torch.device(arguments.device)
    repeats = QUICK_REPEATS if arguments.quick else arguments.repeats
    pictures, clock = select_pictures(arguments.quick), make_clock(device)
    side = QUICK_MATMUL_SIDE if arguments.quick else MATMUL_SIDES[device.type]
    record: dict[str, Any] = {
        "device": device.type,
        "repeats": repeats,
        "quick": arguments.quick,
        "seed": SEED,
        "clock": ("wall_seconds", "processor_seconds")[choose_clock(device)],
        "matmul_side": side,
        "drawing": [],
        "provenance": provenance(device),
    }
    for picture in pictures.values():
        record["drawing"] += measure_drawing(picture, device, repeats, clock, side)
        yield record
    for key, picture in pictures.items():
        entries = [entry for entry in record["drawing"] if entry["image"] == picture.name]
        for name in METHODS:
            for entry, peak in zip(entries, measure_memory(key, name, arguments), strict=True):
                next(row for row in entry["methods"] if row["name"] == name)["peak_bytes"] = peak
            print(picture.name, name, "memory measured", flush=True)
        yield record
    stages = measure_training(pictures, repeats, device, clock)
    record["training"] = [{**described, **both_clocks(took)} for described, took in stages]
    print(json.dumps(record["training"], indent=1), flush=True)
    yield record
    record["start_up"] = describe_start_up(measure_start_up(PICTURES["lung"].bundle, device, repeats))
    print(json.dumps(record["start_up"], indent=1), flush=True)
    yield record
    record["preparation"] = measure_preparation(arguments.data_dir, arguments.quick)
    yield record


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; start-up takes as many as it finds")
    parser.add_argument("--repeats", type=int, default=5, help="rounds after the warm-up")
    parser.add_argument("--data-dir", type=Path, help="folder of the data sets' archives; skipped without")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/speed_DEVICE.json")
    parser.add_argument("--quick", action="store_true", help="few samples and rounds, to see that everything runs")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    if arguments.memory:
        key, name = arguments.memory
        picture = select_pictures(arguments.quick)[key]
        print(json.dumps(peak_memory(picture, name, picture.numbers, device)))
        return
    output = arguments.output or RESULTS / f"speed_{device.type}.json"
    partial = output.with_suffix(".partial.json")
    for record in measure(arguments):
        save_record(record, partial)
    partial.replace(output)


if __name__ == "__main__":
    main()
