"""Metrics of an ensemble of masks against several raters, as functions of tensors and as MONAI cumulative metrics."""

from .calibration import (
    BrierScore,
    ExpectedCalibrationError,
    SoftDice,
    brier_score,
    calibration_bins,
    calibration_error,
    soft_dice,
)
from .cumulative import EnsembleMetric
from .distances import pairwise_iou, pairwise_iou_distance
from .energy import (
    GeneralizedEnergyDistance,
    SampleDiversity,
    energy_distance_floor,
    generalized_energy_distance,
    sample_diversity,
)
from .insight import CollectiveInsight, MaximumDice, collective_insight, maximum_dice
from .masks import fuse_masks, mean_mask
from .matching import HungarianMatchedIoU, hungarian_matched_iou
from .overlap import ConsensusDice, ConsensusIoU, dice_score, iou_score
from .surface import ConsensusHausdorff95, ConsensusSurfaceDice, hausdorff_95, surface_dice
from .variance import VarianceCorrelation, variance_correlation

__all__ = [
    "BrierScore",
    "CollectiveInsight",
    "ConsensusDice",
    "ConsensusHausdorff95",
    "ConsensusIoU",
    "ConsensusSurfaceDice",
    "EnsembleMetric",
    "ExpectedCalibrationError",
    "GeneralizedEnergyDistance",
    "HungarianMatchedIoU",
    "MaximumDice",
    "SampleDiversity",
    "SoftDice",
    "VarianceCorrelation",
    "brier_score",
    "calibration_bins",
    "calibration_error",
    "collective_insight",
    "dice_score",
    "energy_distance_floor",
    "fuse_masks",
    "generalized_energy_distance",
    "hausdorff_95",
    "hungarian_matched_iou",
    "iou_score",
    "maximum_dice",
    "mean_mask",
    "pairwise_iou",
    "pairwise_iou_distance",
    "sample_diversity",
    "soft_dice",
    "surface_dice",
    "variance_correlation",
]
