"""The bundles' configuration: which stages there are, and how experiments and overrides are merged into them.

``configs/`` holds every stage once, as fragments; :mod:`~medseglatdiff_monai.bundle.build` joins them with the one
small file in which bundles differ into stage files that stand alone, since a downloaded bundle has no ``configs/``.
A key that exists nowhere is an error, which MONAI would silently accept. A key that begins with an underscore is a
comment, in fragments, bundle files, experiments and suites alike.

MONAI is imported where it is used: the import takes seconds, and a wrong name should be reported before.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import InputError, did_you_mean
from ..files import read_keys
from ..startup import heavy_imports
from .folders import configs_dir, find_bundle
from .training_record import read_record
from .trust import check_trusted

# Stage file in a bundle → the fragments of configs/ that it is built from, in this order.
STAGES: dict[str, tuple[str, ...]] = {
    "image_codec": ("base", "image_network", "training", "image_codec"),
    "mask_codec": ("base", "mask_network", "training", "mask_codec"),
    "train": ("base", "image_network", "mask_network", "network", "training", "latent_training", "diffusion"),
    "scoring": ("base", "image_network", "mask_network", "network", "training", "latent_training", "scoring"),
    "evaluate": ("base", "image_network", "mask_network", "network", "evaluate"),
    "inference": ("base", "image_network", "mask_network", "network", "inference"),
}


def merge_keys(config: dict, changes: Mapping[str, Any]) -> dict:
    """``changes`` with MONAI's keys (``a#b`` goes deep, ``+a`` extends) merged into ``config``."""
    if not changes:
        return config
    with heavy_imports():
        from monai.bundle import ConfigParser
        from monai.bundle.utils import merge_kv

    parser = ConfigParser(config)
    for key, value in changes.items():
        merge_kv(parser, key, value)
    return parser.get()


def without_comments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a configuration or overlay that do not begin with an underscore."""
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _list_keys(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in config.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            keys += _list_keys(value, f"{prefix}{key}#")
    return keys


def _check_keys(keys: Iterable[str], known: set[str]) -> None:
    """Raise the InputError of a key that exists nowhere, which MONAI would silently accept."""
    for key in keys:
        name = key.removeprefix("+")
        if name not in known:
            hint = did_you_mean(name, sorted(known), cutoff=0.4)
            raise InputError(f"Unknown configuration key {name!r}.{hint} The bundle's configs/*.json hold the keys.")


def check_stage_blocks(blocks: Any, where: str) -> dict[str, dict[str, Any]]:
    """The value of a key ``stages``, found in the file or argument ``where``: one block of keys per stage, no comments.

    Raises:
        InputError: no such blocks, or a stage that does not exist; the message names the nearest one.
    """
    if not isinstance(blocks, Mapping) or not all(isinstance(key, str) for key in blocks):
        raise InputError(
            f"{where}: stages is {blocks!r}; expected a block of keys per stage, such as {{'train': {{'draws': 2}}}}. "
            "The stages to be trained are chosen with training_stages."
        )
    blocks = without_comments(blocks)
    for stage, block in blocks.items():
        if stage not in STAGES:
            hint = did_you_mean(stage, STAGES, cutoff=0.4)
            raise InputError(f"{where}: stages names {stage!r}; expected some of {', '.join(STAGES)}.{hint}")
        if not isinstance(block, Mapping):
            raise InputError(f"{where}: the block of the stage {stage!r} is {block!r}; expected keys and their values.")
    return {stage: without_comments(block) for stage, block in blocks.items()}


class Bundle:
    """The configuration of a bundle, alone or with an experiment; each JSON file is parsed once.

    Args:
        bundle: folder or name.
        experiment: a JSON file, or a name under ``configs/experiments/``, e.g. ``"ablations/kl"``.

    Raises:
        InputError: no such bundle or experiment.
    """

    def __init__(self, bundle: str | Path, experiment: str | Path | None = None) -> None:
        self.root = find_bundle(bundle)
        self.experiment = load_experiment(experiment)
        self._where = str(experiment)

    @cached_property
    def stages(self) -> dict[str, dict[str, Any]]:
        """Configuration of each stage that the bundle has."""
        files = {stage: self.root / "configs" / f"{stage}.json" for stage in STAGES}
        return {stage: read_keys(path) for stage, path in files.items() if path.is_file()}

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """Contents of ``metadata.json``."""
        return read_keys(self.root / "configs" / "metadata.json")

    @property
    def training_command(self) -> str:
        """The command line that trains this bundle; of a run's folder the one that it was started with."""
        return (
            read_record(self.root).get("command")
            or f"medseglatdiff train {self.root.name} --dataset-dir D --output-dir RUN"
        )

    def stages_that_know(self, key: str) -> list[str]:
        """Stages in whose configuration a key (``a``, ``a#b``, ``+a``) exists."""
        name = key.removeprefix("+")
        return [stage for stage, config in self.stages.items() if name in _list_keys(config)]

    def config(self, stage: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Configuration of one stage with the experiment and the user's overrides merged in.

        Args:
            stage: a key of ``STAGES``.
            overrides: configuration keys (``key``, ``a#b``, ``+a``) and their values; under ``stages`` one block of
                them per stage. Keys that only other stages know are legal and have no effect.

        Raises:
            InputError: the bundle has no such stage; an unknown key or stage, the message names the nearest known one;
                the configuration would run code that is not trusted.
        """
        if stage not in self.stages:
            raise InputError(f"{self.root} has no configs/{stage}.json; it has {', '.join(self.stages) or 'no stage'}.")
        known = {key for config in self.stages.values() for key in _list_keys(config)}
        changes = []
        # All keys are checked before the first is merged, for which MONAI is imported.
        experiment = [(overlay, self._where) for overlay in self.experiment]
        for overlay, where in (*experiment, (overrides or {}, "The overrides")):
            own = without_comments(overlay)
            blocks = check_stage_blocks(own.pop("stages", {}), where)
            for part in (own, *(block for name, block in blocks.items() if name in self.stages)):
                _check_keys(part, known)
                known.update(_list_keys(part))
            changes.append({**own, **blocks.get(stage, {})})
        config = copy.deepcopy(self.stages[stage])
        for part in changes:
            here = set(_list_keys(config))
            own = {key: value for key, value in part.items() if key.removeprefix("+") in here}
            config = merge_keys(config, copy.deepcopy(own))
        check_trusted(config, f"{self.root}, stage {stage},")
        return config


def load_stage_config(
    bundle: str | Path, stage: str, experiment: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Configuration of one stage of a bundle, see :meth:`Bundle.config`."""
    return Bundle(bundle, experiment).config(stage, overrides)


def load_experiment(experiment: str | Path | None, laid_over: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """Overlays of an experiment given as a JSON file or as a name under ``configs/experiments/``; [] for ``None``.

    An overlay may name another one under ``based_on``: that one comes before it. ``laid_over`` holds those based on it.

    Raises:
        InputError: there is none, the message names the nearest known name; or the file holds no keys.
    """
    if experiment is None:
        return []
    folder = configs_dir() / "experiments"
    for candidate in (Path(experiment), folder / f"{experiment}.json"):
        if candidate.is_file():
            if candidate in laid_over:
                raise InputError(
                    f"{candidate} is based on itself ({' on '.join(path.name for path in (*laid_over, candidate))}); "
                    "expected another overlay, or none, under 'based_on'."
                )
            overlay = read_keys(candidate)
            return [*load_experiment(overlay.pop("based_on", None), (*laid_over, candidate)), overlay]
    known = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.json"))
    hint = did_you_mean(str(experiment), known)
    raise InputError(f"No experiment {str(experiment)!r}: expected a JSON file or one of {', '.join(known)}.{hint}")


def experiment_name(experiment: str | Path | None) -> str | None:
    """Name of an overlay in records: ``ablations/kl`` stays as it is, a JSON file goes without its folder."""
    if experiment is None:
        return None
    path = Path(experiment)
    return path.stem if path.suffix == ".json" else path.as_posix()
