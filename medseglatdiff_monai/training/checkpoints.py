"""Weights and training states on disk: tensors only, written whole or not at all.

Weights are flat state dicts in half precision that ``torch.load(..., weights_only=True)`` reads; a training state
holds the online and averaged weights, the optimizer and the position, from which an interrupted stage resumes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from torch import nn

from ..errors import InputError
from ..networks.codecs import CodecBase
from ..networks.encoders import load_published_weights
from ..networks.weights import (
    find_fresh_parts,
    find_part,
    finish_stage,
    load_tensors,
    save_tensors,
    save_weights,
    stage_finished,
    state_path,
)
from .distributed import process_rank
from .interruption import stop_request

logger = logging.getLogger(__name__)


def start_from_weights(network: nn.Module, path: str | Path, part: str = "") -> list[str]:
    """Load the parts of ``network`` whose tensors are all in a file, in the same shapes; others start from scratch.

    Training can therefore continue from weights of a smaller network, of another denoiser, or without an image encoder.
    The log names the parts that start from scratch. A network that is a ``part`` of a segmenter, such as
    ``"mask_codec"``, also starts from the weights of the whole.

    Returns:
        The parts that start from scratch, e.g. ``["denoiser"]``.

    Raises:
        InputError: the file is missing or damaged, has another mask codec, which is not trained here, or no part fits.
    """
    state, own = load_tensors(path), network.state_dict()
    state = {name.removeprefix(f"{part}."): value for name, value in state.items()}
    fresh, taken = find_fresh_parts(own, state)
    # A codec keeps its w, which its loss has, too.
    names = [name for name in own if find_part(name) in taken and name != "positive_weight"]
    own |= {name: state[name].to(own[name].dtype) for name in names}
    if "mask_codec" in fresh or not taken:
        named = ", ".join(fresh) if any(fresh) else part or "the whole network"
        reason = "" if part else ", and the mask codec is not trained in this stage"
        raise InputError(
            f"The weights {path} do not fit the network: {named} would start from scratch{reason}. Use weights whose "
            f"{part.replace('_', ' ') or 'mask codec'} has the same sizes, or train all stages."
        )
    network.load_state_dict(own)
    if fresh:
        logger.info("%s: trained from scratch, as its sizes differ or it is absent: %s.", path, ", ".join(fresh))
    return fresh


@dataclass(eq=False)
class StageCheckpoint:
    """Handler that makes a training stage resumable and writes its weights.

    At the start it restores the state of an earlier, interrupted run. After every ``interval`` epochs, and when a time
    limit or a signal ends the run, it writes the state and the (averaged) weights. Once all epochs are done the state
    is removed: weights without a state mark a finished stage.

    Args:
        network: the module whose weights are the stage's result.
        optimizer: its optimizer.
        weights_path: where the half-precision weights go.
        averaging_decay: decay of the weight averaging per iteration; 0 keeps the online weights.
        interval: epochs between two writes.
        initial_weights: weights that a new run starts from, e.g. those that a bundle came with. Their optimizer's state
            is not part of them, so that the learning rate warms up again. See :func:`start_from_weights`.
        published_encoder: an image encoder that the initial weights do not have starts from its published ImageNet
            weights, see :func:`~medseglatdiff_monai.networks.encoders.load_published_weights`; else at random.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    weights_path: str | Path
    averaging_decay: float = 0.0
    interval: int = 1
    initial_weights: str | Path | None = None
    published_encoder: bool = True

    def __post_init__(self) -> None:
        """Copy the network for its average."""
        self.network = getattr(self.network, "module", self.network)
        self.state_path = state_path(self.weights_path)
        self.ema = EMAHandler(self.network, momentum=1.0 - self.averaging_decay) if self.averaging_decay > 0 else None

    @property
    def averaged(self) -> nn.Module:
        """Network with the averaged weights (the online network where nothing is averaged)."""
        return self.ema.ema_model if self.ema is not None else self.network

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.STARTED, self._restore)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._stop_if_asked)
        if self.ema is not None:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._set_momentum)
            self.ema.attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self._write)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _check_frozen(self) -> None:
        if not getattr(self.network, "trainable_encoder", True) and not bool(self.network.num_latent_updates):
            raise InputError(
                "trainable_mask_encoder is false, and the mask codec's encoder starts from scratch: give initial "
                "weights that have a trained one of the same sizes, or set it to true."
            )

    def _set_momentum(self, engine: Engine) -> None:
        # Early on the average follows closely, or the random start would stay in it for thousands of steps.
        state: Any = engine.state
        state.ema_momentum = max(1.0 - self.averaging_decay, 10.0 / (10.0 + state.iteration))

    def _stop_if_asked(self, engine: Engine) -> None:
        # From here on there is something to save.
        stop_request.iterating = True
        if stop_request.number is not None:
            engine.terminate()

    def _restore(self, engine: Engine) -> None:
        if stage_finished(self.weights_path):
            raise InputError(
                f"This stage is finished: {self.weights_path} is there, and training again would overwrite it. Choose "
                "another --output_dir, or move the file away to train the stage again."
            )
        if not self.state_path.is_file():
            taken: list[str] = []
            if self.initial_weights is not None:
                part = Path(self.weights_path).stem if isinstance(self.network, CodecBase) else ""
                fresh = tuple(start_from_weights(self.network, self.initial_weights, part))
                taken = [name for name in self.network.state_dict() if not name.startswith(fresh)]
            self._check_frozen()
            if self.published_encoder:
                load_published_weights(self.network, taken)
            self.averaged.load_state_dict(self.network.state_dict())
            return
        state = load_tensors(self.state_path)
        try:
            self.network.load_state_dict(state["network"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(
                f"The training state {self.state_path} does not fit this configuration ({error}). Resume with the "
                "arguments that it was started with, or choose another --output-dir."
            ) from error
        engine.state.epoch = int(state["epoch"])
        engine.state.iteration = int(state["iteration"])

    def _write(self, engine: Engine) -> None:
        if process_rank() != 0:
            return
        done: Any = engine.state
        state = {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            # A time limit may end an epoch early, or at its very last iteration: count what was done.
            "epoch": done.iteration // done.epoch_length,
            "iteration": done.iteration,
        }
        # The state first: weights alone, left by a process killed in between, would pass for a finished stage.
        save_tensors(state, self.state_path)
        save_weights(self.averaged, self.weights_path)

    def _finish(self, engine: Engine) -> None:
        self._write(engine)
        if process_rank() == 0 and not engine.should_terminate:
            finish_stage(self.weights_path)
        stop_request.iterating = False
        stop_request.raise_if_made()
