"""Scores that a suite needs beside those of ``evaluate``: fewer of the drawn samples, and codecs on their own.

Samples are drawn once; the noise of a sample depends on seed, case and its number alone, so the first n of N drawn
samples are the n samples that an evaluation with n would draw.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.metrics import PSNRMetric, SSIMMetric

from ..bundle.config import load_stage_config
from ..data.datalist import load_datalist
from ..ensemble.fusion import fuse_ensemble
from ..errors import InputError, unwrapped_errors
from ..metrics.energy import generalized_energy_distance
from ..metrics.masks import fuse_masks, mean_mask
from ..metrics.matching import hungarian_matched_iou
from ..metrics.overlap import dice_score, iou_score
from ..networks.weights import load_weights
from ..training.run import TRAINING_STAGES

__all__ = ["score_reconstruction", "score_subsamples", "subsample_case"]


def subsample_case(
    samples: torch.Tensor,
    raters: torch.Tensor,
    numbers: Sequence[int],
    metrics: Sequence[str],
    draws: int,
    seed: int,
    threshold: float = 0.5,
    fusion: str = "mean",
) -> list[dict[str, float]]:
    """Scores of the consensus and the set of n of the samples, for each n.

    Args:
        samples: (N, H, W) bool.
        raters: (R, H, W) bool.
        numbers: the numbers n; more than N counts as N.
        metrics: some of dice, iou, ged_v, ged_u, hm_iou. Dice and IoU are NaN where the readers' consensus is empty.
        draws: subsets that are averaged; the first is the first n samples, the others are random ones.
        seed: seed of the subsets.
        threshold: of the consensus, see :func:`~medseglatdiff_monai.ensemble.fusion.fuse_ensemble`.
        fusion: likewise.

    Returns:
        A row a number, with ``point`` and the metrics.
    """
    reference = fuse_masks(raters[None])
    defined = bool(reference.any())
    rng = np.random.default_rng(seed)

    def consensus(part: torch.Tensor) -> torch.Tensor:
        return fuse_ensemble(part, mean_mask(part).float(), threshold, fusion)["consensus_mask"]

    orders = [np.arange(len(samples)), *(rng.permutation(len(samples)) for _ in range(draws - 1))]
    rows = []
    for number in numbers:
        # All N samples, or one order: nothing to average.
        chosen = [samples[order[:number]][None] for order in (orders[:1] if number >= len(samples) else orders)]
        scores: dict[str, float] = {"point": number}
        for name in metrics:
            if name in ("dice", "iou"):
                score = dice_score if name == "dice" else iou_score
                values = [float(score(consensus(part), reference)) if defined else np.nan for part in chosen]
            elif name == "hm_iou":
                values = [float(hungarian_matched_iou(part, raters[None])) for part in chosen]
            else:
                unbiased = name == "ged_u"
                values = [
                    float(generalized_energy_distance(part, raters[None], unbiased=unbiased)) for part in chosen
                ]  # fmt: skip
            scores[name] = float(np.mean(values))
        rows.append(scores)
    return rows


def score_subsamples(
    samples_dir: Path,
    cases: pd.DataFrame,
    numbers: Sequence[int],
    metrics: Sequence[str],
    draws: int,
    settings: Mapping[str, Any],
) -> pd.DataFrame:
    """Rows (case, group, point, metrics) of the saved samples of ``cases`` (columns case and group).

    Args:
        samples_dir: the evaluation's ``samples/``.
        cases: columns case and group.
        numbers: see :func:`subsample_case`; so are ``metrics`` and ``draws``.
        metrics: see ``numbers``.
        draws: see ``numbers``.
        settings: ``settings`` of the evaluation's ``metrics.json``, by which the consensus is made.

    Raises:
        InputError: Dice or IoU where the confidence comes from probabilities, which are kept for all samples only.
    """
    if settings["confidence"] != "samples" and {"dice", "iou"} & set(metrics):
        raise InputError(
            f"subsample: Dice and IoU of fewer samples need confidence 'samples', found {settings['confidence']!r}. "
            "Leave these metrics out, or set confidence to 'samples'."
        )
    rows = []
    for case, group in zip(cases["case"], cases["group"], strict=True):
        with np.load(samples_dir / f"{case}.npz") as saved:
            samples, raters = torch.from_numpy(saved["samples"]), torch.from_numpy(saved["raters"])
        seed = zlib.crc32(str(case).encode())
        for scores in subsample_case(
            samples, raters, numbers, metrics, draws, seed, settings["threshold"], settings["fusion"]
        ):
            rows.append({"case": case, "group": group, **scores})
    return pd.DataFrame(rows)


@torch.no_grad()
def score_reconstruction(
    run: Path, stage: str, dataset_dir: str | Path, split: str, max_cases: int | None, seed: int = 0
) -> pd.DataFrame:
    """Rows (case, group, dice, iou, psnr, ssim) of what a codec makes of images or of readers' masks.

    Masks: mean over the readers who marked something; Dice and IoU of the mask at logit > 0, PSNR and SSIM of its
    probability map, range 1. Images: PSNR and SSIM, clipped to [0, 1]; Dice and IoU do not apply (NaN).

    Args:
        run: a run's folder.
        stage: ``"image_codec"`` or ``"mask_codec"``.
        dataset_dir: prepared folder.
        split: part of it.
        max_cases: draw so many cases by ``seed``.
        seed: of that draw.
    """
    parser = ConfigParser({**load_stage_config(run, "evaluate"), "bundle_root": str(run)})
    items = load_datalist(dataset_dir, split, max_cases, seed)
    with unwrapped_errors(), torch.random.fork_rng():
        device = torch.device(parser.get_parsed_content("device"))
        codec = parser.get_parsed_content(f"{stage}_def")
        codec = load_weights(codec, run / "models" / TRAINING_STAGES[stage]).to(device).eval()
        transform = parser.get_parsed_content("preprocessing")
    data = Dataset([{key: item[key] for key in ("image", "label", "case")} for item in items], transform)
    ssim, psnr = SSIMMetric(spatial_dims=2, data_range=1.0), PSNRMetric(max_val=1.0)
    rows = []
    for item, batch in zip(items, DataLoader(data, batch_size=1), strict=True):
        row = {"case": item["case"], "group": item.get("group", ""), "dice": np.nan, "iou": np.nan}
        if stage == "mask_codec":
            masks = (batch["label"].as_tensor()[0] > 0).to(device)
            truth = masks[masks.flatten(1).any(1)][:, None].float()
            logits = codec.decode(codec.encode(truth)) if len(truth) else truth
            rebuilt = logits.sigmoid()
            if len(truth):
                row["dice"] = float(dice_score(logits > 0, truth > 0).mean())
                row["iou"] = float(iou_score(logits > 0, truth > 0).mean())
        else:
            truth = batch["image"].as_tensor().to(device)
            rebuilt = codec.decode(codec.encode(truth)).clamp(0.0, 1.0)
        for name, metric in (("psnr", psnr), ("ssim", ssim)):
            value = float(torch.as_tensor(metric(rebuilt.float(), truth.float())).mean()) if len(truth) else np.nan
            # A perfect reconstruction has an infinite PSNR, which no mean survives.
            row[name] = value if np.isfinite(value) else np.nan
        rows.append(row)
    return pd.DataFrame(rows)
