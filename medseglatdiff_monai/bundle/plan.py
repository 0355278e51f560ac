"""How long the stages of a training are: in steps, whatever the number of images.

A bundle's epochs were chosen for the data set that it was first trained on. With 24 images in place of 1,600 the same
epochs are a few steps, which train nothing. So each stage takes at least :data:`MIN_STEPS`: where the bundle's epochs
are fewer, they are raised, and with them the intervals of validation and checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Its stage file is called train.json, as MONAI wants it.
STAGE_NAMES = {"image_codec": "image codec", "mask_codec": "mask codec", "train": "diffusion", "scoring": "scoring"}
# The shipped bundles' own stages have at least as many on the data that they were trained on.
MIN_STEPS = {"image_codec": 100, "mask_codec": 300, "train": 600, "scoring": 600}
# How often a stage whose epochs were raised is validated, and after how many steps at most its state is written.
VALIDATIONS, CHECKPOINT_STEPS = 5, 50
# How a training's time is divided among its stages.
STAGE_SHARES = {"image_codec": 0.15, "mask_codec": 0.2, "train": 0.35, "scoring": 0.3}
# Below this Dice of its reconstructions the mask codec loses what the later stages are to produce.
CODEC_DICE = 0.9


def stage_share(stage: str, stages: Sequence[str]) -> float:
    """The share of the time of ``stages`` that one of them has."""
    return STAGE_SHARES[stage] / sum(STAGE_SHARES[name] for name in stages)


@dataclass(frozen=True)
class StageLength:
    """How long a stage is.

    Attributes:
        steps_per_epoch: batches of an epoch.
        bundle_epochs: epochs that the configuration has.
        epochs: epochs that are planned.
        fixed: whether the epochs are the user's own, so that nothing is planned.
        keys: configuration keys of the stage that the plan changes.
    """

    steps_per_epoch: int
    bundle_epochs: int
    epochs: int
    fixed: bool
    keys: dict[str, int]

    def describe(self, stage: str) -> str:
        """The length of this stage in words, and why."""
        steps, was = self.epochs * self.steps_per_epoch, self.bundle_epochs * self.steps_per_epoch
        if self.fixed:
            why = "as given"
        elif self.epochs == self.bundle_epochs:
            why = "the bundle's"
        else:
            why = f"the bundle's {self.bundle_epochs} epochs would be {was}"
        return f"{STAGE_NAMES[stage]} {steps} steps ({why})"


def plan_stage(stage: str, config: Mapping[str, Any], cases: int, fixed: bool = False) -> StageLength | None:
    """The length of a stage on a data set of some size.

    Args:
        stage: a key of :data:`MIN_STEPS`.
        config: its configuration.
        cases: training cases.
        fixed: keep the configuration's epochs, which the user gave.

    Returns:
        The length, or ``None`` where the configuration works it out by itself.
    """
    names = ("batch_size", "max_epochs", "val_interval", "checkpoint_interval")
    numbers = [value for value in map(config.get, names) if isinstance(value, int)]
    if len(numbers) < len(names):
        return None
    batch, epochs, validation, checkpoint = numbers
    limit = config.get("max_train_cases")
    cases = min(cases, limit) if isinstance(limit, int) else cases
    # As the loader does: the last batch of an epoch is dropped where it is not full, unless it is the only one.
    per_epoch = max(1, cases // batch)
    planned = epochs if fixed else max(epochs, math.ceil(MIN_STEPS[stage] / per_epoch))
    if planned == epochs:
        return StageLength(per_epoch, epochs, epochs, fixed, {})
    interval = max(validation, planned // VALIDATIONS)
    # The last epoch is validated.
    planned = math.ceil(planned / interval) * interval
    keys = {
        "max_epochs": planned,
        "val_interval": interval,
        "checkpoint_interval": max(checkpoint, CHECKPOINT_STEPS // per_epoch),
    }
    return StageLength(per_epoch, epochs, planned, fixed, keys)


def find_resize(config: Mapping[str, Any]) -> tuple[int, str] | None:
    """Side and mode to which a configuration resizes masks; ``None`` where it does not, but crops for example."""
    if config.get("spatial_dims", 2) != 2:
        return None
    for transform in config.get("preprocessing_transforms", ()):
        keys, mode = transform.get("keys"), transform.get("mode")
        if transform.get("_target_") == "Resized" and isinstance(mode, list) and "label" in keys:
            return config["image_size"], mode[keys.index("label")]
    return None


def describe_data(fingerprint: Mapping[str, Any], resize: tuple[int, str] | None) -> list[str]:
    """A fingerprint in two or three lines, with what to do where resizing loses structures."""
    cases, size = fingerprint["cases"], fingerprint["size"]
    sides = {key: " × ".join(str(side) for side in size[key]) for key in size}
    extent = sides["min"] if sides["min"] == sides["max"] else f"{sides['min']} to {sides['max']}"
    spacing = fingerprint.get("spacing_mm")
    spaced = "no spacing" if spacing is None else f"spacing {' × '.join(f'{value:.2f}' for value in spacing)} mm"
    raters, agreement = fingerprint["raters"], fingerprint["dice_between_raters"]
    lines = [
        f"Images: {cases['training']} training, {cases['validation']} validation, {cases['test']} test; "
        f"{fingerprint['channels']} channel(s), {extent} pixels, {spaced}"
    ]
    share = fingerprint["foreground_share"]
    marked = "all masks are empty" if share is None else (
        f"foreground {100 * share['min']:.1f} to {100 * share['max']:.1f} % (median {100 * share['median']:.1f} %)"
    )  # fmt: skip
    empty = f", {100 * fingerprint['empty_share']:.0f} % of the masks empty" if fingerprint["empty_share"] else ""
    agreed = "" if agreement is None else f", raters agree with Dice {agreement:.2f}"
    lines.append(f"Masks: {raters} rater(s), {marked}{empty}{agreed}")
    kept = fingerprint["dice_after_resizing"]
    if resize is not None and kept is not None:
        side, mode = resize
        # A network cannot be better than its own pixels.
        advice = (
            "" if kept >= CODEC_DICE
            else f": too little; try {'--mask-resize area or ' if mode == 'nearest' else ''}a larger --image-size"
        )  # fmt: skip
        lines.append(f"Input: resized to {side} × {side} ({mode}), which keeps Dice {kept:.3f} of the masks{advice}")
    return lines
