"""Where a training starts: from scratch, or from other weights, of which it keeps the parts that are good enough.

Parts whose tensors agree in names and shapes are taken. If the mask codec is among them and rebuilds the masks of the
data at hand, it stays as it is, and so do the stages before the last; otherwise the stages that are needed are trained,
each from the parts that fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from ..bundle.plan import CODEC_DICE
from ..data.datalist import load_datalist
from ..errors import unwrapped_errors
from ..files import read_keys
from ..metrics import dice_score
from ..networks.weights import find_fresh_parts, load_tensors, save_tensors

# Cases of each part whose masks a mask codec is tried on.
CODEC_CASES = 8


@dataclass(frozen=True)
class Start:
    """Where a training starts.

    Attributes:
        stages: those that are to be trained, in order.
        weights: file that is started from; ``None``: from scratch.
        fresh: the network's parts that start from scratch all the same.
        codec_dice: what the mask codec of the file makes of the masks at hand; ``None`` where it does not fit.
    """

    stages: list[str]
    weights: str | None = None
    fresh: tuple[str, ...] = ()
    codec_dice: float | None = None

    def describe(self) -> str:
        """The start in words."""
        if self.weights is None:
            return "Start: from scratch"
        parts = f"all parts fit but {', '.join(self.fresh)}" if self.fresh else "all parts fit"
        codec = ""
        if self.codec_dice is not None:
            verdict = "which is trained further" if "mask_codec" in self.stages else "which stays as it is"
            codec = f"; its mask codec rebuilds these masks with Dice {self.codec_dice:.3f}, {verdict}"
        return f"Start: {self.weights}: {parts}{codec}"


def choose_start(
    config: Mapping[str, Any], stages: Sequence[str], weights: str | Path, dataset_dir: str | Path
) -> Start:
    """The stages that are needed from given weights on; all of them, from scratch, if no part fits.

    The last stage always is. Before it come the stages of codecs that do not fit or, for the mask codec, rebuild the
    masks with a Dice below 0.9; and the diffusion stage if any part of the network is new to the others. A mask codec
    whose encoder is not trainable is trained in any case: it is what its configuration asks for.

    Args:
        config: the bundle's stage ``inference``, with experiment and overrides.
        stages: all stages of the training, in order.
        weights: a bundle's ``models/model.pt``.
        dataset_dir: prepared folder.

    Raises:
        InputError: the file is missing or damaged.
    """
    parser = ConfigParser(dict(config))
    with unwrapped_errors(), torch.random.fork_rng():
        network = parser.get_parsed_content("network_def").eval()
    own, given = network.state_dict(), load_tensors(weights)
    fresh, taken = find_fresh_parts(own, given)
    if not taken:
        return Start(list(stages))
    needed, dice = {stages[-1]}, None
    if "conditioner.codec" in fresh:
        needed.add("image_codec")
    if "mask_codec" in taken:
        codec = {name: given[name].to(value.dtype) for name, value in own.items() if name.startswith("mask_codec.")}
        network.load_state_dict({**own, **codec})
        dice = _try_codec(network.mask_codec, parser, dataset_dir)
    if "mask_codec" in fresh or (dice is not None and dice < CODEC_DICE):
        needed.add("mask_codec")
    # With a decoder alone the latents stay those that the denoiser knows.
    decoder_alone = config.get("trainable_mask_encoder") is False
    if fresh or ("mask_codec" in needed and not decoder_alone):
        needed.add("train")
    if decoder_alone:
        needed.add("mask_codec")
    return Start([stage for stage in stages if stage in needed], str(Path(weights).absolute()), tuple(fresh), dice)


def read_start(path: Path) -> Start | None:
    """Where a training was started from that left this ``plan.json``; ``None`` without one.

    A resumed training has the same stages, even where the mask codec's Dice comes out a little different.
    """
    return Start(**read_keys(path)["start"]) if path.is_file() else None


@torch.no_grad()
def _try_codec(codec: Any, parser: ConfigParser, dataset_dir: str | Path) -> float | None:
    """Mean Dice of a mask codec's reconstructions of some masks that are not empty; ``None`` if all are."""
    with unwrapped_errors():
        preprocessing = parser.get_parsed_content("preprocessing")
    scores: list[float] = []
    for part in ("training", "validation"):
        for item in load_datalist(dataset_dir, part, CODEC_CASES):
            with unwrapped_errors():
                label = torch.as_tensor(preprocessing({"image": item["image"], "label": item["label"]})["label"]) > 0
            masks = label[label.flatten(1).any(1)][:, None]
            if len(masks):
                scores += dice_score(codec.reconstruct(masks.float()) > 0, masks).flatten().tolist()
    return sum(scores) / len(scores) if scores else None


def save_stage_start(stage: str, start: Start, path: Path) -> None:
    """Write what a stage starts from, unless that is nothing: the weights, but for codecs trained before it.

    The weights of codecs that this training has trained lie beside ``path``.

    Raises:
        InputError: weights are missing or damaged.
    """
    # The weights hold the image codec's encoder alone; the scoring stage continues from the diffusion stage.
    after_diffusion = stage == "scoring" and "train" in start.stages
    new_codec = stage == "mask_codec" and "mask_codec" in start.fresh
    if start.weights is None or stage == "image_codec" or after_diffusion or new_codec:
        return
    state = load_tensors(start.weights)
    if stage != "mask_codec":
        for codec, part in (("mask_codec", "mask_codec."), ("image_codec", "conditioner.codec.")):
            if codec in start.stages:
                trained = load_tensors(path.with_name(f"{codec}.pt"))
                state = {name: value for name, value in state.items() if not name.startswith(part)}
                state |= {f"{part}{name}": value for name, value in trained.items()}
    save_tensors(state, path)
