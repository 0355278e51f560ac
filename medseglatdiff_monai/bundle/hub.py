"""A bundle in the layout of a model repository on the Hugging Face hub: its files, a card, the weights as safetensors.

``monai.bundle.download(source="huggingface_hub")`` takes such a repository's files as they are, hence the bundle's own
stand at its top.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError
from ..extras import require
from ..startup import heavy_imports
from .config import Bundle

TAGS = ["medical", "monai", "segmentation", "latent-diffusion", "uncertainty"]


def write_hub_folder(bundle: Bundle, files: Mapping[Path, bytes], folder: Path) -> Path:
    """Write a new folder that can be uploaded as it is.

    Args:
        bundle: the bundle.
        files: contents of those that make it, by their paths in the bundle.
        folder: is made.

    Raises:
        InputError: the folder is there already and not empty, or the extra ``hub`` is not installed.
    """
    require("hub", "--format huggingface")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already; expected a new or an empty folder. Give another --output-file.")
    with heavy_imports():
        from safetensors.torch import save_file

        from ..networks.weights import load_tensors

    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, so that it appears whole.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tmp-") as staging:
        whole = Path(staging) / "whole"
        for file, content in files.items():
            target = whole / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        tensors = load_tensors(bundle.root / "models" / "model.pt")
        save_file(
            {name: value.contiguous() for name, value in tensors.items()},
            whole / "models" / "model.safetensors",
            metadata={"format": "pt"},
        )
        (whole / "README.md").write_text(model_card(bundle), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        whole.replace(folder)
    return folder


def model_card(bundle: Bundle) -> str:
    """The bundle's card with the header that the hub reads: licence of the data, tags, scores."""
    from huggingface_hub import EvalResult, ModelCardData

    metadata = bundle.metadata
    name = metadata.get("name") or bundle.root.name
    source = str(metadata.get("data_source") or "unknown")
    licence = licence_id(source)
    # "CHASE_DB1 (CC BY 4.0), Kingston University, …": the name comes first.
    data_set = re.split(r" \(|,", source)[0]
    results = [
        EvalResult(
            task_type="image-segmentation", dataset_type=re.sub(r"[^a-z0-9]+", "-", data_set.lower()).strip("-"),
            dataset_name=data_set,
            metric_type=metric, metric_value=value,
        )
        for metric, value in metadata.get("eval_metrics", {}).items()
    ]  # fmt: skip
    data = ModelCardData(
        # Weights derive from the data; code and configurations are under the Apache License 2.0.
        license=licence or "other",
        license_name=None if licence else "data-licence",
        license_link=None if licence else "docs/data_license.txt",
        library_name="monai",
        pipeline_tag="image-segmentation",
        tags=TAGS,
        model_name=name if results else None,
        eval_results=results or None,
    )
    card = bundle.root / "docs" / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {name}\n\n{metadata.get('description', '')}\n"
    return f"---\n{data.to_yaml()}\n---\n{text}"


def licence_id(source: str) -> str | None:
    """The hub's name of a Creative Commons licence in a text such as ``"… (CC BY-NC 4.0) …"``; ``None`` without one."""
    found = re.search(r"\bCC (BY(?:-[A-Z]{2})*) (\d\.\d)\b", source)
    return None if found is None else f"cc-{found[1].lower()}-{found[2]}"
