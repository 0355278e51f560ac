"""Stage files from the fragments in ``configs/``, and run folders that are bundles themselves.

``python -m medseglatdiff_monai.bundle`` (``make bundles``) rebuilds the stage files of all bundles of the source tree.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, did_you_mean
from ..files import SOURCE_TREE, read_json, save_json
from .config import STAGES, Bundle, bundles_dir, check_stage_blocks, merge_keys, without_comments
from .json_style import dump_config
from .trust import write_trusted

__all__ = ["build_all", "build_bundle", "build_stage", "build_stages", "write_run_folder"]

# A run may be continued with more time, more epochs or another use of memory and workers; everything else must stay.
FREE_KEYS = {
    "max_minutes", "deadline", "max_epochs", "num_workers", "cache_workers", "cache_rate", "tracking_uri",
    "log_interval",
}  # fmt: skip


def build_stages(configs_dir: Path, bundle_name: str) -> dict[str, dict[str, Any]]:
    """Configuration of every stage of a bundle, joined from its fragments and the bundle's own file.

    A bundle's file may hold one block per stage under ``"stages"``. A stage takes the other keys that it knows, and
    those that no stage knows: these belong to the bundle's preprocessing.

    Raises:
        InputError: the bundle's file names a stage that does not exist, or a key that no fragment has and nothing
            refers to; the message names the nearest known one.
    """
    names = dict.fromkeys(name for fragments in STAGES.values() for name in fragments)
    fragments = {name: read_json(configs_dir / f"{name}.json") for name in names}
    path = configs_dir / "bundles" / f"{bundle_name}.json"
    own = read_json(path)
    referred = set(re.findall(r"@([A-Za-z_]\w*)", json.dumps([own, fragments])))
    blocks = check_stage_blocks(own.pop("stages", {}), str(path))
    known = {key for fragment in fragments.values() for key in fragment} | referred
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
        elsewhere = {key for fragment in fragments.values() for key in fragment} - config.keys()
        taken = {key: value for key, value in own.items() if key.removeprefix("+").partition("#")[0] not in elsewhere}
        for changes in (taken, blocks.get(stage, {})):
            config = merge_keys(config, copy.deepcopy(changes))
        configs[stage] = config
    return configs


def build_stage(configs_dir: Path, bundle_name: str, stage: str) -> dict[str, Any]:
    """Configuration of one stage of a bundle, see :func:`build_stages`."""
    return build_stages(configs_dir, bundle_name)[stage]


def build_bundle(bundle_name: str, configs_dir: Path | None = None, destination: Path | None = None) -> list[Path]:
    """Write a bundle's stage files and multi-GPU overlays from the fragments in ``configs/``; returns their paths."""
    source = configs_dir or bundles_dir().parent / "configs"
    target = (destination or bundles_dir() / bundle_name) / "configs"
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for name, config in {
        **build_stages(source, bundle_name),
        **{overlay.stem: read_json(overlay) for overlay in sorted(source.glob("multi_gpu_*.json"))},
    }.items():
        path = target / f"{name}.json"
        path.write_text(dump_config(config))
        written.append(path)
    return written


def build_all() -> None:
    """Rebuild the stage files of all bundles of the source tree, and print which."""
    for path in sorted((bundles_dir().parent / "configs" / "bundles").glob("*.json")):
        build_bundle(path.stem)
        print(f"Built: {path.stem}")
    write_trusted(SOURCE_TREE)


def write_run_folder(
    bundle: str | Path | Bundle,
    output_dir: str | Path,
    experiment: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Make ``output_dir`` a bundle itself: every stage with experiment and overrides merged in, and the metadata.

    A run is thereby complete: its folder can be evaluated, used for prediction, or run again by ``monai.bundle``.

    Args:
        bundle: folder, name under ``bundles/``, or an opened bundle with its experiment.
        output_dir: the run's folder.
        experiment: overlay of a bundle that is not opened yet.
        overrides: configuration keys, see :meth:`~medseglatdiff_monai.bundle.config.Bundle.config`.

    Raises:
        InputError: the folder belongs to a run with another configuration.
    """
    source = Bundle.open(bundle, experiment)
    output = Path(output_dir).absolute()
    target = output / "configs"
    configs = {stage: source.config(stage, overrides) for stage in STAGES}
    if output == source.root:
        if source.experiment or overrides:
            raise InputError("A bundle cannot be trained into its own folder with overrides: give --output-dir.")
        return output
    for stage, config in configs.items():
        path = target / f"{stage}.json"
        if path.is_file() and _fixed_part(read_json(path)) != _fixed_part(config):
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
    return output


def _fixed_part(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in without_comments(config).items() if key not in FREE_KEYS}
