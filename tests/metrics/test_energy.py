from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.metrics import generalized_energy_distance

FULL, TOP, LEFT, EMPTY = torch.tensor(
    [[[1, 1], [1, 1]], [[1, 1], [0, 0]], [[1, 0], [1, 0]], [[0, 0], [0, 0]]], dtype=torch.bool
)


def case(*masks: torch.Tensor) -> torch.Tensor:
    return torch.stack(masks)[None]


def test_hand_worked_values():
    # Distances: full-top 1/2, full-empty 1, top-left 2/3, top-empty 1, left-full 1/2, left-empty 1.
    samples, raters = case(FULL, TOP), case(TOP, LEFT, EMPTY)
    between = (1 / 2 + 1 / 2 + 1 + 0 + 2 / 3 + 1) / 6
    samples_v, raters_v = 2 * (1 / 2) / 4, 2 * (2 / 3 + 1 + 1) / 9
    samples_u, raters_u = 1 / 2, (2 / 3 + 1 + 1) / 3
    v, u = generalized_energy_distance(samples, raters), generalized_energy_distance(samples, raters, unbiased=True)
    assert v.shape == u.shape == (1,)
    assert v.item() == pytest.approx(2 * between - samples_v - raters_v, abs=1e-12)
    assert u.item() == pytest.approx(2 * between - samples_u - raters_u, abs=1e-12)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_equals_a_loop_over_pairs(seed, unbiased, random_case, loop_iou):
    def mean_distance(pairs):
        distances = [1 - loop_iou(a, b) for a, b in pairs]
        return sum(distances) / len(distances) if distances else np.nan

    def within(masks):
        return itertools.permutations(masks, 2) if unbiased else itertools.product(masks, masks)

    samples, raters = random_case(seed)
    expected = [
        2 * mean_distance(itertools.product(s, y)) - mean_distance(within(s)) - mean_distance(within(y))
        for s, y in zip(samples, raters, strict=True)
    ]
    np.testing.assert_allclose(
        generalized_energy_distance(samples, raters, unbiased=unbiased).numpy(), expected, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("samples", "raters", "v", "u"),
    [
        ([EMPTY] * 3, [EMPTY] * 4, 0, 0),
        ([FULL] * 3, [EMPTY] * 4, 2, 2),
        ([EMPTY] * 3, [FULL] * 4, 2, 2),
        ([FULL] * 2, [FULL] * 2, 0, 0),
    ],
)
def test_degenerate_cases(samples, raters, v, u):
    samples, raters = case(*samples), case(*raters)
    assert generalized_energy_distance(samples, raters).item() == v
    assert generalized_energy_distance(samples, raters, unbiased=True).item() == u


@pytest.mark.parametrize(("samples", "raters"), [([FULL], [TOP, LEFT]), ([FULL, TOP], [LEFT]), ([FULL], [FULL])])
def test_u_statistic_of_a_single_mask_is_nan_and_v_is_not(samples, raters):
    samples, raters = case(*samples), case(*raters)
    assert generalized_energy_distance(samples, raters, unbiased=True).isnan().all()
    assert generalized_energy_distance(samples, raters).isfinite().all()


def test_samples_that_are_the_readers_score_zero():
    raters = case(FULL, TOP, LEFT, EMPTY)
    assert generalized_energy_distance(raters.repeat(1, 4, 1, 1), raters).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("num_samples", [1, 2, 3])
def test_bias_of_draws_from_the_readers(num_samples):
    # Over all R**N equally likely draws E GED_V = D / N and E GED_U = -D / (R - 1), D the readers' V-mean.
    masks = [FULL, TOP, LEFT, EMPTY]
    draws = torch.stack([torch.stack(draw) for draw in itertools.product(masks, repeat=num_samples)])
    raters = case(*masks).expand(len(draws), -1, -1, -1)
    d = 2 * (1 / 2 + 1 / 2 + 1 + 2 / 3 + 1 + 1) / 16
    assert generalized_energy_distance(draws, raters).mean().item() == pytest.approx(d / num_samples, abs=1e-12)
    if num_samples > 1:
        u = generalized_energy_distance(draws, raters, unbiased=True).mean().item()
        assert u == pytest.approx(-d / 3, abs=1e-12)


def test_bad_input_names_the_argument():
    with pytest.raises(InputError, match="samples: found the value 2"):
        generalized_energy_distance(case(FULL).int() * 2, case(FULL))
    with pytest.raises(InputError, match="raters: found the value nan"):
        generalized_energy_distance(case(FULL), case(FULL) * torch.nan)
    with pytest.raises(InputError, match="raters: found shape"):
        generalized_energy_distance(case(FULL), case(FULL)[..., :1])
