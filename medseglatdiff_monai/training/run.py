"""Training a bundle: image codec, mask codec, diffusion, scoring, one after the other, each resumable.

Every stage is a MONAI bundle configuration run by MONAI's own workflow. This package only decides which stage is next,
how much time is left for it, and where it resumes. The configuration's ``training_stages`` names the stages. The time
that training took and the cost of a sample are written to ``training.json`` in the run's folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..bundle.arguments import check_device
from ..bundle.build import write_run_folder
from ..bundle.config import Bundle, experiment_name
from ..data.datalist import load_dataset_info
from ..errors import InputError
from ..files import remove_leftovers
from ..locks import locked
from ..startup import heavy_imports
from .interruption import interruptible

__all__ = ["TRAINING_STAGES", "stage_weights", "train"]

# Stage → the file of weights that it leaves in models/.
TRAINING_STAGES = {
    "image_codec": "image_codec.pt", "mask_codec": "mask_codec.pt", "train": "diffusion.pt", "scoring": "model.pt",
}  # fmt: skip


def stage_weights(stage: str, stages: Sequence[str]) -> str:
    """File name of a stage's weights in ``models/``: the last one leaves ``model.pt``, a codec its own."""
    return "model.pt" if stage == "train" and "scoring" not in stages else TRAINING_STAGES[stage]


def train(
    bundle: str | Path,
    dataset_dir: str | Path,
    experiment: str | Path | None = None,
    output_dir: str | Path | None = None,
    max_minutes: float | None = None,
    initial_weights: str | Path | None = None,
    **overrides: Any,
) -> Path:
    """Train a bundle's stages in their order; finished stages are skipped, interrupted ones resumed.

    Example: medseglatdiff train lung_nodule_ct_latent_diffusion --dataset-dir data/lidc --output-dir runs/lung

    Args:
        bundle: bundle folder, or a name under bundles/.
        dataset_dir: prepared folder (medseglatdiff prepare).
        experiment: overlay: a JSON file or a name under configs/experiments/.
        output_dir: the run's folder, a bundle when done. Default: runs/BUNDLE, or runs/BUNDLE_EXPERIMENT.
        max_minutes: stop cleanly after this many minutes, all stages together; the same call resumes from there. A
            decay of the learning rate ends when the time does.
        initial_weights: a bundle's models/model.pt to start from, e.g. to adapt it to your own images. It holds the
            mask codec and the image encoder, so only the last stage is run (the scoring stage if there is one).
        overrides: configuration keys, e.g. --max_epochs 3 --batch_size 8.

    Returns:
        The run's folder; weights are in its ``models/``.

    Raises:
        InputError: unknown bundle, experiment or key; a data set that does not fit the bundle; no time at all; more
            than one process; another process that trains into the folder; a full disk.
        Interrupted: SIGTERM or SIGINT came, the checkpoint is written; the same call resumes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            f"'medseglatdiff train' runs in one process, found WORLD_SIZE={os.environ['WORLD_SIZE']}: torchrun takes "
            "'-m monai.bundle run' with the bundle's configs/multi_gpu_train.json instead, see docs/how-to/cluster.md."
        )
    if max_minutes is not None and max_minutes <= 0:
        raise InputError(f"--max-minutes must be positive, found {max_minutes}.")
    check_device(overrides.get("device"))
    opened = Bundle(bundle, experiment)
    info = load_dataset_info(dataset_dir)
    config = opened.config("train", overrides)
    stages = _read_stages(config)
    with heavy_imports():
        from .stages import check_stages, find_spacing, run_stages

    if initial_weights is not None:
        stages = stages[-1:]
        initial = str(Path(initial_weights).absolute())
        overrides = {**overrides, "initial_weights": initial, "training_stages": stages}
    check_stages(stages, config, initial_weights)
    _check_dataset(dataset_dir, info, config)
    spacing = find_spacing(info, config)
    if spacing is not None:
        overrides = {"image_spacing_mm": spacing, **overrides}
    name = experiment_name(experiment)
    default = Path("runs") / (opened.root.name if name is None else f"{opened.root.name}_{name.replace('/', '_')}")
    output = Path(output_dir or default)
    with locked(output), interruptible():
        remove_leftovers(output, output / "configs", output / "models")
        output = write_run_folder(opened, output, overrides=overrides)
        run_stages(output, {stage: stage_weights(stage, stages) for stage in stages}, dataset_dir, max_minutes)
    return output


def _read_stages(config: Mapping[str, Any]) -> list[str]:
    """``training_stages`` of a configuration, checked."""
    # Bundles without the key are older and have these stages.
    stages = config.get("training_stages", ["image_codec", "mask_codec", "train"])
    order = [stage for stage in TRAINING_STAGES if stage in stages]
    if list(stages) != order or not order:
        raise InputError(
            f"training_stages is {stages}; expected at least one of {list(TRAINING_STAGES)}, in this order."
        )
    return order


def _check_dataset(dataset_dir: str | Path, info: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    if info.get("num_channels") != config["image_channels"]:
        raise InputError(
            f"{dataset_dir} holds images of {info.get('num_channels')} channels, the bundle expects "
            f"{config['image_channels']}. Choose the bundle that fits, or override --image_channels."
        )
    dims, expected = info.get("spatial_dims", 2), config.get("spatial_dims", 2)
    if dims != expected:
        raise InputError(
            f"{dataset_dir} holds images of {dims} dimensions, the configuration expects {expected}: use "
            "--experiment volumetric for volumes, and not for images."
        )
    for section in ("training", "validation"):
        if not info.get(section):
            raise InputError(f"The {section} part of {dataset_dir} is empty: prepare it with a split that has one.")
