"""Training a bundle: image codec, mask codec, diffusion, scoring, one after the other, each resumable.

Every stage is a MONAI bundle configuration run by MONAI's own workflow; this module only decides which one is due, how
much time is left for it, and where it goes on. Which stages there are is the configuration's ``training_stages``. What
the training took, and what a sample costs, goes to ``training.json`` in the run's folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..bundle.build import write_run_folder
from ..bundle.config import experiment_name, find_bundle, load_stage_config
from ..data.datalist import load_dataset_info
from ..diffusion.process import check_one_pass
from ..errors import InputError, unwrapped_errors
from ..files import save_json
from ..networks.baselines.nnunet_plan import training_spacing
from ..networks.encoders import ENCODERS, find_published_weights
from ..networks.weights import load_tensors, stage_finished

__all__ = ["TRAINING_STAGES", "count_multiply_accumulates", "stage_weights", "train"]

# Stage → the file of weights that it leaves in models/.
TRAINING_STAGES = {
    "image_codec": "image_codec.pt", "mask_codec": "mask_codec.pt", "train": "diffusion.pt", "scoring": "model.pt",
}  # fmt: skip

logger = logging.getLogger(__name__)


def stage_weights(stage: str, stages: Sequence[str]) -> str:
    """File name of a stage's weights in ``models/``: the last one leaves ``model.pt``, a codec its own."""
    return "model.pt" if stage == "train" and "scoring" not in stages else TRAINING_STAGES[stage]


def train(
    bundle: str | Path,
    dataset_dir: str | Path,
    experiment: str | None = None,
    output_dir: str | Path | None = None,
    max_minutes: float | None = None,
    initial_weights: str | Path | None = None,
    **overrides: Any,
) -> Path:
    """Train the stages of a bundle that are not finished yet.

    Args:
        bundle: folder, or name under ``bundles/``.
        dataset_dir: prepared folder (``medseglatdiff prepare``).
        experiment: overlay, a JSON file or a name under ``configs/experiments/``.
        output_dir: where the run goes; a bundle of its own when done. Default ``runs/<bundle>[_<experiment>]``.
        max_minutes: stop cleanly after so many minutes, all stages together; the same call goes on from there. A decay
            of the learning rate comes to its end with the time, see
            :class:`~medseglatdiff_monai.training.handlers.LearningRateSchedule`.
        initial_weights: a bundle's ``models/model.pt`` to go on from; it holds the mask codec and the image encoder, so
            that only the last stage is run, the scoring stage where there is one.
        overrides: configuration keys, e.g. ``max_epochs=3``, ``batch_size=8``.

    Returns:
        The run's folder; weights are in its ``models/``.

    Raises:
        InputError: unknown bundle, experiment or key; a data set that does not fit the bundle; no time at all; more
            than one process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            f"'medseglatdiff train' runs in one process, found WORLD_SIZE={os.environ['WORLD_SIZE']}: torchrun takes "
            "'-m monai.bundle run' with the bundle's configs/multi_gpu_train.json instead, see docs/how-to/cluster.md."
        )
    if max_minutes is not None and max_minutes <= 0:
        raise InputError(f"--max-minutes must be positive, found {max_minutes}.")
    root = find_bundle(bundle)
    if initial_weights is not None:
        # Before anything is cached or written: a file that is missing or no weights at all.
        load_tensors(initial_weights)
        last = _read_stages(load_stage_config(root, "train", experiment, overrides))[-1]
        overrides = {**overrides, "initial_weights": str(Path(initial_weights).absolute()), "training_stages": [last]}
    name = experiment_name(experiment)
    default = Path("runs") / (root.name if name is None else f"{root.name}_{name.replace('/', '_')}")
    config = load_stage_config(root, "train", experiment, overrides)
    stages = _read_stages(config)
    _check_stages(stages, config, initial_weights is None)
    _check_dataset(dataset_dir, config)
    output = write_run_folder(
        root, output_dir or default, experiment, {**_spacing_override(dataset_dir, config), **overrides}
    )
    record = _Record(output, max_minutes, dataset_dir)
    deadline = None if max_minutes is None else time.monotonic() + 60.0 * max_minutes
    for stage in stages:
        path = output / "models" / stage_weights(stage, stages)
        if stage_finished(path):
            logger.info("Stage %s is finished already: %s", stage, path)
            continue
        arguments: dict[str, Any] = {"bundle_root": str(output), "dataset_dir": str(Path(dataset_dir).absolute())}
        if deadline is not None:
            if deadline <= time.monotonic():
                break
            arguments["deadline"] = deadline
        config_file = output / "configs" / f"{stage}.json"
        workflow = ConfigWorkflow(config_file=str(config_file), workflow_type="train", **arguments)
        with unwrapped_errors():
            workflow.initialize()
            started = time.perf_counter()
            try:
                workflow.run()
            finally:
                seconds = time.perf_counter() - started
                iterations = workflow.parser.get_parsed_content("train#trainer").state.iteration
                workflow.finalize()
                record.add(stage, iterations, seconds / 60.0)
        if not stage_finished(path):
            logger.warning("Time is up in stage %s: the same command goes on from here.", stage)
            break
    record.write_costs()
    return output


def _read_stages(config: Mapping[str, Any]) -> list[str]:
    """``training_stages`` of a configuration, checked."""
    # Bundles from before the key have the stages that there were.
    stages = config.get("training_stages", ["image_codec", "mask_codec", "train"])
    order = [stage for stage in TRAINING_STAGES if stage in stages]
    if list(stages) != order or not order:
        raise InputError(
            f"training_stages is {stages}; expected at least one of {list(TRAINING_STAGES)}, in this order."
        )
    return order


def _check_stages(stages: Sequence[str], config: Mapping[str, Any], starts_anew: bool) -> None:
    """Refuse what a later stage would refuse after hours, and stages after which the sampler does not fit."""
    if "scoring" in stages:
        check_one_pass("The scoring stage", config.get("prediction_type"))
    samples = str(config.get("network_def", {}).get("_target_", "")).endswith("LatentDiffusionSegmenter")
    if samples and stages[-1] == "train" and config.get("sampler") == "direct":
        raise InputError(
            "The sampler 'direct' is for what the scoring stage leaves, and training_stages ends with 'train': add "
            "'scoring', or give --sampler dpm++ --num_inference_steps 10."
        )
    # An expression is left to the stage itself.
    if starts_anew and config.get("image_encoder") in ENCODERS and config.get("published_encoder"):
        find_published_weights(config["image_encoder"])


def _spacing_override(dataset_dir: str | Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The training part's median spacing, where the network is planned from it and no spacing was given."""
    if config.get("image_spacing_mm") is not None or "@image_spacing_mm" not in json.dumps(config.get("network_def")):
        return {}
    dims = int(config.get("spatial_dims", 2))
    return {"image_spacing_mm": training_spacing(load_dataset_info(dataset_dir)["training"], dims)}


@torch.no_grad()
def count_multiply_accumulates(network: nn.Module, image: torch.Tensor, num_inference_steps: int) -> int:
    """Multiply-accumulates of one sample: conditioner, ``num_inference_steps`` steps of the sampler, decoder.

    Counted by PyTorch's ``FlopCounterMode`` (matrix products, convolutions, attention) as half its floating-point
    operations. Two samplings of 2 and 4 steps are counted and extended to the asked number, as a step costs the same
    each time.

    Args:
        network: segmenter with ``ensemble_logits``.
        image: (1, C, H, W[, D]).
        num_inference_steps: denoiser calls a sample.
    """
    operations = []
    for steps in (2, 4):
        with FlopCounterMode(display=False) as counter:
            network.ensemble_logits(image, 1, num_inference_steps=steps)  # type: ignore[operator]
        operations.append(counter.get_total_flops())
    a_step = (operations[1] - operations[0]) / 2
    return round((operations[0] + (num_inference_steps - 2) * a_step) / 2)


class _Record:
    """``training.json`` of a run: time and iterations of its stages, summed over calls, and what its network costs."""

    def __init__(self, run: Path, max_minutes: float | None, dataset_dir: str | Path) -> None:
        self.run = run
        self.path = run / "training.json"
        self.content: dict[str, Any] = json.loads(self.path.read_text()) if self.path.is_file() else {"stages": {}}
        self.content["max_minutes"] = max_minutes
        digest = hashlib.sha256((Path(dataset_dir) / "dataset.json").read_bytes()).hexdigest()
        if self.content.setdefault("dataset_sha256", digest) != digest:
            raise InputError(
                f"{run} was trained on another data set than {dataset_dir} (their dataset.json differ). Choose another "
                "--output-dir, or repeat the --dataset-dir that the run was started with."
            )

    def add(self, stage: str, iterations: int, minutes: float) -> None:
        """Note what a stage has done so far, ``minutes`` of it in this call."""
        before = self.content["stages"].get(stage, {"minutes": 0.0})
        self.content["stages"][stage] = {"iterations": iterations, "minutes": before["minutes"] + minutes}
        save_json(self.content, self.path)

    def write_costs(self) -> None:
        """Note the network's size and work, unless an earlier call has."""
        if "parameters" not in self.content:
            from ..provenance import provenance

            parser = ConfigParser(load_stage_config(self.run, "inference"))
            with unwrapped_errors(), torch.random.fork_rng():
                network = parser.get_parsed_content("network_def").eval()
                side, dims = parser.get_parsed_content("image_size"), parser.get("spatial_dims", 2)
                image = torch.zeros(1, parser.get_parsed_content("image_channels"), *[side] * dims)
                steps = parser.get_parsed_content("num_inference_steps")
                self.content.update(
                    parameters=sum(weight.numel() for weight in network.parameters()),
                    trainable_parameters=sum(weight.numel() for weight in network.parameters() if weight.requires_grad),
                    multiply_accumulates=count_multiply_accumulates(network, image, steps),
                    provenance=provenance(parser.get_parsed_content("device")),
                )
        save_json(self.content, self.path)


def _check_dataset(dataset_dir: str | Path, config: dict) -> None:
    info = load_dataset_info(dataset_dir)
    if info.get("num_channels") != config["image_channels"]:
        raise InputError(
            f"{dataset_dir} holds images of {info.get('num_channels')} channels, the bundle expects "
            f"{config['image_channels']}. Choose the bundle that fits, or override --image_channels."
        )
    dims, expected = info.get("spatial_dims", 2), config.get("spatial_dims", 2)
    if dims != expected:
        raise InputError(
            f"{dataset_dir} holds images of {dims} dimensions, the configuration expects {expected}: volumes go with "
            "--experiment volumetric, images without."
        )
    for section in ("training", "validation"):
        if not info.get(section):
            raise InputError(f"The {section} part of {dataset_dir} is empty: prepare it with a split that has one.")
