"""Metrics of an ensemble of masks against several raters, as functions of tensors and as MONAI cumulative metrics."""

from __future__ import annotations

from medseglatdiff_monai.metrics.cumulative import EnsembleMetric
from medseglatdiff_monai.metrics.distances import pairwise_iou, pairwise_iou_distance
from medseglatdiff_monai.metrics.energy import GeneralizedEnergyDistance, generalized_energy_distance
from medseglatdiff_monai.metrics.masks import fuse_masks
from medseglatdiff_monai.metrics.matching import HungarianMatchedIoU, hungarian_matched_iou
from medseglatdiff_monai.metrics.overlap import ConsensusDice, ConsensusIoU, dice_score, iou_score
from medseglatdiff_monai.metrics.reconstruction import PSNRMetric, SSIMMetric

__all__ = [
    "ConsensusDice",
    "ConsensusIoU",
    "EnsembleMetric",
    "GeneralizedEnergyDistance",
    "HungarianMatchedIoU",
    "PSNRMetric",
    "SSIMMetric",
    "dice_score",
    "fuse_masks",
    "generalized_energy_distance",
    "hungarian_matched_iou",
    "iou_score",
    "pairwise_iou",
    "pairwise_iou_distance",
]
