"""Stage files from the fragments in ``configs/``, and run folders that are bundles themselves.

``python -m medseglatdiff_monai.bundle`` (``make bundles``) rebuilds the stage files of all bundles of a clone.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..digest import DIGEST_KEY, forget_digest, named_digest
from ..errors import InputError, did_you_mean
from ..files import file_sha256, read_json, read_keys, save_json, save_text
from .config import STAGES, Bundle, check_stage_blocks, merge_keys, without_comments
from .folders import bundles_dir, configs_dir
from .json_style import dump_config

# A run may be continued with more time, more epochs or another use of memory and workers; everything else must stay.
FREE_KEYS = {
    "max_minutes", "deadline", "max_epochs", "num_workers", "cache_workers", "cache_rate", "tracking_uri",
    "log_interval",
}  # fmt: skip


def build_stages(bundle_name: str) -> dict[str, dict[str, Any]]:
    """Configuration of every stage of a bundle, joined from its fragments and the bundle's own file.

    A bundle's file may hold one block per stage under ``"stages"``. A stage takes the other keys that it knows, and
    those that no stage knows: these belong to the bundle's preprocessing.

    Raises:
        InputError: the bundle's file names a stage that does not exist, or a key that no fragment has and nothing
            refers to; the message names the nearest known one.
    """
    names = dict.fromkeys(name for fragments in STAGES.values() for name in fragments)
    fragments = {name: read_json(configs_dir() / f"{name}.json") for name in names}
    path = configs_dir() / "bundles" / f"{bundle_name}.json"
    own = read_own(path)
    referred = set(re.findall(r"@([A-Za-z_]\w*)", json.dumps([own, fragments])))
    blocks = check_stage_blocks(own.pop("stages", {}), str(path))
    everywhere = {key for fragment in fragments.values() for key in fragment}
    known = everywhere | referred
    for part in (own, *blocks.values()):
        for key in without_comments(part):
            name = key.removeprefix("+").partition("#")[0]
            if name not in known:
                hint = did_you_mean(name, sorted(known), cutoff=0.4)
                raise InputError(f"{path}: no fragment of configs/ has the key {name!r}, and nothing uses it.{hint}")
    configs = {}
    for stage, parts in STAGES.items():
        config: dict[str, Any] = {}
        for name in parts:
            # MONAI merges in place: without copies, one stage's keys would get into the fragments of the next.
            config = merge_keys(config, copy.deepcopy(fragments[name]))
        elsewhere = everywhere - config.keys()
        taken = {key: value for key, value in own.items() if key.removeprefix("+").partition("#")[0] not in elsewhere}
        for changes in (taken, blocks.get(stage, {})):
            config = merge_keys(config, copy.deepcopy(changes))
        configs[stage] = config
    return configs


def read_own(path: Path) -> dict[str, Any]:
    """A bundle's own file, laid over that of the bundle that it is ``based_on``, if it is."""
    own = read_json(path)
    base = own.pop("based_on", None)
    return own if base is None else {**read_own(path.with_name(f"{base}.json")), **own}


def build_bundle(bundle_name: str, destination: Path | None = None) -> list[Path]:
    """Write a bundle's stage files and multi-GPU overlays from the fragments in ``configs/``; returns their paths."""
    target = (destination or bundles_dir() / bundle_name) / "configs"
    target.mkdir(parents=True, exist_ok=True)
    overlays = {path.stem: read_json(path) for path in sorted(configs_dir().glob("multi_gpu_*.json"))}
    written = []
    for name, config in {**build_stages(bundle_name), **overlays}.items():
        written.append(target / f"{name}.json")
        save_text(dump_config(config), written[-1])
    return written


def write_run_folder(
    bundle: str | Path | Bundle,
    output_dir: str | Path,
    experiment: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Make ``output_dir`` a bundle itself: every stage with experiment and overrides merged in, and the metadata.

    A run is thereby complete: its folder can be evaluated, used for prediction, or run again by ``monai.bundle``.

    Args:
        bundle: folder, name, or an opened bundle with its experiment.
        output_dir: the run's folder.
        experiment: overlay of a bundle that is not opened yet.
        overrides: configuration keys, see :meth:`~medseglatdiff_monai.bundle.config.Bundle.config`.

    Raises:
        InputError: the folder belongs to a run with another configuration.
    """
    source = bundle if isinstance(bundle, Bundle) else Bundle(bundle, experiment)
    output = Path(output_dir).absolute()
    target = output / "configs"
    configs = {stage: source.config(stage, overrides) for stage in STAGES}
    if output == source.root:
        if source.experiment or overrides:
            raise InputError(f"{output} cannot hold its own training with other settings: give another --output-dir.")
        return output
    for stage, config in configs.items():
        path = target / f"{stage}.json"
        if path.is_file() and _fixed_part(read_keys(path)) != _fixed_part(config):
            raise InputError(
                f"{output} holds a run with another configuration ({path.name} differs). Choose another --output-dir, "
                "or repeat the arguments that the run was started with."
            )
    target.mkdir(parents=True, exist_ok=True)
    for stage, config in configs.items():
        save_json(config, target / f"{stage}.json")
    folder = source.root / "configs"
    for path in (folder / "metadata.json", folder / "logging.conf", *folder.glob("multi_gpu_*.json")):
        if path.is_file():
            shutil.copyfile(path, target / path.name)
    # The weights of the run are others than those that the bundle names.
    forget_digest(output / "models" / "model.pt")
    return output


def record_digest(root: Path) -> None:
    """Name the SHA-256 of a bundle's weights in its ``metadata.json``, if it has weights: a step of its release."""
    metadata, weights = root / "configs" / "metadata.json", root / "models" / "model.pt"
    if weights.is_file() and named_digest(weights) != (digest := file_sha256(weights)):
        save_text(dump_config({**read_json(metadata), DIGEST_KEY: digest}), metadata)


def _fixed_part(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in without_comments(config).items() if key not in FREE_KEYS}
