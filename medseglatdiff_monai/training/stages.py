"""Running the stages of a training, one after the other, as far as the time allows."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from ..diffusion.process import check_one_pass
from ..errors import InputError, unwrapped_errors
from ..networks.baselines.nnunet_plan import training_spacing
from ..networks.encoders import ENCODERS, find_published_weights
from ..networks.weights import load_tensors, stage_finished
from .record import TrainingRecord

__all__ = ["check_stages", "find_spacing", "run_stages"]

logger = logging.getLogger(__name__)


def run_stages(run: Path, weights: Mapping[str, str], dataset_dir: str | Path, max_minutes: float | None) -> None:
    """Run the stages that are not finished, and note what they took in ``training.json``.

    Args:
        run: the run's folder, a bundle.
        weights: stage → the file that it leaves in ``models/``, in the order of the stages.
        dataset_dir: prepared folder.
        max_minutes: of all stages together.

    Raises:
        InputError: the run was trained on another data set.
    """
    record = TrainingRecord(run, max_minutes, dataset_dir)
    deadline = None if max_minutes is None else time.monotonic() + 60.0 * max_minutes
    for stage, name in weights.items():
        path = run / "models" / name
        if stage_finished(path):
            logger.info("Stage %s is finished already: %s", stage, path)
            continue
        arguments: dict[str, Any] = {"bundle_root": str(run), "dataset_dir": str(Path(dataset_dir).absolute())}
        if deadline is not None:
            if deadline <= time.monotonic():
                break
            arguments["deadline"] = deadline
        config_file = run / "configs" / f"{stage}.json"
        workflow = ConfigWorkflow(config_file=str(config_file), workflow_type="train", logging_file=False, **arguments)
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
            logger.warning("Time is up in stage %s: the same command resumes from here.", stage)
            break
    record.write_costs()


def check_stages(stages: Sequence[str], config: Mapping[str, Any], initial_weights: str | Path | None) -> None:
    """Refuse early what a later stage would refuse after hours, and stages that do not fit the sampler.

    Args:
        stages: those to be run.
        config: of the stage ``train``.
        initial_weights: file to start from.

    Raises:
        InputError: see above; a missing or damaged file of weights; published weights that are not installed.
    """
    if initial_weights is not None:
        load_tensors(initial_weights)
    if "scoring" in stages:
        check_one_pass("The scoring stage", config.get("prediction_type"))
    samples = str(config.get("network_def", {}).get("_target_", "")).endswith("LatentDiffusionSegmenter")
    if samples and stages[-1] == "train" and config.get("sampler") == "direct":
        raise InputError(
            "The sampler 'direct' needs a network from the scoring stage, and training_stages ends with 'train': add "
            "'scoring', or give --sampler dpm++ --num_inference_steps 10."
        )
    # If image_encoder is an expression, the stage itself checks it.
    if initial_weights is None and config.get("image_encoder") in ENCODERS and config.get("published_encoder"):
        find_published_weights(config["image_encoder"])


def find_spacing(info: Mapping[str, Any], config: Mapping[str, Any]) -> list[float] | None:
    """The training part's median spacing, where the network is planned from it and no spacing was given."""
    if config.get("image_spacing_mm") is not None or "@image_spacing_mm" not in json.dumps(config.get("network_def")):
        return None
    dims = int(config.get("spatial_dims", 2))
    return training_spacing(info["training"], dims)
