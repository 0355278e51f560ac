"""Training a bundle: image codec, mask codec, diffusion, one after the other, each resumable.

Every stage is a MONAI bundle configuration run by MONAI's own workflow; this module only decides which one is due, how
much time is left for it, and where it goes on.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from .bundle import find_bundle, load_stage_config, write_run_folder
from .checkpoints import stage_finished
from .data.datalist import load_dataset_info
from .errors import InputError, unwrapped_errors

__all__ = ["TRAINING_STAGES", "train"]

# Stage → the file of weights that it leaves in models/.
TRAINING_STAGES = {"image_codec": "image_codec.pt", "mask_codec": "mask_codec.pt", "train": "model.pt"}

logger = logging.getLogger(__name__)


def train(
    bundle: str | Path,
    dataset_dir: str | Path,
    experiment: str | None = None,
    output_dir: str | Path | None = None,
    max_minutes: float | None = None,
    **overrides: Any,
) -> Path:
    """Train the stages of a bundle that are not finished yet.

    Args:
        bundle: folder, or name under ``bundles/``.
        dataset_dir: prepared folder (``medseglatdiff prepare``).
        experiment: overlay, a JSON file or a name under ``configs/experiments/``.
        output_dir: where the run goes; a bundle of its own when done. Default ``runs/<bundle>[_<experiment>]``.
        max_minutes: stop cleanly after so many minutes, all stages together; the same call goes on from there.
        overrides: configuration keys, e.g. ``max_epochs=3``, ``batch_size=8``.

    Returns:
        The run's folder; weights are in its ``models/``.

    Raises:
        InputError: unknown bundle, experiment or key; a data set that does not fit the bundle; no time at all.
    """
    if max_minutes is not None and max_minutes <= 0:
        raise InputError(f"--max-minutes must be positive, found {max_minutes}.")
    root = find_bundle(bundle)
    default = Path("runs") / (root.name if experiment is None else f"{root.name}_{Path(experiment).stem}")
    _check_dataset(dataset_dir, load_stage_config(root, "train", experiment, overrides))
    output = write_run_folder(root, output_dir or default, experiment, overrides)
    deadline = None if max_minutes is None else time.monotonic() + 60.0 * max_minutes
    for stage, weights in TRAINING_STAGES.items():
        config_file = output / "configs" / f"{stage}.json"
        config = load_stage_config(output, stage)
        # Pixels need no codec: the identity has nothing to train.
        if stage != "train" and str(config[f"{stage}_def"]["_target_"]).endswith("IdentityCodec"):
            continue
        if stage_finished(output / "models" / weights):
            logger.info("Stage %s is finished already: %s", stage, output / "models" / weights)
            continue
        arguments = {"bundle_root": str(output), "dataset_dir": str(Path(dataset_dir).absolute())}
        if deadline is not None:
            minutes = (deadline - time.monotonic()) / 60.0
            if minutes <= 0:
                break
            arguments["max_minutes"] = minutes
        workflow = ConfigWorkflow(config_file=str(config_file), workflow_type="train", **arguments)
        with unwrapped_errors():
            workflow.initialize()
            try:
                workflow.run()
            finally:
                workflow.finalize()
        if not stage_finished(output / "models" / weights):
            logger.info("Time is up in stage %s: the same command goes on from here.", stage)
            break
    return output


def _check_dataset(dataset_dir: str | Path, config: dict) -> None:
    info = load_dataset_info(dataset_dir)
    if info.get("num_channels") != config["image_channels"]:
        raise InputError(
            f"{dataset_dir} holds images of {info.get('num_channels')} channels, the bundle expects "
            f"{config['image_channels']}. Choose the bundle that fits, or override --image_channels."
        )
    for section in ("training", "validation"):
        if not info.get(section):
            raise InputError(f"The {section} part of {dataset_dir} is empty: prepare it with a split that has one.")
