"""Stage files from the fragments in ``configs/``, and run folders that are bundles of their own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import read_json
from .config import STAGES, bundles_dir, find_bundle, load_stage_config, merge_keys
from .json_style import dump_config

__all__ = ["build_bundle", "build_stage", "write_run_folder"]


def build_stage(configs_dir: Path, bundle_name: str, stage: str) -> dict:
    """Configuration of one stage of a bundle, joined from its fragments and the bundle's own file.

    A bundle's file may hold one block a stage under ``"stages"``; of its other keys a stage takes those it knows and
    those that no stage knows, which belong to the bundle's preprocessing.
    """
    fragments = {name: read_json(configs_dir / f"{name}.json") for names in STAGES.values() for name in names}
    config: dict = {}
    for name in STAGES[stage]:
        config = merge_keys(config, fragments[name])
    elsewhere = {key for fragment in fragments.values() for key in fragment} - config.keys()
    own = read_json(configs_dir / "bundles" / f"{bundle_name}.json")
    for_stage = own.pop("stages", {}).get(stage, {})
    own = {key: value for key, value in own.items() if key.removeprefix("+").split("#")[0] not in elsewhere}
    return merge_keys(merge_keys(config, own), for_stage)


def build_bundle(bundle_name: str, configs_dir: Path | None = None, destination: Path | None = None) -> list[Path]:
    """Write a bundle's stage files and multi-GPU overlays from the fragments in ``configs/``; returns their paths."""
    source = configs_dir or bundles_dir().parent / "configs"
    target = (destination or bundles_dir() / bundle_name) / "configs"
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for name, config in {
        **{stage: build_stage(source, bundle_name, stage) for stage in STAGES},
        **{overlay.stem: read_json(overlay) for overlay in sorted(source.glob("multi_gpu_*.json"))},
    }.items():
        path = target / f"{name}.json"
        path.write_text(dump_config(config))
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
    from ..files import save_json

    root = find_bundle(bundle)
    output = Path(output_dir).absolute()
    configs = {stage: load_stage_config(root, stage, experiment, overrides) for stage in STAGES}
    target = output / "configs"
    if output != root:
        for stage, config in configs.items():
            path = target / f"{stage}.json"
            if path.is_file() and _without_budget(read_json(path)) != _without_budget(config):
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
