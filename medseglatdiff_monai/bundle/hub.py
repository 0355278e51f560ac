"""A bundle in the layout of a model repository on the Hugging Face hub: its files, a card, the weights as safetensors.

``monai.bundle.download(source="huggingface_hub")`` takes such a repository's files as they are, hence the bundle's own
stand at its top.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ..extras import require
from ..startup import heavy_imports
from .config import Bundle

TAGS = ["medical", "monai", "segmentation", "latent-diffusion", "uncertainty"]


def hub_files(bundle: Bundle, files: Mapping[Path, bytes]) -> dict[Path, bytes]:
    """Contents of a folder that can be uploaded as it is, from those of the bundle's own ``files`` by their paths.

    Raises:
        InputError: the extra ``hub`` is not installed.
    """
    require("hub", "--format huggingface")
    with heavy_imports():
        from safetensors.torch import save

        from ..networks.weights import load_tensors

    tensors = load_tensors(bundle.root / "models" / "model.pt")
    weights = save({name: value.contiguous() for name, value in tensors.items()}, metadata={"format": "pt"})
    return {**files, Path("models/model.safetensors"): weights, Path("README.md"): model_card(bundle).encode()}


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
