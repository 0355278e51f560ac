"""The members of a suite: each system with each seed, where its run is, and how it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle.config import load_stage_config
from ..bundle.folders import find_bundle
from ..errors import InputError
from ..evaluation.codec import codec_weights
from ..evaluation.predictions import list_predictions
from ..networks.weights import stage_finished
from ..training.run import TRAINING_STAGES
from .request import Request
from .suite import System, slug


@dataclass(frozen=True)
class Member:
    """A system with one seed and the folder of its run.

    Attributes:
        system: the system.
        seed: seed of its training.
        run: folder of its run.
        given: whether the run was given by the caller, so that nothing is trained.
    """

    system: System
    seed: int
    run: Path
    given: bool

    @property
    def label(self) -> str:
        """How it is called in a message."""
        return self.system.name if self.given else f"{self.system.name}, seed {self.seed}"

    @property
    def predicted(self) -> bool:
        """Whether the run is a folder of masks that another program predicted."""
        return self.given and not (self.run / "configs").is_dir()

    @property
    def weights(self) -> Path:
        """The weights that it is scored with."""
        codec = self.system.reconstruction
        return codec_weights(self.run, codec) if codec else self.run / "models" / "model.pt"

    @property
    def scorable(self) -> bool:
        """Whether there is something to score."""
        return self.predicted or self.weights.is_file()

    @property
    def trained(self) -> bool:
        """Whether these weights are those of a finished training."""
        return stage_finished(self.weights)

    def training_overrides(self, request: Request) -> dict[str, Any]:
        """Configuration keys of its training: the system's, and over them the caller's."""
        own = merge_overrides(self.system.overrides, request.overrides)
        if self.system.reconstruction:
            own["training_stages"] = [self.system.reconstruction]
        return {**own, "seed": self.seed}

    def config(self, stage: str, request: Request) -> dict[str, Any]:
        """Configuration of one stage of its training."""
        return load_stage_config(request.bundle, stage, self.system.experiment, self.training_overrides(request))

    def stages(self, request: Request) -> list[str]:
        """The stages of its training, in order."""
        config = self.config("train", request)
        return [stage for stage in TRAINING_STAGES if stage in config.get("training_stages", TRAINING_STAGES)]


def choose_members(
    request: Request, systems: Sequence[str] | None, seeds: Sequence[int], runs: Mapping[str, str | Path]
) -> tuple[list[Member], list[str]]:
    """Members of a suite, and the names of the systems that were not asked for.

    All systems are taken if ``systems`` is ``None``. For each system that is not to be trained ``runs`` has the folder
    of a run, the name of a bundle, or a folder of another program's masks; it counts once, whatever the seeds.

    Raises:
        InputError: an unknown system; a given run without weights; see
            :func:`~medseglatdiff_monai.evaluation.predictions.find_predictions`.
    """
    known = {slug(system.name): system for system in request.suite.systems}
    for name in [*(systems or []), *runs]:
        if slug(name) not in known:
            names = ", ".join(system.name for system in known.values())
            raise InputError(f"The suite {request.suite.name} has no system {name!r}; it has {names}.")
    given = {slug(name): Path(folder) if _holds_masks(folder) else find_bundle(folder) for name, folder in runs.items()}
    for name, place in given.items():
        if not _holds_masks(place) and not any((place / "models").glob("*.pt")):
            raise InputError(f"--run {name}={place}: no weights in its models/. Train it, or give another folder.")
    wanted = known if systems is None else {slug(name) for name in systems}
    members, others = [], []
    for key, system in known.items():
        if key not in wanted:
            others.append(system.name)
            continue
        source = slug(system.shares or system.name)
        folder: Path | None = given.get(key, given.get(source))
        for seed in seeds[:1] if folder else seeds:
            run = folder or request.output / "runs" / f"{source}_seed{seed}"
            members.append(Member(system, seed, run, folder is not None))
    return members, others


def _holds_masks(folder: str | Path) -> bool:
    """Whether a folder holds masks and not a bundle."""
    place = Path(folder)
    return place.is_dir() and not (place / "configs").is_dir() and bool(list_predictions(place))


def merge_overrides(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """``second`` over ``first``; the blocks of ``stages`` are merged, not replaced."""
    merged = {**first, **second}
    if "stages" in first and "stages" in second:
        names = {**first["stages"], **second["stages"]}
        merged["stages"] = {n: {**first["stages"].get(n, {}), **second["stages"].get(n, {})} for n in names}
    return merged
