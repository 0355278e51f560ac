"""The time that training took and the cost of a sample: ``training.json`` in a run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..bundle.config import load_stage_config
from ..bundle.training_record import RECORD_FILE, read_record
from ..errors import InputError, unwrapped_errors
from ..files import file_sha256, save_json
from ..provenance import provenance


class TrainingRecord:
    """``training.json`` of a run: time and iterations of its stages, summed over calls, and its network's cost."""

    def __init__(self, run: Path, max_minutes: float | None, dataset_dir: str | Path) -> None:
        self.run = run
        self.path = run / RECORD_FILE
        self.content: dict[str, Any] = {"stages": {}, **read_record(run)}
        self.content["max_minutes"] = max_minutes
        digest = file_sha256(Path(dataset_dir) / "dataset.json")
        if self.content.setdefault("dataset_sha256", digest) != digest:
            raise InputError(
                f"{run} was trained on another data set than {dataset_dir} (their dataset.json differ). Choose another "
                "--output-dir, or repeat the --dataset-dir that the run was started with."
            )

    def add(self, stage: str, iterations: int, minutes: float) -> None:
        """Note what a stage has done so far, ``minutes`` of it in this call."""
        before = self.content["stages"].get(stage, {}).get("minutes", 0.0)
        self.content["stages"][stage] = {"iterations": iterations, "minutes": before + minutes}
        save_json(self.content, self.path)

    def write_costs(self) -> None:
        """Note the network's size and work, unless an earlier call has."""
        if "parameters" not in self.content:
            self.content.update(count_costs(self.run))
        save_json(self.content, self.path)


def count_costs(run: Path) -> dict[str, Any]:
    """Parameters of a run's network, multiply-accumulates of a sample, and the versions they were counted with.

    They are counted on a new network, from the run's configuration: weights are not needed.
    """
    parser = ConfigParser(load_stage_config(run, "inference"))
    with unwrapped_errors(), torch.random.fork_rng():
        network = parser.get_parsed_content("network_def").eval()
        side, dims = parser.get_parsed_content("image_size"), parser.get("spatial_dims", 2)
        image = torch.zeros(1, parser.get_parsed_content("image_channels"), *[side] * dims)
        steps = parser.get_parsed_content("num_inference_steps")
        return {
            "parameters": sum(weight.numel() for weight in network.parameters()),
            "trainable_parameters": sum(weight.numel() for weight in network.parameters() if weight.requires_grad),
            "multiply_accumulates": count_multiply_accumulates(network, image, steps),
            "provenance": provenance(parser.get_parsed_content("device")),
        }


@torch.no_grad()
def count_multiply_accumulates(network: nn.Module, image: torch.Tensor, num_inference_steps: int) -> int:
    """Multiply-accumulates of one sample: conditioner, ``num_inference_steps`` steps of the sampler, decoder.

    Counted by PyTorch's ``FlopCounterMode`` (matrix products, convolutions, attention) as half its floating-point
    operations, for an image (1, C, H, W[, D]). Runs of 2 and 4 steps are counted and extrapolated, as every step costs
    the same.
    """
    operations = []
    for steps in (2, 4):
        with FlopCounterMode(display=False) as counter:
            network.ensemble_logits(image, 1, num_inference_steps=steps)  # type: ignore[operator]
        operations.append(counter.get_total_flops())
    a_step = (operations[1] - operations[0]) / 2
    return round((operations[0] + (num_inference_steps - 2) * a_step) / 2)
