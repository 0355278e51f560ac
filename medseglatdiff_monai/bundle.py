"""The bundles' configuration: how stage files are built, merged with experiments and overrides, checked and run.

This is the only module that knows the JSON layout. ``configs/`` holds every stage once, as fragments; ``build_bundle``
joins them with the one small file in which bundles differ into stage files that stand alone, since a downloaded bundle
has no ``configs/`` beside it. ``run_stage`` is ``monai.bundle run`` on such a file, after the overrides were checked:
MONAI takes a misspelt key in silence.

torch and MONAI are imported where they are used: to import them takes seconds, and a wrong name is to be told before.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError, did_you_mean, unwrapped_errors

if TYPE_CHECKING:
    import torch
    from monai.bundle import ConfigParser

    from .inferer import EnsembleInferer
    from .networks import LatentDiffusionSegmenter, OneToOneSegmenter

__all__ = [
    "STAGES",
    "Segmenter",
    "apply_overrides",
    "build_bundle",
    "build_stage",
    "bundles_dir",
    "experiment_name",
    "find_bundle",
    "inference_config",
    "load_experiment",
    "load_segmenter",
    "load_stage_config",
    "stages_that_know",
    "write_run_folder",
]

# Stage file in a bundle → the fragments of configs/ that it is built from, in this order.
STAGES: dict[str, tuple[str, ...]] = {
    "image_codec": ("network", "data", "training", "image_codec"),
    "mask_codec": ("network", "data", "training", "mask_codec"),
    "train": ("network", "data", "training", "diffusion"),
    "scoring": ("network", "data", "training", "diffusion", "scoring"),
    "evaluate": ("network", "data", "evaluate"),
    "inference": ("network", "data", "inference"),
}


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON: {error}.") from error


def _merge(config: dict, changes: Mapping[str, Any]) -> dict:
    """``changes`` with MONAI's keys (``a#b`` goes deep, ``+a`` extends) merged into ``config``."""
    if not changes:
        return config
    from monai.bundle import ConfigParser
    from monai.bundle.utils import merge_kv

    parser = ConfigParser(config)
    for key, value in changes.items():
        merge_kv(parser, key, value)
    return parser.get()


def build_stage(configs_dir: Path, bundle_name: str, stage: str) -> dict:
    """Configuration of one stage of a bundle, joined from its fragments and the bundle's own file.

    A bundle's file may hold one block a stage under ``"stages"``; of its other keys a stage takes those it knows and,
    so that preprocessing may have its own, all of a stage that reads images.
    """
    config: dict = {}
    for fragment in STAGES[stage]:
        config = _merge(config, _read_json(configs_dir / f"{fragment}.json"))
    own = _read_json(configs_dir / "bundles" / f"{bundle_name}.json")
    for_stage = own.pop("stages", {}).get(stage, {})
    return _merge(_merge(config, own), for_stage)


def bundles_dir() -> Path:
    """Folder of the bundles that come with the source tree."""
    return Path(__file__).resolve().parent.parent / "bundles"


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
    return _merge(config, own)


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
    config = _read_json(root / "configs" / f"{stage}.json")
    stages = [_read_json(path) for name in STAGES if (path := root / "configs" / f"{name}.json").is_file()]
    also_known = sorted({key for other in stages for key in _known_keys(other)})
    for changes in (load_experiment(experiment), overrides or {}):
        own = {key: value for key, value in changes.items() if key != "stages"}
        config = apply_overrides(config, {**own, **changes.get("stages", {}).get(stage, {})}, also_known)
    return config


def stages_that_know(bundle: str | Path, key: str) -> list[str]:
    """Stages of a bundle in whose configuration a key (``a``, ``a#b``, ``+a``) exists."""
    root = find_bundle(bundle)
    configs = {stage: _read_json(root / "configs" / f"{stage}.json") for stage in STAGES}
    return [stage for stage, config in configs.items() if key.removeprefix("+") in _known_keys(config)]


def load_experiment(experiment: str | Path | None) -> dict:
    """Overlay of an experiment given as a JSON file or as a name under ``configs/experiments/``; {} for ``None``."""
    if experiment is None:
        return {}
    folder = Path(__file__).resolve().parent.parent / "configs" / "experiments"
    for candidate in (Path(experiment), folder / f"{experiment}.json"):
        if candidate.is_file():
            return _read_json(candidate)
    known = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.json"))
    hint = did_you_mean(str(experiment), known)
    raise InputError(f"No experiment {str(experiment)!r}: expected a JSON file or one of {', '.join(known)}.{hint}")


def experiment_name(experiment: str | Path | None) -> str | None:
    """Name of an overlay in records: ``ablations/kl`` stays as it is, a JSON file goes without its folder."""
    if experiment is None:
        return None
    path = Path(experiment)
    return path.stem if path.suffix == ".json" else path.as_posix()


@dataclass
class Segmenter:
    """A bundle made ready to draw masks: everything that the inference configuration describes, instantiated.

    Attributes:
        network: composite network with its weights, in eval mode on ``device``.
        inferer: ensemble inferer.
        preprocessing: MONAI transforms from ``{"image": path or array[, "label": ...]}`` to the network's input.
        config: the merged configuration.
        metadata: the bundle's ``metadata.json``.
        bundle_dir: folder of the bundle.
        weights_path: file that the weights came from.
        device: where the network is.
    """

    network: LatentDiffusionSegmenter | OneToOneSegmenter
    inferer: EnsembleInferer
    preprocessing: Callable[[dict], dict]
    config: ConfigParser
    metadata: dict
    bundle_dir: Path
    weights_path: Path
    device: torch.device

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights file."""
        from .checkpoints import weights_sha256

        return weights_sha256(self.weights_path)

    @property
    def image_size(self) -> tuple[int, ...]:
        """(height, width[, depth]) of the network's input."""
        # Runs that were made before volumes have no spatial_dims.
        dims = self.config.get_parsed_content("spatial_dims") if "spatial_dims" in self.config else 2
        return (self.config.get_parsed_content("image_size"),) * dims

    @property
    def crop_size(self) -> int | None:
        """Side in pixels of the native crop that preprocessing starts from, for bundles that need a crop."""
        return self.config.get_parsed_content("crop_size") if "crop_size" in self.config else None

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        return self.config.get_parsed_content("image_channels")


def inference_config(
    bundle: str | Path,
    stage: str = "inference",
    weights: str | Path | None = None,
    experiment: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> ConfigParser:
    """Parser of the ``inference`` or ``evaluate`` stage; overrides whose value is ``None`` are left out.

    Raises:
        InputError: no such bundle, experiment or key, or no weights.
    """
    root = find_bundle(bundle)
    own = {key: value for key, value in (overrides or {}).items() if value is not None}
    config = load_stage_config(root, stage, experiment, own)
    config["bundle_root"] = str(root)
    if weights is not None:
        config["weights"] = str(weights)
    from monai.bundle import ConfigParser

    parser = ConfigParser(config)
    if not Path(parser.get_parsed_content("weights")).is_file():
        raise InputError(
            f"No weights at {parser.get_parsed_content('weights')}. Train them with 'medseglatdiff train {root.name} "
            "--dataset-dir D --output-dir O' and give --weights O/models/model.pt."
        )
    return parser


def load_segmenter(
    bundle: str | Path,
    weights: str | Path | None = None,
    experiment: str | Path | None = None,
    device: str | torch.device | None = None,
    **overrides: Any,
) -> Segmenter:
    """Load a bundle for use from Python.

    Args:
        bundle: folder, or name under ``bundles/``.
        weights: other weights than the bundle's own.
        experiment: overlay that the weights were trained with.
        device: e.g. ``"cuda:1"``; by default CUDA if there is one.
        overrides: configuration keys, e.g. ``num_samples=16``, ``num_inference_steps=5``, ``seed=1``.

    Raises:
        InputError: no such bundle, experiment or key; weights that are missing or do not fit.
    """
    parser = inference_config(bundle, "inference", weights, experiment, overrides)
    import torch

    if device is not None:
        parser["device"] = str(device)
    target = torch.device(parser.get_parsed_content("device"))
    with unwrapped_errors():
        network = parser.get_parsed_content("network").to(target).eval()
    root = Path(parser["bundle_root"])
    return Segmenter(
        network=network,
        inferer=parser.get_parsed_content("inferer"),
        preprocessing=parser.get_parsed_content("preprocessing"),
        config=parser,
        metadata=_read_json(root / "configs" / "metadata.json"),
        bundle_dir=root,
        weights_path=Path(parser.get_parsed_content("weights")),
        device=target,
    )


def build_bundle(bundle_name: str, configs_dir: Path | None = None, destination: Path | None = None) -> list[Path]:
    """Write a bundle's stage files and multi-GPU overlays from the fragments in ``configs/``; returns their paths."""
    source = configs_dir or bundles_dir().parent / "configs"
    target = (destination or bundles_dir() / bundle_name) / "configs"
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for name, config in {
        **{stage: build_stage(source, bundle_name, stage) for stage in STAGES},
        **{overlay.stem: _read_json(overlay) for overlay in sorted(source.glob("multi_gpu_*.json"))},
    }.items():
        path = target / f"{name}.json"
        path.write_text(json.dumps(config, indent=2) + "\n")
        written.append(path)
    return written


def write_run_folder(
    bundle: str | Path, output_dir: str | Path, experiment: str | Path | None, overrides: Mapping[str, Any]
) -> Path:
    """Make ``output_dir`` a bundle of its own: every stage with experiment and overrides merged in, and the metadata.

    A run is thereby complete: its folder can be evaluated, used for prediction, or run again by ``monai.bundle``.

    Raises:
        InputError: the folder belongs to a run with another configuration.
    """
    from .checkpoints import save_json

    root = find_bundle(bundle)
    output = Path(output_dir).absolute()
    configs = {stage: load_stage_config(root, stage, experiment, overrides) for stage in STAGES}
    target = output / "configs"
    if output != root:
        for stage, config in configs.items():
            path = target / f"{stage}.json"
            if path.is_file() and _without_budget(_read_json(path)) != _without_budget(config):
                raise InputError(
                    f"{output} holds a run with another configuration ({path.name} differs). Choose another "
                    "--output-dir, or repeat the arguments that the run was started with."
                )
    elif experiment is not None or overrides:
        raise InputError("A bundle cannot be trained into its own folder with overrides: give --output-dir.")
    target.mkdir(parents=True, exist_ok=True)
    for stage, config in configs.items():
        if output != root:
            save_json(config, target / f"{stage}.json")
    for name in ("metadata.json", "logging.conf", *(path.name for path in (root / "configs").glob("multi_gpu_*.json"))):
        source = root / "configs" / name
        if source.is_file() and output != root:
            shutil.copyfile(source, target / name)
    return output


def _without_budget(config: dict) -> dict:
    """A run may go on with more time, more epochs or another use of memory and workers; everything else must stay."""
    free = {"max_minutes", "deadline", "max_epochs", "num_workers", "cache_workers", "cache_rate", "tracking_uri"}
    return {key: value for key, value in config.items() if key not in free}
