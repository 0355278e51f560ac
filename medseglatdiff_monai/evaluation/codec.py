"""Scoring a codec's reconstruction of images or raters' masks, as a part of a network or on its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..bundle.segmenter import inference_config
from ..errors import unwrapped_errors
from ..files import file_sha256
from ..networks.codecs import CodecBase
from ..provenance import provenance
from .columns import COLUMNS
from .result import ScoredCase, summarize, write_result
from .scored import Reconstruction


def rebuild_image(codec: CodecBase, image: torch.Tensor) -> Reconstruction:
    """Images (B, C, H, W[, D]) in [0, 1] through the codec and back, clipped to [0, 1]."""
    return Reconstruction(image, codec.reconstruct(image).clamp(0.0, 1.0))


def rebuild_masks(codec: CodecBase, label: torch.Tensor) -> Reconstruction:
    """Raters' masks (B, R, H, W[, D]) through the codec and back, each by itself; decoded where the logit is > 0."""
    original = (label > 0).float()
    logits = codec.reconstruct(original.flatten(0, 1)[:, None]).squeeze(1).unflatten(0, label.shape[:2])
    return Reconstruction(original, logits.sigmoid(), logits > 0)


def codec_weights(run: str | Path, codec: str) -> Path:
    """The weights of a run's codec: those of its own stage; or of the whole network, which has the mask codec."""
    models = Path(run) / "models"
    own, whole = models / f"{codec}.pt", models / "model.pt"
    return whole if codec == "mask_codec" and whole.is_file() and not own.is_file() else own


@torch.no_grad()
def evaluate_codec(
    run: str | Path,
    codec: str,
    dataset_dir: str | Path,
    output_dir: str | Path,
    split: str = "validation",
    max_cases: int | None = None,
    seed: int = 0,
) -> None:
    """Score a codec of a run on its own; ``metrics.json`` and ``cases.csv`` are in the format of ``evaluate``.

    Images: PSNR and SSIM. Masks: mean over the raters who marked something; Dice and IoU of the decoded mask, PSNR and
    SSIM of its probability map, range 1.

    Args:
        run: the run's folder; :func:`codec_weights` says which file of its ``models/`` is scored.
        codec: ``"image_codec"`` or ``"mask_codec"``.
        dataset_dir: prepared folder.
        output_dir: receives the two files.
        split: part of the data set.
        max_cases: select this many cases by ``seed``; all if ``None``.
        seed: of that selection.

    Raises:
        InputError: no weights, or see :func:`~medseglatdiff_monai.data.datalist.load_datalist`.
    """
    weights = codec_weights(run, codec)
    chosen = {"dataset_dir": str(Path(dataset_dir).absolute()), "split": split, "max_cases": max_cases, "seed": seed}
    parser = inference_config(run, "evaluate", weights, overrides=chosen)
    own = weights.stem == codec
    if own:
        parser["network#module"] = f"$@{codec}_def.to(@device)"
    with unwrapped_errors(), torch.random.fork_rng():
        network = parser.get_parsed_content("network").eval()
        network = network if own else network.mask_codec
        device = parser.get_parsed_content("device")
        items = parser.get_parsed_content("items")
        loader = parser.get_parsed_content("dataloader")
    columns = [column for column in COLUMNS.values() if column.rebuilt is not None and column.codec is None]
    cases: list[ScoredCase] = []
    started = time.perf_counter()
    for batch in loader:
        if codec == "mask_codec":
            rebuilt = rebuild_masks(network, batch["label"].as_tensor().to(device))
        else:
            rebuilt = rebuild_image(network, batch["image"].as_tensor().to(device))
        scores = {column.name: column.rebuilt(rebuilt) for column in columns if column.rebuilt is not None}
        for i in range(len(rebuilt.original)):
            item = items[len(cases)]
            row: dict[str, Any] = {"case": item["case"], "group": item.get("group", "")}
            row.update({name: float(values[i]) for name, values in scores.items()})
            cases.append(ScoredCase(row, {}, np.empty(0)))
    means = summarize(cases)
    why = "no mask has a pixel" if codec == "mask_codec" else "images have no overlap"
    write_result(
        Path(output_dir),
        cases,
        {**means, "num_cases": len(cases), "seconds_per_case": (time.perf_counter() - started) / len(cases)},
        {name: why for name, value in means.items() if value is None},
        provenance={"weights_sha256": file_sha256(weights), **provenance(device)},
    )
