"""The SHA-256 of a bundle's own weights, which its ``metadata.json`` names under ``weights_sha256``.

A release names it, and whoever loads the weights compares: bytes that flipped on the way, or weights of another
release, would give masks all the same. :func:`~medseglatdiff_monai.networks.weights.load_tensors` compares it, since
MONAI's own commands, and a training that starts from a bundle's weights, read them without
:mod:`~medseglatdiff_monai.bundle`.
"""

from __future__ import annotations

import json
from pathlib import Path

from .errors import InputError
from .files import file_sha256, read_json, save_text

DIGEST_KEY = "weights_sha256"
# What metadata.json says of the weights that it came with.
OF_THE_WEIGHTS = (DIGEST_KEY, "eval_metrics")


def named_digest(weights: str | Path) -> str | None:
    """The SHA-256 that a bundle names for its weights; ``None`` if it names none, or the file is no bundle's own."""
    path = _metadata_of(Path(weights))
    if path is None:
        return None
    metadata = read_json(path)
    return metadata.get(DIGEST_KEY) if isinstance(metadata, dict) else None


def check_digest(weights: str | Path) -> None:
    """Compare a bundle's own weights with the SHA-256 that it names; other weights pass.

    Raises:
        InputError: they differ.
    """
    expected = named_digest(weights)
    if expected is not None and (found := file_sha256(weights)) != expected:
        raise InputError(
            f"{weights} has the SHA-256 {found}; expected {expected}, which {_metadata_of(Path(weights))} names: the "
            "file is damaged, or belongs to another release. Download the bundle again. If the weights are your own, "
            f"keep them elsewhere and give --weights, or take {DIGEST_KEY!r} out of metadata.json."
        )


def forget_digest(weights: str | Path) -> None:
    """Before other weights are put in the place of a bundle's own: digest and scores are true no longer."""
    path = _metadata_of(Path(weights))
    if path is None:
        return
    metadata = read_json(path)
    if isinstance(metadata, dict) and metadata.keys() & set(OF_THE_WEIGHTS):
        kept = {key: value for key, value in metadata.items() if key not in OF_THE_WEIGHTS}
        save_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", path)


def _metadata_of(weights: Path) -> Path | None:
    """``metadata.json`` of the bundle whose ``models/model.pt`` this is."""
    weights = weights.absolute()
    path = weights.parent.parent / "configs" / "metadata.json"
    return path if weights.parts[-2:] == ("models", "model.pt") and path.is_file() else None
