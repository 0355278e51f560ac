"""What ``benchmarks/speed.py`` times besides sampling: steps of training, start-up, preparation of data."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from speed_drawing import SEED, Clock, Picture
from system_costs import make_stage, make_step

from medseglatdiff_monai.data.prepare import prepare
from medseglatdiff_monai.training.run import TRAINING_STAGES

ROOT = Path(__file__).resolve().parent.parent
# Archive of each source, as published; the phantom is generated.
ARCHIVES = {
    "lidc-slices": "lidc_idri_slices_train_val.tar.xz",
    "lidc": "LIDC-IDRI-0023_dicom_xml.tar.xz",
    "isic2018": "isic2018_task1_256_train_val.tar",
    "cvc-clinicdb": "cvc_clinicdb_seq01-23.tar",
    "chase": "chase_db1_01-09.tar",
}
QUICK_SOURCES = ("chase",)
# A process begins with the peak memory of the one that started it: one that has torch loaded would hide its child's.
LAUNCHER = """
import json, os, sys, time
started = time.perf_counter()
null = os.open(os.devnull, os.O_RDWR)
actions = [(os.POSIX_SPAWN_DUP2, null, stream) for stream in (0, 1, 2)]
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=actions)
_, status, usage = os.wait4(child, 0)
print(json.dumps({
    "returncode": os.waitstatus_to_exitcode(status),
    "wall_seconds": time.perf_counter() - started,
    "processor_seconds": usage.ru_utime + usage.ru_stime,
    "peak_bytes": 1024 * usage.ru_maxrss,
}))
"""


def make_stage_step(picture: Picture, stage: str, device: torch.device) -> tuple[Callable[[], None], dict[str, Any]]:
    """A step of one stage of training on synthetic images, and what describes it."""
    torch.manual_seed(SEED)
    overrides = {**picture.overrides, "device": str(device), "mixed_precision": device.type == "cuda"}
    parser = make_stage(stage, None, picture.bundle, **overrides)
    batch_size = int(parser.get_parsed_content("batch_size"))
    # What the augmentation cuts its window out of is larger.
    has_window = "augmentation#window" in parser and parser.get_parsed_content("augmentation").window is not None
    side = int(parser.get_parsed_content("crop_size" if has_window else "image_size"))
    step = make_step(parser, batch_size, picture.raters, side)
    return step, {"bundle": picture.bundle, "stage": stage, "batch_size": batch_size, "side": side}


def measure_training(
    pictures: Mapping[str, Picture], repeats: int, device: torch.device, clock: Clock
) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Every stage of every bundle, and (repeats, 2) seconds of wall and processor time of a step, interleaved."""
    stages = [make_stage_step(picture, stage, device) for picture in pictures.values() for stage in TRAINING_STAGES]
    for step, _ in stages:
        step()
    times: list[list[np.ndarray]] = [[] for _ in stages]
    for _ in range(repeats):
        for (step, _), took in zip(stages, times, strict=True):
            started = clock()
            step()
            took.append(clock() - started)
    return [(described, np.stack(took)) for (_, described), took in zip(stages, times, strict=True)]


def run_child(*command: str) -> dict[str, float]:
    """Wall time, processor time and peak memory of a whole process, started as a shell would start it."""
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, *command], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    result = json.loads(done.stdout)
    if result.pop("returncode") != 0:
        raise SystemExit(f"It failed: {' '.join(command)}")
    return result


def measure_start_up(bundle: str, device: torch.device, repeats: int) -> dict[str, list[dict[str, float]]]:
    """``--help`` and ``predict`` of one PNG, each in its own process, interleaved, after one warm-up round."""
    program = (sys.executable, "-m", "medseglatdiff_monai")
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "crop.png"
        pixels = np.random.default_rng(SEED).integers(0, 256, (128, 128), dtype=np.uint8)
        Image.fromarray(pixels).save(image)
        out = str(Path(scratch) / "out")
        commands = {
            "medseglatdiff --help": (*program, "--help"),
            "medseglatdiff predict (one PNG)": (
                *program, "predict", bundle, str(image), "--output-dir", out, "--device", str(device),
            ),
        }  # fmt: skip
        rounds = [{name: run_child(*command) for name, command in commands.items()} for _ in range(repeats + 1)]
    return {name: [one[name] for one in rounds[1:]] for name in commands}


def prepare_once(source: str, archive: Path | None) -> dict[str, Any]:
    """Prepare a whole source with one worker, unpacking included."""
    with tempfile.TemporaryDirectory() as scratch:
        started, processor = time.perf_counter(), time.process_time()
        file = prepare(source, archive, output_dir=Path(scratch) / "prepared", workers=1)
        took, worked = time.perf_counter() - started, time.process_time() - processor
        dataset = json.loads(file.read_text())
    slices = sum(len(dataset[part]) for part in ("training", "validation", "test"))
    return {
        "source": source,
        "archive": archive and archive.name,
        "slices": slices,
        "wall_seconds": took,
        "processor_seconds": worked,
        # The worker's own processor time, which other programs do not lengthen.
        "slices_per_second": slices / worked,
    }


def measure_preparation(data_dir: Path | None, quick: bool) -> list[dict[str, Any]]:
    """Each source whose archive is there; the others with the reason why they were left out."""
    rows = [] if quick else [prepare_once("phantom", None)]
    for source, name in ARCHIVES.items():
        if quick and source not in QUICK_SOURCES:
            continue
        if data_dir is None:
            rows.append({"source": source, "skipped": "no folder of archives was given (--data-dir)"})
        elif not (data_dir / name).is_file():
            rows.append({"source": source, "skipped": f"{name} is not in the folder of archives"})
        else:
            rows.append(prepare_once(source, data_dir / name))
        print(rows[-1])
    return rows
