"""Bases of the ensemble metrics: one value per case, gathered over all ranks, NaN left out of the mean.

MONAI's `CumulativeIterationMetric` supplies the buffers and their synchronisation. Three of its habits do not suit an
evaluation and are replaced: a rank without cases skips the gathering, so that the others wait forever; a list of
predictions longer than the labels is silently cut; the mean over undefined values only is 0 instead of NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.metrics import CumulativeIterationMetric
from monai.utils import evenly_divisible_all_gather

from ..errors import InputError
from .masks import as_paired_stacks, check_fusion, fuse_masks


class EnsembleMetric(CumulativeIterationMetric):
    """Base of the metrics that compare the samples of an ensemble with the masks of the raters.

    Call it with `y_pred` (B, N, H, W[, D]) and `y` (B, R, H, W[, D]), both binary, or with lists of (N, H, W[, D]) and
    (R, H, W[, D]) as a SupervisedEvaluator with decollation hands them out; N and R may then differ from case to case.
    The call returns (B, 1) float64, one row per case; `get_buffer()` gives the rows of all cases and ranks,
    `aggregate()` their mean.
    `monai.handlers.IgniteMetricHandler(metric_fn=..., output_transform=from_engine([...]))` makes it a handler.

    A subclass sets `compute_cases`, a function of samples (B, N, H, W[, D]) and raters (B, R, H, W[, D]), both binary,
    that returns (B,) float64, NaN where the metric is not defined.
    """

    compute_cases: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    # How many numbers the buffer keeps per case.
    row_length = 1

    def aggregate(self) -> torch.Tensor:
        """Mean over the cases of all ranks.

        Returns:
            Scalar float64; cases that are NaN are left out, and the mean over such cases only is NaN.

        Raises:
            InputError: no case was scored since the last reset.
        """
        cases = self.get_buffer()
        if len(cases) == 0:
            raise InputError(f"{type(self).__name__}: found no case, expected at least one; check the data set's list.")
        return self._reduce(cases)

    def _reduce(self, cases: torch.Tensor) -> torch.Tensor:
        """One figure of the buffer (cases, row_length)."""
        return torch.nanmean(cases)

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        if y is None:
            raise InputError(f"{type(self).__name__}: found no y, expected the raters' masks; pass them as y.")
        return self._score_rows(y_pred, y)

    def _score_rows(self, samples: torch.Tensor, raters: torch.Tensor) -> torch.Tensor:
        """Rows for the buffer, (B, row_length): the scores, except for metrics that pool pixels over cases."""
        return self.compute_cases(samples, raters)[:, None]

    def _compute_list(self, y_pred: Any, y: Any = None, **kwargs: Any) -> Any:
        if y is None or len(y_pred) != len(y):
            raise InputError(
                f"{type(self).__name__}: found {len(y_pred)} cases in y_pred and {0 if y is None else len(y)} in y, "
                "expected the same number in both; check the keys that the handler takes from the engine."
            )
        return super()._compute_list(y_pred, y, **kwargs)

    def _sync(self) -> None:
        if self._synced:
            return
        rows = self._buffers[0] if self._buffers else []
        # Every rank takes part in the gathering, even one without cases, which adds no rows.
        local = torch.stack(rows) if rows else torch.zeros((0, self.row_length), dtype=torch.float64)
        self._synced_tensors = [evenly_divisible_all_gather(local, concat=True)]
        self._synced = True


class ConsensusMetric(EnsembleMetric):
    """Base of the metrics that compare the fused samples with the fused raters, one mask with one.

    A single sample (N = 1), such as a consensus mask fused elsewhere, is taken as it is. A subclass sets
    `score`, a function of two masks (B, 1, H, W[, D]) and `ignore_empty` that returns B values.

    Args:
        threshold: a pixel is foreground where the mean of the binary samples is >= threshold, in (0, 1].
        level: share of the raters' slots that the reference requires.
        tie: whether a share of raters equal to `level` is "foreground" or "background".
        ignore_empty: True: leave out the cases whose raters' consensus is empty. False: score them.
    """

    score: Callable[..., torch.Tensor]

    def __init__(
        self, threshold: float = 0.5, level: float = 0.5, tie: str = "foreground", ignore_empty: bool = False
    ) -> None:
        super().__init__()
        check_fusion(threshold, "foreground", name="threshold")
        check_fusion(level, tie)
        self.threshold, self.level, self.tie, self.ignore_empty = threshold, level, tie, ignore_empty

    def compute_cases(self, samples: torch.Tensor, raters: torch.Tensor) -> torch.Tensor:
        """Samples (B, N, H, W[, D]) and raters (B, R, H, W[, D]), binary → (B,) float64."""
        samples, raters = as_paired_stacks(samples, raters)
        masks = fuse_masks(samples, self.threshold), fuse_masks(raters, self.level, self.tie)
        return self.score(*masks, ignore_empty=self.ignore_empty).flatten()
