"""Running the stages of a training, one after the other, as far as the time allows."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from ..bundle.plan import CODEC_DICE, STAGE_NAMES, stage_share
from ..diffusion.process import check_one_pass
from ..errors import InputError, unwrapped_errors
from ..networks.baselines.nnunet_plan import training_spacing
from ..networks.encoders import ENCODERS, find_published_weights
from ..networks.weights import finish_stage, load_tensors, stage_finished, state_path
from .record import TrainingRecord
from .start import Start, save_stage_start

logger = logging.getLogger(__name__)
# Share of the time that a planned training keeps for its last validation.
VALIDATION_SHARE = 0.05
# How often a mask codec that is not good enough is trained for its whole length, and the least time for one more round.
CODEC_ROUNDS, MIN_SECONDS = 3, 10.0
CODEC_ADVICE = (
    "Try a larger --image-size or --mask-resize area (both of new-bundle), fewer halvings or more channels "
    "(--mask_codec_channels '[32,64]', --mask_embedding_dim 16), and look at the masks: noise cannot be rebuilt."
)
# Consensus below which a model is called unusable, and where its masks must be nearly all empty.
POOR_DICE, EMPTY_DICE = 0.5, 0.02


def run_stages(
    run: Path,
    weights: Mapping[str, str],
    dataset_dir: str | Path,
    max_minutes: float | None,
    command: str,
    start: Start | None = None,
    fixed: Sequence[str] = (),
) -> None:
    """Run the stages that are not finished, and note what they took in ``training.json``.

    Args:
        run: the run's folder, a bundle.
        weights: stage → the file that it leaves in ``models/``, in the order of the stages.
        dataset_dir: prepared folder.
        max_minutes: of all stages together.
        command: the command line that resumes this training.
        start: where a planned training starts. Its stages share the minutes: one whose share is over ends there, but a
            mask codec that is not good enough continues in place of the next. ``None``: every stage to its end.
        fixed: stages of a planned training whose epochs the user gave: such a codec is not trained for longer.

    Raises:
        InputError: the run was trained on another data set; a mask codec that does not learn the masks.
    """
    record = TrainingRecord(run, max_minutes, dataset_dir)
    record.content["command"] = command
    runner = _Runner(run, dataset_dir, record, max_minutes, start)
    stages = list(weights)
    scores: dict[str, float] = {}
    for number, (stage, name) in enumerate(weights.items()):
        path, later = run / "models" / name, stages[number + 1 :]
        if stage_finished(path):
            logger.info("Stage %s is finished already: %s", stage, path)
            continue
        if runner.seconds_left() > 0:
            if stage == "mask_codec":
                runner.run_mask_codec(path, later, may_continue=start is not None and stage not in fixed)
            else:
                scores = runner.run(stage, path, later)
        if not stage_finished(path):
            logger.warning("Time is up in the stage %s. This resumes it: %s", STAGE_NAMES[stage], command)
            break
    record.write_costs()
    dice = scores.get("dice", math.nan) if stage == stages[-1] else math.nan
    if dice < POOR_DICE:
        logger.warning(
            "The masks are not usable yet: Dice %.3f in the last validation%s. Train for longer, or start from the "
            "weights of a bundle for similar images (--initial-weights, or new-bundle --from).",
            dice, ", nearly all are empty" if dice < EMPTY_DICE else "",
        )  # fmt: skip
    elif not math.isnan(dice):
        logger.info("Dice of the consensus in the last validation: %.3f", dice)


class _Runner:
    """Runs the stages of one call; ``path`` is a stage's weights, ``later`` are the stages after it."""

    def __init__(
        self, run: Path, dataset_dir: str | Path, record: TrainingRecord, max_minutes: float | None, start: Start | None
    ) -> None:
        self.folder, self.record, self.start = run, record, start
        self.dataset_dir = str(Path(dataset_dir).absolute())
        self.ends = None if max_minutes is None else time.monotonic() + 60.0 * max_minutes
        # So that a last stage whose time is up is still scored.
        self.kept_back = 0.0 if max_minutes is None or start is None else VALIDATION_SHARE * 60.0 * max_minutes
        # Those of the mask codec in rounds that are over.
        self.steps_before = 0

    def seconds_left(self) -> float:
        """Seconds until the end of the call."""
        return math.inf if self.ends is None else self.ends - time.monotonic()

    def run(self, stage: str, path: Path, later: Sequence[str]) -> dict[str, float]:
        """Run a stage, if planned until its share of the time is over; returns what its last validation measured."""
        scores = self._run_once(stage, path, later)
        self._finish(path, later)
        return scores

    def run_mask_codec(self, path: Path, later: Sequence[str], may_continue: bool) -> None:
        """Run the mask codec's stage until it rebuilds the masks, for three times its length at most.

        ``may_continue`` says whether its length was planned; where it was given, a warning alone says what is wrong.

        Raises:
            InputError: it does not learn the masks; the message says what to do.
        """
        rounds = self.steps_before = 0
        while True:
            dice = self._run_once("mask_codec", path, later).get("dice", math.nan)
            found = f"The mask codec rebuilds the validation masks with Dice {dice:.3f}; {CODEC_DICE} is wanted"
            # Not a number where all these masks are empty: nothing speaks against the codec then.
            poor = dice < CODEC_DICE
            if poor and not may_continue:
                logger.warning("%s. The later stages cannot be better than that: %s", found, CODEC_ADVICE)
            if not poor or not may_continue:
                self._finish(path, later)
                return
            if stage_finished(path):
                rounds += 1
                # It continues from its own weights: a finished stage has no training state.
                path.replace(_start_file(path, "mask_codec"))
                self.steps_before = self.record.content["stages"]["mask_codec"]["iterations"]
                if rounds == CODEC_ROUNDS:
                    raise InputError(f"{found}, and {rounds} times its planned steps did not reach it. {CODEC_ADVICE}")
            if self.seconds_left() <= MIN_SECONDS:
                logger.warning("%s.", found)
                return
            logger.info("%s: it is trained for longer.", found)

    def _finish(self, path: Path, later: Sequence[str]) -> None:
        """Accept a planned stage whose share of the time is over, unless nothing is left for the stages after it."""
        if self.start and later and path.is_file() and not stage_finished(path) and self.seconds_left() > 0:
            logger.info("Its share of the time is over: the next stage continues from what it has reached.")
            finish_stage(path)

    def _deadline(self, stage: str, later: Sequence[str]) -> float | None:
        """When a stage has to end; a planned one has its share of the time that is left to it and ``later``."""
        if self.ends is None or self.start is None:
            return self.ends
        others = 1.0 - stage_share(stage, [stage, *later])
        return self.ends - self.kept_back - others * max(0.0, self.seconds_left() - self.kept_back)

    def _run_once(self, stage: str, path: Path, later: Sequence[str]) -> dict[str, float]:
        arguments: dict[str, Any] = {"bundle_root": str(self.folder), "dataset_dir": self.dataset_dir}
        if self.ends is not None:
            arguments["deadline"] = self._deadline(stage, later)
        start = self._find_start(stage, path)
        if start is not None:
            arguments["initial_weights"] = str(start)
        config_file = self.folder / "configs" / f"{stage}.json"
        workflow = ConfigWorkflow(config_file=str(config_file), workflow_type="train", logging_file=False, **arguments)
        with unwrapped_errors():
            workflow.initialize()
            started = time.perf_counter()
            try:
                workflow.run()
                scores = self._score(workflow)
            finally:
                seconds = time.perf_counter() - started
                iterations = workflow.parser.get_parsed_content("train#trainer").state.iteration
                workflow.finalize()
                before = self.steps_before if stage == "mask_codec" else 0
                self.record.add(stage, before + iterations, seconds / 60.0)
        if start is not None:
            start.unlink()
        return scores

    def _find_start(self, stage: str, path: Path) -> Path | None:
        """File of the weights that a stage starts from, if its configuration does not name it."""
        if self.start is None or state_path(path).is_file():
            return None
        found = _start_file(path, stage)
        if not found.is_file() and len(self.start.stages) > 1:
            save_stage_start(stage, self.start, found)
        return found if found.is_file() else None

    def _score(self, workflow: ConfigWorkflow) -> dict[str, float]:
        """What the last validation measured; a planned training ends with one, even if its time was up before."""
        trainer, validator = (workflow.parser.get_parsed_content(f) for f in ("train#trainer", "validate#evaluator"))
        interval = workflow.parser.get_parsed_content("val_interval")
        given_up = trainer.should_terminate or validator.should_terminate
        if self.start is not None and (given_up or trainer.state.epoch % interval):
            logger.info("A last validation, of what was reached")
            validator.run(trainer.state.epoch)
        return {name: float(value) for name, value in validator.state.metrics.items()}


def _start_file(path: Path, stage: str) -> Path:
    return path.with_name(f"start_{stage}.pt")


def check_stages(start: Start, config: Mapping[str, Any], initial_weights: str | Path | None) -> None:
    """Refuse early what a later stage would refuse after hours, and stages that do not fit the sampler.

    ``config`` is that of the stage ``train``, ``initial_weights`` the file that the user gave.

    Raises:
        InputError: see above; a missing or damaged file of weights; published weights that are not installed; a mask
            codec whose decoder is to be trained alone, and cannot be.
    """
    stages = start.stages
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
    if config.get("trainable_mask_encoder") is False:
        # Other codecs than the VQ-VAE have no such argument.
        known = "trainable_encoder" in config.get("mask_codec_def", {})
        scratch = "mask_codec" in stages and (start.weights is None or "mask_codec" in start.fresh)
        if not known or scratch:
            raise InputError(
                "trainable_mask_encoder is false: the decoder of a VQ-VAE is trained alone, from --initial-weights "
                "whose mask codec has the same sizes. Give these, or set it to true."
            )
    # If image_encoder is an expression, the stage itself checks it.
    new_encoder = start.weights is None or "conditioner.image_encoder" in start.fresh
    if new_encoder and config.get("image_encoder") in ENCODERS and config.get("published_encoder"):
        find_published_weights(config["image_encoder"])


def find_spacing(info: Mapping[str, Any], config: Mapping[str, Any]) -> list[float] | None:
    """The training part's median spacing, where the network is planned from it and no spacing was given."""
    if config.get("image_spacing_mm") is not None or "@image_spacing_mm" not in json.dumps(config.get("network_def")):
        return None
    dims = int(config.get("spatial_dims", 2))
    return training_spacing(info["training"], dims)
