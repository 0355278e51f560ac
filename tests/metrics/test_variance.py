"""Correlation of the variance maps against hand-worked values and NumPy's own correlation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.metrics import variance_correlation


def votes(*counts: int, slots: int) -> torch.Tensor:
    """(1, slots, 1, len(counts)) masks in which so many slots contain each pixel."""
    return (torch.arange(slots)[:, None] < torch.tensor(counts))[None, :, None]


def test_hand_worked_values():
    # Shares 1/2, 0, 0, 0 and 0, 1/4, 0, 0: variances 1/4 and 3/16 at different pixels of four.
    # Centred: (3, -1, -1, -1) and (-1, 3, -1, -1) of norms sqrt 12: -4 / 12.
    a, b = votes(1, 0, 0, 0, slots=2), votes(0, 1, 0, 0, slots=4)
    assert variance_correlation(a, b).item() == pytest.approx(-1 / 3, abs=1e-12)
    # The same pixel, another amount.
    assert variance_correlation(a, votes(1, 0, 0, 4, slots=4)).item() == pytest.approx(1, abs=1e-12)
    # 1/2 and 1/4 of the raters at two pixels, variances 1/4 and 3/16; of the samples the other way round.
    # (4, 3, 0, 0) and (3, 4, 0, 0) centred: covariance 24 - 49 / 4, power 25 - 49 / 4.
    swapped = variance_correlation(votes(1, 2, 0, 4, slots=4), votes(2, 1, 0, 0, slots=4))
    assert swapped.item() == pytest.approx((24 - 49 / 4) / (25 - 49 / 4), abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_equals_numpy(seed):
    rng = np.random.default_rng(seed)
    shape = (6, 7) if seed % 2 else (3, 4, 5)
    samples, raters = (rng.random((3, n, *shape)) < rng.random((3, 1, *shape)) for n in (5, 4))
    expected = []
    for s, y in zip(samples, raters, strict=True):
        a, b = s.var(axis=0).ravel(), y.var(axis=0).ravel()
        expected.append(np.corrcoef(a, b)[0, 1])
    np.testing.assert_allclose(variance_correlation(samples, raters).numpy(), expected, rtol=0, atol=1e-9)


def test_identical_sets_correlate_perfectly():
    masks = votes(0, 1, 2, 3, 4, slots=4)
    assert variance_correlation(masks.repeat(1, 4, 1, 1), masks).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("samples", "raters"),
    [
        (votes(0, 0, 0, slots=3), votes(0, 0, 0, slots=4)),  # all empty
        (votes(1, 0, 0, slots=3), votes(4, 0, 0, slots=4)),  # raters agree
        (votes(1, 0, 0, slots=3), votes(1, 0, 0, slots=1)),  # one rater
        (votes(1, 0, 0, slots=1), votes(2, 0, 0, slots=4)),  # one sample
        (votes(1, 0, 0, slots=3), votes(2, 2, 2, slots=4)),  # raters disagree alike everywhere
    ],
)
def test_undefined_cases(samples, raters):
    assert variance_correlation(samples, raters).isnan().all()


def test_samples_that_are_all_alike_score_zero():
    assert variance_correlation(votes(3, 0, 0, slots=3), votes(2, 0, 0, slots=4)).item() == 0


def test_bad_input_names_the_argument():
    with pytest.raises(InputError, match="raters: found the value nan"):
        variance_correlation(votes(1, 0, slots=2), votes(1, 0, slots=2) * torch.nan)
