"""The data behind an evaluation's columns: samples with raters, and originals with reconstructions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from monai.metrics import PSNRMetric, SSIMMetric

from ..ensemble.fusion import fuse_ensemble
from ..errors import InputError
from ..metrics.calibration import calibration_bins
from ..metrics.insight import collective_insight
from ..metrics.masks import fuse_masks, mean_mask

NUM_BINS = 15


@dataclass(frozen=True, eq=False)
class ScoredMasks:
    """The data behind the metrics of an ensemble; values that several metrics need are computed once.

    Attributes:
        samples: (B, N, H, W[, D]) bool.
        raters: (B, R, H, W[, D]) bool.
        confidence: (B, 1, H, W[, D]) float32 in [0, 1]; ``None`` where it is not known.
        threshold: of the consensus, see :func:`~medseglatdiff_monai.ensemble.fusion.fuse_ensemble`.
        fusion: likewise.
        surface_tolerance: distance in pixels up to which two outlines agree.
    """

    samples: torch.Tensor
    raters: torch.Tensor
    confidence: torch.Tensor | None
    threshold: float = 0.5
    fusion: str = "mean"
    surface_tolerance: float = 1.0

    @property
    def known_confidence(self) -> torch.Tensor:
        """The confidence map.

        Raises:
            InputError: it is not known.
        """
        if self.confidence is None:
            raise InputError(
                "These samples have no confidence map, because that of probabilities is kept for all samples of a case "
                "only. Metrics of the confidence and of the consensus need confidence 'samples': set it, or leave "
                "these metrics out."
            )
        return self.confidence

    @cached_property
    def consensus(self) -> torch.Tensor:
        """The samples' consensus (B, 1, H, W[, D]) bool."""
        return fuse_ensemble(self.samples, self.known_confidence, self.threshold, self.fusion)["consensus_mask"]

    @cached_property
    def reference(self) -> torch.Tensor:
        """The pixels that at least half of the raters marked, (B, 1, H, W[, D]) bool."""
        return fuse_masks(self.raters)

    @cached_property
    def target(self) -> torch.Tensor:
        """The share of raters who marked a pixel, (B, 1, H, W[, D]) float64."""
        return mean_mask(self.raters)

    @cached_property
    def insight(self) -> dict[str, torch.Tensor]:
        """See :func:`~medseglatdiff_monai.metrics.collective_insight`."""
        return collective_insight(self.samples, self.raters)

    def bins(self, region: str) -> torch.Tensor:
        """Bins (B, 3, NUM_BINS), see :func:`~medseglatdiff_monai.metrics.calibration_bins`."""
        return calibration_bins(self.known_confidence, self.target, region, NUM_BINS)


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Images, or raters' masks, and a codec's reconstruction of them.

    Attributes:
        original: images (B, C, H, W[, D]) in [0, 1], or masks (B, R, H, W[, D]) of 0 and 1.
        rebuilt: the same shape, in [0, 1]; for masks the probability map.
        masks: the decoded masks (B, R, H, W[, D]) bool; ``None`` where images were rebuilt.
    """

    original: torch.Tensor
    rebuilt: torch.Tensor
    masks: torch.Tensor | None = None

    def mean_over_marked(self, score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Mean of a score of mask and decoded mask over the raters who marked something, (B,); NaN without any."""
        if self.masks is None:
            return torch.full((len(self.original),), torch.nan, dtype=torch.float64)
        return score(self.masks, self.original > 0).nanmean(1)

    def similarity(self, metric: PSNRMetric | SSIMMetric) -> torch.Tensor:
        """MONAI's metric of each image, or its mean over the raters who marked something, (B,); NaN without any."""
        if self.masks is None:
            # MONAI's metrics give a tensor for a batch, and a list only for a list of cases.
            return torch.as_tensor(metric(self.rebuilt, self.original)).flatten()
        one_by_one = (masks.flatten(0, 1)[:, None].float() for masks in (self.rebuilt, self.original))
        values = torch.as_tensor(metric(*one_by_one)).flatten().unflatten(0, self.masks.shape[:2])
        marked = self.original.flatten(2).any(2)
        return torch.where(marked, values, torch.nan).nanmean(1)
