"""The bundles' configuration: how stage files are built, merged with experiments and overrides, checked and run.

This is the only module that knows the JSON layout. ``configs/`` holds every stage once, as fragments; ``build_bundle``
joins them with the one small file in which bundles differ into stage files that stand alone, since a downloaded bundle
has no ``configs/`` beside it. ``run_stage`` is ``monai.bundle run`` on such a file, after the overrides were checked:
MONAI takes a misspelt key in silence.

torch and MONAI are imported where they are used: to import them takes seconds, and a wrong name is to be told before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, did_you_mean
from ..files import SOURCE_TREE, read_json

if TYPE_CHECKING:
    pass

__all__ = [
    "STAGES",
    "apply_overrides",
    "bundles_dir",
    "experiment_name",
    "find_bundle",
    "load_experiment",
    "load_stage_config",
    "merge_keys",
    "stages_that_know",
]

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
    from monai.bundle import ConfigParser
    from monai.bundle.utils import merge_kv

    parser = ConfigParser(config)
    for key, value in changes.items():
        merge_kv(parser, key, value)
    return parser.get()


def bundles_dir() -> Path:
    """Folder of the bundles that come with the source tree."""
    return SOURCE_TREE / "bundles"


def find_bundle(bundle: str | Path) -> Path:
    """Folder of a bundle given as a folder or as a name under ``bundles/``.

    Raises:
        InputError: there is none; the message names the nearest known name.
    """
    for candidate in (Path(bundle), bundles_dir() / str(bundle)):
        if (candidate / "configs" / "metadata.json").is_file():
            return candidate.resolve()
    known = sorted(path.parent.parent.name for path in bundles_dir().glob("*/configs/metadata.json"))
    hint = did_you_mean(str(bundle), known)
    raise InputError(
        f"No bundle {str(bundle)!r}: expected a folder with configs/metadata.json, or one of {', '.join(known)}.{hint}"
    )


def _known_keys(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in config.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            keys += _known_keys(value, f"{prefix}{key}#")
    return keys


def apply_overrides(config: dict, overrides: Mapping[str, Any], also_known: Sequence[str] = ()) -> dict:
    """Merge overrides into a stage's configuration; a key that exists nowhere is an error.

    Args:
        config: the stage.
        overrides: MONAI's keys: ``key``, ``a#b``, ``+a``.
        also_known: top-level keys of the bundle's other stages: legal, and without effect here.

    Raises:
        InputError: an unknown key; the message names the nearest known one.
    """
    known = set(_known_keys(config))
    own: dict[str, Any] = {}
    for key, value in overrides.items():
        name = key.removeprefix("+")
        if name in known:
            own[key] = value
        elif name not in also_known:
            hint = did_you_mean(name, sorted(known | set(also_known)), cutoff=0.4)
            raise InputError(f"Unknown configuration key {name!r}.{hint} The bundle's configs/*.json hold the keys.")
    return merge_keys(config, own)


def load_stage_config(
    bundle: str | Path, stage: str, experiment: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> dict:
    """Configuration of one stage with an experiment's overlay and the user's overrides merged in.

    Args:
        bundle: folder or name.
        stage: a key of ``STAGES``.
        experiment: a JSON file, or a name under ``configs/experiments/``, e.g. ``"ablations/kl"``.
        overrides: keys and values, see :func:`apply_overrides`.

    Raises:
        InputError: no such bundle, experiment or key.
    """
    root = find_bundle(bundle)
    config = read_json(root / "configs" / f"{stage}.json")
    stages = [read_json(path) for name in STAGES if (path := root / "configs" / f"{name}.json").is_file()]
    also_known = sorted({key for other in stages for key in _known_keys(other)})
    for changes in (load_experiment(experiment), overrides or {}):
        own = {key: value for key, value in changes.items() if key != "stages"}
        config = apply_overrides(config, {**own, **changes.get("stages", {}).get(stage, {})}, also_known)
    return config


def stages_that_know(bundle: str | Path, key: str) -> list[str]:
    """Stages of a bundle in whose configuration a key (``a``, ``a#b``, ``+a``) exists."""
    root = find_bundle(bundle)
    configs = {stage: read_json(root / "configs" / f"{stage}.json") for stage in STAGES}
    return [stage for stage, config in configs.items() if key.removeprefix("+") in _known_keys(config)]


def load_experiment(experiment: str | Path | None) -> dict:
    """Overlay of an experiment given as a JSON file or as a name under ``configs/experiments/``; {} for ``None``."""
    if experiment is None:
        return {}
    folder = SOURCE_TREE / "configs" / "experiments"
    for candidate in (Path(experiment), folder / f"{experiment}.json"):
        if candidate.is_file():
            return read_json(candidate)
    known = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.json"))
    hint = did_you_mean(str(experiment), known)
    raise InputError(f"No experiment {str(experiment)!r}: expected a JSON file or one of {', '.join(known)}.{hint}")


def experiment_name(experiment: str | Path | None) -> str | None:
    """Name of an overlay in records: ``ablations/kl`` stays as it is, a JSON file goes without its folder."""
    if experiment is None:
        return None
    path = Path(experiment)
    return path.stem if path.suffix == ".json" else path.as_posix()
