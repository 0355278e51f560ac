"""Write ``benchmarks/results/consensus_threshold.json``: from which confidence should a pixel belong to the consensus?

Usage: python benchmarks/consensus_threshold.py DATASET_DIR [--bundle NAME] [--split training] [--max-cases 400]

Each case's ensemble is sampled once and fused at every threshold and by every rule of
:mod:`medseglatdiff_monai.ensemble.fusion`. Dice is computed against the consensus of at least half of the raters, on
the network's grid: over the cases where that is not empty, and over all cases, where two empty masks count as 1.
For a calibrated map, the best threshold is half of the highest expected Dice, so below 0.5 (Lipton et al. 2014, arXiv
1402.1892). At 0.5 the consensus is empty where samples place a small structure at different positions.
"""

from __future__ import annotations

import json

import torch
from records import measurement_arguments, read_cases, write_record

from medseglatdiff_monai.bundle.segmenter import load_segmenter
from medseglatdiff_monai.ensemble import FUSIONS, fuse_ensemble
from medseglatdiff_monai.metrics import ConsensusDice

THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)


def score(consensus: torch.Tensor, raters: torch.Tensor) -> dict[str, float]:
    """Mean Dice of consensus masks (B, 1, H, W) with raters' masks (B, R, H, W), and the share of empty ones."""
    scores = {}
    for name, ignore_empty in (("dice", True), ("dice_all", False)):
        metric = ConsensusDice(ignore_empty=ignore_empty)
        metric(consensus, raters)
        scores[name] = round(float(metric.aggregate()), 4)
    return {**scores, "empty": round(float((~consensus.flatten(1).any(1)).float().mean()), 4)}


def main() -> None:
    """Command line."""
    parser = measurement_arguments(__doc__, seed=1, output="consensus_threshold.json")
    parser.add_argument("--max-cases", type=int, default=400, help="selected by seed")
    parser.set_defaults(split="training")
    arguments = parser.parse_args()
    segmenter = load_segmenter(arguments.bundle, num_samples=arguments.num_samples, seed=arguments.seed)
    samples, raters = [], []
    for item, image, label in read_cases(arguments, segmenter):
        samples.append(segmenter.inferer(image, segmenter.network, [item["case"]])["samples"].cpu())
        raters.append(label)
    ensembles, masks = torch.cat(samples), torch.cat(raters)
    confidence = ensembles.float().mean(1, keepdim=True)
    ways = [("mean", threshold) for threshold in THRESHOLDS] + [
        (fusion, None) for fusion in FUSIONS if fusion != "mean"
    ]
    rows = []
    for fusion, threshold in ways:
        consensus = fuse_ensemble(ensembles, confidence, threshold or 0.5, fusion)["consensus_mask"]
        named = {"fusion": fusion} if threshold is None else {"fusion": fusion, "threshold": threshold}
        rows.append({**named, **score(consensus, masks)})
    print(json.dumps(rows, indent=1))
    write_record(arguments, segmenter, {"results": rows, "num_cases": len(masks)})


if __name__ == "__main__":
    main()
