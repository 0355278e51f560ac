"""Training a bundle: image codec, mask codec, diffusion, scoring, one after the other, each resumable.

Every stage is a MONAI bundle configuration run by MONAI's own workflow. This package only decides which stage is next,
how much time is left for it, and where it resumes. The configuration's ``training_stages`` names the stages. The time
that training took and the cost of a sample are written to ``training.json`` in the run's folder, and what was planned
from the data to ``plan.json``.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.arguments import check_dataset, check_overrides
from ..bundle.build import write_run_folder
from ..bundle.config import Bundle, experiment_name
from ..bundle.folders import known_bundles
from ..bundle.plan import StageLength, describe_data, find_resize, plan_stage
from ..bundle.segmenter import check_present
from ..bundle.trust import code_options
from ..data.datalist import load_dataset_info
from ..errors import InputError
from ..extras import require
from ..files import remove_leftovers, save_json
from ..locks import locked
from ..startup import heavy_imports
from .interruption import interruptible

if TYPE_CHECKING:
    from .start import Start

logger = logging.getLogger(__name__)

PLAN_FILE = "plan.json"
# Stage → the file of weights that it leaves in models/.
TRAINING_STAGES = {
    "image_codec": "image_codec.pt", "mask_codec": "mask_codec.pt", "train": "diffusion.pt", "scoring": "model.pt",
}  # fmt: skip


def stage_weights(stage: str, stages: Sequence[str]) -> str:
    """File name of a stage's weights in ``models/``: the last one leaves ``model.pt``, a codec its own."""
    return "model.pt" if stage == "train" and "scoring" not in stages else TRAINING_STAGES[stage]


def check_tracking(opened: Bundle, overrides: Mapping[str, Any]) -> None:
    """Raise the InputError of a training that is to be tracked without MLflow."""
    if overrides.get("tracking_uri", opened.stages.get("train", {}).get("tracking_uri")):
        require("train", "The record of a training", "--tracking_uri false trains without a record.")


def train(
    bundle: str | Path,
    dataset_dir: str | Path,
    experiment: str | Path | None = None,
    output_dir: str | Path | None = None,
    max_minutes: float | None = None,
    initial_weights: str | Path | None = None,
    plan: bool = True,
    device: str | None = None,
    **overrides: Any,
) -> Path:
    """Train a bundle's stages in their order; finished stages are skipped, interrupted ones resumed.

    Lengths are planned from the data: each stage takes a number of steps that trains it, however few images there are.
    What was found and planned is printed and kept in ``plan.json``.

    Example: medseglatdiff train lung_nodule_ct_latent_diffusion --dataset-dir data/lidc --output-dir runs/lung

    Args:
        bundle: a bundle's folder or name, see medseglatdiff bundles.
        dataset_dir: prepared folder (medseglatdiff prepare).
        experiment: overlay: a JSON file or a name, see medseglatdiff experiments.
        output_dir: the run's folder, a bundle when done. Default: runs/BUNDLE, or runs/BUNDLE_EXPERIMENT.
        max_minutes: stop cleanly after this many minutes, shared by the stages, so that even a short training ends with
            a model; a codec that is not good enough goes on in place of the next stage. The same call resumes the
            last stage. A decay of the learning rate ends when the time does.
        initial_weights: a bundle's name, or a file such as its models/model.pt, to start from, e.g. to adapt it to your
            own images. Parts that fit are taken. If all do, and its mask codec rebuilds your masks, only the last
            stage is run. Default: the bundle's models/initial.pt, if new-bundle made one.
        plan: False: the bundle's own epochs, every stage to its end before the next, and from scratch, or with
            initial_weights the last stage alone; max_minutes then ends whichever stage is reached.
        device: cpu, cuda, a numbered one such as cuda:1, or mps; by default CUDA if there is one.
        overrides: configuration keys, e.g. --batch_size 8. With --max_epochs 3 lengths are not planned.

    Returns:
        The run's folder; weights are in its ``models/``.

    Raises:
        InputError: unknown bundle, experiment or key; MLflow is not installed; a data set that does not fit the bundle;
            no time at all; more than one process; another process that trains into the folder; a full disk; a mask
            codec that does not learn the masks, the message says what to do.
        Interrupted: SIGTERM or SIGINT came, the checkpoint is written; the same call resumes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            f"'medseglatdiff train' runs in one process, found WORLD_SIZE={os.environ['WORLD_SIZE']}: torchrun takes "
            "'-m monai.bundle run' with the bundle's configs/multi_gpu_train.json instead, see docs/how-to/cluster.md."
        )
    if max_minutes is not None and max_minutes <= 0:
        raise InputError(f"--max-minutes must be positive, found {max_minutes}.")
    if (shipped := known_bundles().get(str(initial_weights))) is not None:
        initial_weights = shipped / "models" / "model.pt"
    if device is not None:
        overrides["device"] = device
    check_overrides(overrides)
    opened = Bundle(bundle, experiment)
    info = load_dataset_info(dataset_dir)
    check_tracking(opened, overrides)
    config = opened.config("train", overrides)
    check_dataset(dataset_dir, info, config)
    for section in ("training", "validation"):
        if not info.get(section):
            raise InputError(f"The {section} part of {dataset_dir} is empty: prepare it with a split that has one.")
    stages = _read_stages(config)
    name = experiment_name(experiment)
    default = Path("runs") / (opened.root.name if name is None else f"{opened.root.name}_{name.replace('/', '_')}")
    output = Path(output_dir or default)
    # The command line that resumes this training.
    options = {
        "dataset-dir": dataset_dir, "experiment": experiment, "output-dir": output, "max-minutes": max_minutes,
        "initial-weights": initial_weights, "plan": None if plan else False, **overrides,
    }  # fmt: skip
    words = [word for key, value in options.items() if value is not None for word in (f"--{key}", str(value))]
    command = shlex.join(["medseglatdiff", "train", str(bundle), *words, *code_options()])
    with heavy_imports():
        from ..data.fingerprint import take_fingerprint
        from .stages import check_stages, find_spacing, run_stages
        from .start import Start, choose_start, read_start

        check_present(str(overrides.get("device", "cpu")))
    start = Start(stages)
    given = initial_weights or (opened.root / "models" / "initial.pt")
    if initial_weights is not None and not plan:
        start = Start(stages[-1:], str(Path(initial_weights).absolute()))
    elif plan and Path(given).is_file():
        inference = opened.config("inference", overrides)
        start = read_start(output / PLAN_FILE) or choose_start(inference, stages, given, dataset_dir)
        if start.weights is None and initial_weights is not None:
            if (output / PLAN_FILE).is_file():
                raise InputError(f"{output} holds a training that started from scratch: choose another --output-dir.")
            raise InputError(
                f"The weights {given} do not fit the network: no part of it has the same tensors. Use weights of a "
                "bundle with the same sizes, or train without them, from scratch."
            )
    check_stages(start, config, initial_weights)
    if start.weights is not None:
        overrides = {**overrides, "training_stages": start.stages}
    if start.weights is not None and len(start.stages) == 1:
        # Among several stages each starts from another selection of these weights, which `run_stages` makes.
        overrides["initial_weights"] = start.weights
    lengths: dict[str, StageLength] = {}
    if plan:
        lengths = _plan_lengths(opened, start.stages, overrides, len(info["training"]))
        own = overrides.get("stages", {})
        # What the user gives for one stage is kept.
        planned = {stage: {**length.keys, **own.get(stage, {})} for stage, length in lengths.items() if length.keys}
        if planned:
            overrides = {**overrides, "stages": {**own, **planned}}
    spacing = find_spacing(info, config)
    if spacing is not None:
        overrides = {"image_spacing_mm": spacing, **overrides}
    weights = {stage: stage_weights(stage, start.stages) for stage in start.stages}
    fixed = [stage for stage, length in lengths.items() if length.fixed]
    with locked(output), interruptible():
        remove_leftovers(output, output / "configs", output / "models")
        output = write_run_folder(opened, output, overrides=overrides)
        if plan:
            resize = find_resize(config)
            fingerprint = take_fingerprint(dataset_dir, resize)
            _save_plan(output, opened, describe_data(fingerprint, resize), fingerprint, start, lengths, max_minutes)
        run_stages(output, weights, dataset_dir, max_minutes, command, start if plan else None, fixed)
    return output


def _save_plan(
    output: Path,
    opened: Bundle,
    data: Sequence[str],
    fingerprint: Mapping[str, Any],
    start: Start,
    lengths: Mapping[str, StageLength],
    max_minutes: float | None,
) -> None:
    """Say what is planned, and keep it beside the run."""
    shipped = opened.root / "models" / "model.pt"
    # An experiment's network may be another one, and what has begun keeps its start.
    fits = not opened.experiment and not (output / PLAN_FILE).is_file() and shipped.is_file()
    hint = f" (--initial-weights {shipped} starts from this bundle's)" if fits else ""
    lines = [
        *data, start.describe() + ("" if start.weights else hint),
        f"Stages: {'; '.join(length.describe(stage) for stage, length in lengths.items())}",
        "Time: no limit" if max_minutes is None else f"Time: {max_minutes:g} minutes, shared by the stages",
    ]  # fmt: skip
    for line in lines:
        logger.info("%s", line)
    content = {
        "said": lines, "fingerprint": fingerprint, "start": dataclasses.asdict(start),
        "stages": {stage: dataclasses.asdict(length) for stage, length in lengths.items()},
    }  # fmt: skip
    save_json(content, output / PLAN_FILE)


def _plan_lengths(
    opened: Bundle, stages: Sequence[str], overrides: Mapping[str, Any], cases: int
) -> dict[str, StageLength]:
    """Length of each stage; epochs that the user gave are kept."""
    lengths = {}
    for stage in stages:
        fixed = "max_epochs" in overrides or "max_epochs" in overrides.get("stages", {}).get(stage, {})
        length = plan_stage(stage, opened.config(stage, overrides), cases, fixed)
        if length is not None:
            lengths[stage] = length
    return lengths


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
