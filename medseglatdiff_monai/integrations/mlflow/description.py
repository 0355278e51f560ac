"""What MLflow runs say from their start: who started them, environment, installed packages, bundle and data."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import torch

from ...data.datalist import load_dataset_info
from ...data.splits import SPLITS
from ...files import file_sha256, read_json
from ...provenance import provenance

# MLflow refuses longer digests.
MAX_DIGEST = 36


def origin_tags(command: str = "train") -> dict[str, str]:
    """User, source (the command) and git commit under the names that MLflow's pages show; unknown ones are left out."""
    from mlflow.tracking.context.registry import resolve_tags

    commit = provenance("cpu")["git_commit"]
    own = {"mlflow.source.name": f"medseglatdiff {command}", **({"mlflow.source.git.commit": commit} if commit else {})}
    return {**resolve_tags(), **own}


def describe_parent(output_dir: Path, dataset_dir: str | Path) -> dict[str, str]:
    """Tags of the run that holds the stages': which bundle is trained, and on what."""
    path = output_dir / "configs" / "metadata.json"
    metadata = read_json(path) if path.is_file() else {}
    tags = {
        "bundle": metadata.get("name"),
        "bundle_version": metadata.get("version"),
        "data.name": load_dataset_info(dataset_dir).get("name"),
    }
    return {**origin_tags(), **{key: str(value) for key, value in tags.items() if value is not None}}


def describe_data(client: Any, run: Any, dataset_dir: str | Path) -> None:
    """Log which data a run is trained on, where it is not said yet: name, digest, place and numbers of cases."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if run.inputs.dataset_inputs:
        return
    info, digest, counts = _read_data(dataset_dir)
    source = json.dumps({"uri": str(Path(dataset_dir).absolute())})
    profile = json.dumps({"num_rows": sum(counts.values()), **counts})
    name = str(info.get("name") or Path(dataset_dir).name)
    dataset = Dataset(name, digest[:MAX_DIGEST], "local", source, profile=profile)
    client.log_inputs(run.info.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def describe_run(client: Any, run: Any, dataset_dir: str | Path, device: torch.device | str) -> None:
    """Log environment, packages, and what prepared the data."""
    from mlflow.entities import RunTag

    run_id, (info, digest, counts) = run.info.run_id, _read_data(dataset_dir)
    tags = {f"environment.{key}": str(value) for key, value in provenance(device).items() if value is not None}
    tags |= {"data.name": str(info.get("name")), "data.sha256": digest, "data.cases": json.dumps(counts)}
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    packages = sorted({f"{found.name}=={found.version}" for found in importlib.metadata.distributions()})
    client.log_text(run_id, "\n".join(packages) + "\n", "environment/packages.txt")
    # What prepared the data and how, but no list of cases: ids of patients stay where the data is.
    head = {key: value for key, value in info.items() if key not in counts} | {"counts": counts, "sha256": digest}
    client.log_text(run_id, json.dumps(head, indent=2) + "\n", "data/dataset.json")


def _read_data(dataset_dir: str | Path) -> tuple[dict[str, Any], str, dict[str, int]]:
    """What ``dataset.json`` holds, its SHA-256, and the number of cases in each part."""
    info = load_dataset_info(dataset_dir)
    counts = {part: len(info.get(part, [])) for part in SPLITS}
    return info, file_sha256(Path(dataset_dir) / "dataset.json"), counts
