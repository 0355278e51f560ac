"""The table of metrics: one row for each column of ``cases.csv``, with everything that the program knows about it.

Evaluation, the suites' tables and comparisons, the model cards and the table in the documentation read these rows. A
new metric is a function in :mod:`medseglatdiff_monai.metrics` and a row here; nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from monai.metrics import PSNRMetric, SSIMMetric

from ..metrics.calibration import brier_score, calibration_error, soft_dice
from ..metrics.energy import energy_distance_floor, generalized_energy_distance, sample_diversity
from ..metrics.matching import hungarian_matched_iou
from ..metrics.overlap import dice_score, iou_score
from ..metrics.surface import hausdorff_95, surface_dice
from ..metrics.variance import variance_correlation
from .scored import NUM_BINS, Reconstruction, ScoredMasks


@dataclass(frozen=True)
class Column:
    """One figure of a case, and how it is written and explained.

    Attributes:
        name: in ``cases.csv``, ``metrics.json`` and the suites.
        label: short heading in a table or a plot.
        title: what it is, for the documentation.
        note: what else should be known, for the documentation.
        score: (B,) values of an ensemble against its raters; ``None`` if the column is no metric of an ensemble.
        rebuilt: (B,) values of a codec's reconstruction; ``None`` if the column is no metric of a codec.
        codec: ``"mask_codec"`` or ``"image_codec"``: ``evaluate`` scores this part of the network with ``rebuilt``.
            Columns that have ``rebuilt`` but no ``codec`` are those of a codec that is scored on its own.
        grid: ``"native"`` or ``"network"``: scored on this grid, and only if all other columns are scored on the other.
        pooled: region of :func:`~medseglatdiff_monai.metrics.calibration_bins` whose pixels the summary pools over the
            cases instead of taking the mean of the column.
        direction: 1 where higher is better, -1 where lower is, 0 where neither.
        digits: decimals.
        min_raters: with fewer raters it is undefined.
        min_samples: with fewer samples it is undefined.
        undefined: why it may be undefined in every case, although there are enough raters and samples.
    """

    name: str
    label: str
    title: str
    note: str = ""
    score: Callable[[ScoredMasks], torch.Tensor] | None = None
    rebuilt: Callable[[Reconstruction], torch.Tensor] | None = None
    codec: str | None = None
    grid: str | None = None
    pooled: str | None = None
    direction: int = 0
    digits: int = 3
    min_raters: int = 1
    min_samples: int = 1
    undefined: str = "undefined in every case"

    @property
    def of_any_samples(self) -> bool:
        """Whether it can be computed from any subset of the samples alone."""
        return self.score is not None and self.grid is None and self.pooled is None


def _dice_all(masks: ScoredMasks) -> torch.Tensor:
    return dice_score(masks.consensus, masks.reference)[:, 0]


def _iou_all(masks: ScoredMasks) -> torch.Tensor:
    return iou_score(masks.consensus, masks.reference)[:, 0]


def _rebuilt_dice(codec: Reconstruction) -> torch.Tensor:
    return codec.mean_over_marked(lambda masks, raters: dice_score(masks, raters, ignore_empty=True))


def _rebuilt_iou(codec: Reconstruction) -> torch.Tensor:
    return codec.mean_over_marked(lambda masks, raters: iou_score(masks, raters, ignore_empty=True))


def _rebuilt_ged(codec: Reconstruction) -> torch.Tensor:
    assert codec.masks is not None, "a mask codec's column"
    return generalized_energy_distance(codec.masks, codec.original > 0)


def _psnr(codec: Reconstruction) -> torch.Tensor:
    return codec.similarity(PSNRMetric(max_val=1.0))


def _ssim(codec: Reconstruction) -> torch.Tensor:
    return codec.similarity(SSIMMetric(codec.original.ndim - 2, data_range=1.0))


def _share_nonempty(masks: torch.Tensor) -> torch.Tensor:
    return masks.flatten(2).any(2).float().mean(1)


NO_REFERENCE = "the raters' consensus is empty in every case"
NO_BAND = "raters and samples agree in every pixel of every case"

# In the order of cases.csv.
_ROWS = (
    Column(
        "ged_v", "GED", "GED (V-statistic)", "generalized energy distance of samples and raters, self-pairs included",
        lambda m: generalized_energy_distance(m.samples, m.raters), direction=-1,
    ),
    Column(
        "ged_u", "GED, unbiased", "GED (U-statistic)",
        "without self-pairs; samples spread evenly lower it, most for few samples",
        lambda m: generalized_energy_distance(m.samples, m.raters, unbiased=True),
        direction=-1, min_raters=2, min_samples=2,
    ),
    Column(
        "hm_iou", "HM-IoU", "HM-IoU", "Hungarian-matched IoU of samples and raters",
        lambda m: hungarian_matched_iou(m.samples, m.raters), direction=1,
    ),
    Column(
        "dice", "Dice", "Dice of the consensus", "against the pixels that at least half of the raters marked, in cases "
        "with such pixels; for a codec: of the decoded masks against the masks that are not empty",
        lambda m: dice_score(m.consensus, m.reference, ignore_empty=True)[:, 0], _rebuilt_dice,
        direction=1, undefined=NO_REFERENCE,
    ),
    Column(
        "iou", "IoU", "IoU of the consensus", "likewise",
        lambda m: iou_score(m.consensus, m.reference, ignore_empty=True)[:, 0], _rebuilt_iou,
        direction=1, undefined=NO_REFERENCE,
    ),
    Column(
        "dice_all", "Dice, empty cases too", "Dice of the consensus in all cases", "two empty masks count as 1",
        _dice_all, direction=1,
    ),
    Column(
        "iou_all", "IoU, empty cases too", "IoU of the consensus in all cases", "two empty masks count as 1",
        _iou_all, direction=1,
    ),
    Column(
        "samples_nonempty", "Samples not empty", "share of samples that are not empty",
        score=lambda m: _share_nonempty(m.samples),
    ),
    Column(
        "raters_nonempty", "Raters not empty", "share of raters' masks that are not empty",
        score=lambda m: _share_nonempty(m.raters),
    ),
    Column(
        "ged_floor", "GED, floor", "GED (V-statistic) of samples from the raters",
        "expected from this many random picks among the raters' own masks",
        lambda m: energy_distance_floor(m.raters, m.samples.shape[1]),
    ),
    Column(
        "d_max", "D_max", "maximum Dice matching", "Dice of each rater with the nearest sample",
        lambda m: m.insight["maximum_dice"], direction=1,
    ),
    Column(
        "diversity", "Diversity", "mean distance of two samples", "",
        lambda m: sample_diversity(m.samples), min_samples=2,
    ),
    Column(
        "raters_diversity", "Raters' diversity", "mean distance of two raters", "",
        lambda m: sample_diversity(m.raters), min_raters=2,
    ),
    Column(
        "ncc", "NCC", "correlation of the samples' variance map with the raters'", "",
        lambda m: variance_correlation(m.samples, m.raters), direction=1, min_raters=2, min_samples=2,
        undefined="the raters agree in every pixel of every case",
    ),
    Column(
        "ci_score", "CI score", "collective insight", "combines sensitivity, maximum Dice matching and agreement",
        lambda m: m.insight["score"], direction=1, min_raters=2, min_samples=2,
    ),
    Column(
        "ci_sensitivity", "CI sensitivity", "combined sensitivity", "of the samples' union to the raters' union",
        lambda m: m.insight["sensitivity"], direction=1,
    ),
    Column(
        "ci_agreement", "CI agreement", "diversity agreement", "",
        lambda m: m.insight["agreement"], direction=1, min_raters=2, min_samples=2,
    ),
    Column(
        "soft_dice", "Soft Dice", "soft Dice", "confidence map against the share of raters; so are the four rows below",
        lambda m: soft_dice(m.known_confidence, m.target), direction=1,
    ),
    Column(
        "ece", "ECE", "expected calibration error", f"{NUM_BINS} bins; the summary pools the pixels of all cases",
        lambda m: calibration_error(m.bins("image")), pooled="image", direction=-1, digits=4,
    ),
    Column(
        "ece_band", "ECE, band", "ECE over the band of disagreement",
        "the pixels on which raters or samples disagree; pooled likewise",
        lambda m: calibration_error(m.bins("band")), pooled="band", direction=-1, undefined=NO_BAND,
    ),
    Column(
        "brier", "Brier", "Brier score", "", lambda m: brier_score(m.known_confidence, m.target),
        direction=-1, digits=4,
    ),
    Column(
        "brier_band", "Brier, band", "Brier score over the band of disagreement", "",
        lambda m: brier_score(m.known_confidence, m.target, region="band"),
        direction=-1, digits=4, undefined=NO_BAND,
    ),
    Column(
        "hd95", "HD95", "95th percentile Hausdorff distance of the consensus", "in pixels; in the cases of `dice`",
        lambda m: hausdorff_95(m.consensus, m.reference, ignore_empty=True),
        direction=-1, digits=2, undefined=NO_REFERENCE,
    ),
    Column(
        "surface_dice", "Surface Dice", "surface Dice of the consensus",
        "up to a tolerance of `surface_tolerance` pixels; in the cases of `dice`",
        lambda m: surface_dice(m.consensus, m.reference, m.surface_tolerance, ignore_empty=True),
        direction=1, undefined=NO_REFERENCE,
    ),
    *(
        Column(
            f"{name}_{grid}", f"{label}, {where}", f"{label} at {where}", f"`{name}_all` on this grid, "
            "where all other columns are scored on the other", score, grid=grid, direction=1,
        )
        for grid, where in (("native", "the image's native size"), ("network", "the network's size"))
        for name, label, score in (("dice", "Dice", _dice_all), ("iou", "IoU", _iou_all))
    ),
    Column(
        "codec_mask_dice", "Mask codec: Dice", "Dice of the mask codec", "reconstruction of non-empty masks",
        rebuilt=_rebuilt_dice, codec="mask_codec", direction=1, digits=4,
        undefined="no rater marked anything in any case",
    ),
    Column(
        "codec_mask_ged", "Mask codec: GED", "GED between raters and their reconstructions",
        rebuilt=_rebuilt_ged, codec="mask_codec", direction=-1, digits=4,
    ),
    Column(
        "codec_image_psnr", "Image codec: PSNR (dB)", "PSNR of the image codec",
        "where the image codec's weights lie beside the network's", rebuilt=_psnr, codec="image_codec",
        direction=1, digits=1, undefined="the image codec returns every image unchanged",
    ),
    Column(
        "codec_image_ssim", "Image codec: SSIM", "SSIM of the image codec", "likewise", rebuilt=_ssim,
        codec="image_codec", direction=1,
    ),
    Column(
        "psnr", "PSNR (dB)", "PSNR of a codec scored on its own",
        "of images, or of the probability map of the raters' masks that are not empty", rebuilt=_psnr,
        direction=1, digits=1, undefined="the codec returns everything unchanged",
    ),
    Column("ssim", "SSIM", "SSIM of a codec scored on its own", "likewise", rebuilt=_ssim, direction=1),
)  # fmt: skip
COLUMNS = {column.name: column for column in _ROWS}


def why_undefined(column: Column, num_raters: int, num_samples: int) -> str:
    """Why a figure is defined in no case: at most ``num_raters`` rated one, and each has ``num_samples`` samples."""
    if num_raters < column.min_raters:
        return "needs at least two raters, the data set has one"
    if num_samples < column.min_samples:
        return "needs at least two samples, there is one"
    return column.undefined
