"""Where the time of diffusion training goes: ``benchmarks/results/training_profile.json``.

Usage: python benchmarks/training_profile.py DATASET_DIR [--bundle NAME] [--steps 60] [--batch-size 16] [--output FILE]

Some steps of the bundle's last stage, from its shipped weights, with the trainer of ``medseglatdiff train`` in mixed
precision. It records the time of a step, the share of the wall time that is spent waiting for data, and on CUDA the
share in which the device was busy; there the steps are synchronised to be timed. The first steps are left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from records import RESULTS, save_record

from medseglatdiff_monai.bundle.build import write_run_folder
from medseglatdiff_monai.bundle.folders import find_bundle
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.files import file_sha256
from medseglatdiff_monai.provenance import provenance

WARM_UP = 10


class StepProfile:
    """Times of the steps after the warm-up: waiting for the batch, the step itself, and the device's kernels.

    Args:
        steps: number of steps to time; the trainer is stopped after them.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.waiting: list[float] = []
        self.working: list[float] = []
        self.device_seconds = 0.0
        self.wall_seconds = 0.0
        self._since = 0.0
        self._started = 0.0
        self._profiler: torch.profiler.profile | None = None

    def attach(self, trainer: Engine) -> None:
        """Register with a trainer."""
        trainer.add_event_handler(Events.GET_BATCH_STARTED, self._mark)
        trainer.add_event_handler(Events.GET_BATCH_COMPLETED, lambda engine: self._note(engine, self.waiting))
        trainer.add_event_handler(Events.ITERATION_STARTED, self._mark)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: self._note(engine, self.working))
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=WARM_UP), self._start)
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=WARM_UP + self.steps), self._stop)

    def _mark(self, engine: Engine) -> None:
        self._since = time.perf_counter()

    def _note(self, engine: Engine, times: list[float]) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if self._started and not self.wall_seconds:
            times.append(time.perf_counter() - self._since)

    def _start(self, engine: Engine) -> None:
        if torch.cuda.is_available():
            activities = [torch.profiler.ProfilerActivity.CUDA]
            self._profiler = torch.profiler.profile(activities=activities)
            self._profiler.start()
        self._started = time.perf_counter()

    def _stop(self, engine: Engine) -> None:
        self.wall_seconds = time.perf_counter() - self._started
        if self._profiler is not None:
            self._profiler.stop()
            self.device_seconds = sum(event.self_device_time_total for event in self._profiler.key_averages()) / 1e6
        engine.terminate()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("--bundle", default="lung_nodule_ct_latent_diffusion")
    parser.add_argument("--steps", type=int, default=60, help=f"timed, after {WARM_UP} of warm-up")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--output", type=Path, default=RESULTS / "training_profile.json")
    arguments = parser.parse_args()
    weights = find_bundle(arguments.bundle) / "models" / "model.pt"
    overrides = {
        "initial_weights": str(weights), "training_stages": ["train"], "tracking_uri": False, "val_interval": 10**6,
        "mixed_precision": True, "batch_size": arguments.batch_size, "max_val_cases": 1,
        "max_train_cases": arguments.batch_size * (WARM_UP + arguments.steps),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run = write_run_folder(arguments.bundle, folder, None, overrides)
        workflow = ConfigWorkflow(
            config_file=str(run / "configs" / "train.json"), workflow_type="train", bundle_root=str(run),
            dataset_dir=str(arguments.dataset_dir.absolute()),
        )  # fmt: skip
        workflow.initialize()
        if len(workflow.parser.get_parsed_content("train#dataloader")) < WARM_UP + arguments.steps:
            raise InputError(
                f"{arguments.dataset_dir} has too few training cases for {WARM_UP} + {arguments.steps} batches of "
                f"{arguments.batch_size}: choose fewer --steps."
            )
        profile = StepProfile(arguments.steps)
        profile.attach(workflow.parser.get_parsed_content("train#trainer"))
        workflow.run()
        workflow.finalize()
        settings = {key: workflow.parser.get_parsed_content(key) for key in ("draws", "cache_latents", "channels_last")}
    on_device = torch.cuda.is_available()
    record = {
        "bundle": arguments.bundle,
        "weights_sha256": file_sha256(weights),
        "steps": arguments.steps,
        "batch_size": arguments.batch_size,
        **settings,
        "mixed_precision": True,
        "milliseconds_a_step": round(1e3 * statistics.median(profile.working), 1),
        "share_waiting_for_data": round(sum(profile.waiting) / profile.wall_seconds, 4),
        "share_device_busy": round(profile.device_seconds / profile.wall_seconds, 4) if on_device else None,
        "provenance": provenance("cuda" if on_device else "cpu"),
    }
    print(json.dumps(record, indent=1))
    save_record(record, arguments.output)


if __name__ == "__main__":
    main()
