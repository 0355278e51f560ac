"""What a stage's MLflow run says from its start: environment, installed packages and data."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import torch

from ...data.datalist import load_dataset_info
from ...files import file_sha256
from ...provenance import provenance

# MLflow refuses longer digests.
MAX_DIGEST = 36


def describe_run(client: Any, run: Any, dataset_dir: str | Path, device: torch.device | str) -> None:
    """Log environment, packages, and which data the run is trained on."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, RunTag

    run_id, info = run.info.run_id, load_dataset_info(dataset_dir)
    digest = file_sha256(Path(dataset_dir) / "dataset.json")
    counts = {name: len(info.get(name, [])) for name in ("training", "validation", "test")}
    tags = {f"environment.{key}": str(value) for key, value in provenance(device).items()}
    tags |= {"data.name": str(info.get("name")), "data.sha256": digest, "data.cases": json.dumps(counts)}
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    if not run.inputs.dataset_inputs:
        source = json.dumps({"uri": str(Path(dataset_dir).absolute())})
        profile = json.dumps({"num_rows": sum(counts.values()), **counts})
        name = str(info.get("name") or Path(dataset_dir).name)
        dataset = Dataset(name, digest[:MAX_DIGEST], "local", source, profile=profile)
        client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    packages = sorted({f"{found.name}=={found.version}" for found in importlib.metadata.distributions()})
    client.log_text(run_id, "\n".join(packages) + "\n", "environment/packages.txt")
    # What prepared the data and how, but no list of cases: ids of patients stay where the data is.
    head = {key: value for key, value in info.items() if key not in counts} | {"counts": counts, "sha256": digest}
    client.log_text(run_id, json.dumps(head, indent=2) + "\n", "data/dataset.json")
