from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from small_masks import EMPTY, FULL, LEFT, TOP, case

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.metrics import (
    SampleDiversity,
    energy_distance_floor,
    fuse_masks,
    generalized_energy_distance,
    sample_diversity,
)


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


def test_samples_that_are_the_raters_score_zero():
    raters = case(FULL, TOP, LEFT, EMPTY)
    assert generalized_energy_distance(raters.repeat(1, 4, 1, 1), raters).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("num_samples", [1, 2, 3])
def test_bias_of_draws_from_the_raters(num_samples):
    # Over all R**N equally likely draws E GED_V = D / N and E GED_U = -D / (R - 1), D the raters' V-mean.
    masks = [FULL, TOP, LEFT, EMPTY]
    draws = torch.stack([torch.stack(draw) for draw in itertools.product(masks, repeat=num_samples)])
    raters = case(*masks).expand(len(draws), -1, -1, -1)
    d = 2 * (1 / 2 + 1 / 2 + 1 + 2 / 3 + 1 + 1) / 16
    assert generalized_energy_distance(draws, raters).mean().item() == pytest.approx(d / num_samples, abs=1e-12)
    if num_samples > 1:
        u = generalized_energy_distance(draws, raters, unbiased=True).mean().item()
        assert u == pytest.approx(-d / 3, abs=1e-12)


@pytest.mark.parametrize("num_samples", [1, 2, 3])
def test_floor_is_the_mean_over_all_draws_from_the_raters(num_samples):
    masks = [FULL, TOP, LEFT, EMPTY]
    draws = torch.stack([torch.stack(draw) for draw in itertools.product(masks, repeat=num_samples)])
    raters = case(*masks).expand(len(draws), -1, -1, -1)
    floor = energy_distance_floor(case(*masks), num_samples)
    assert floor.shape == (1,)
    assert floor.item() == pytest.approx(generalized_energy_distance(draws, raters).mean().item(), abs=1e-12)


def test_floor_of_raters_who_agree_is_zero():
    assert energy_distance_floor(torch.cat([case(TOP, TOP, TOP), case(EMPTY, EMPTY, EMPTY)]), 16).tolist() == [0, 0]
    assert energy_distance_floor(case(FULL), 16).tolist() == [0]
    with pytest.raises(InputError, match="num_samples: found 0"):
        energy_distance_floor(case(FULL), 0)


def random_raters(cases: int, number: int, seed: int) -> torch.Tensor:
    """(cases, number, 32, 32): each case a disc of its own, each rater another radius, and some see nothing."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    centre = 16 + 2 * torch.randn((cases, 1, 2, 1, 1), generator=generator)
    radius = 4 + 5 * torch.rand((cases, 1, 1, 1), generator=generator)
    radius = radius + 1.5 * torch.randn((cases, number, 1, 1), generator=generator)
    misses = torch.rand((cases, number, 1, 1), generator=generator) < 0.25
    return ((rows - centre[:, :, 0]).hypot(columns - centre[:, :, 1]) < radius) & ~misses


def within_chance(values: torch.Tensor, expected: torch.Tensor | float) -> bool:
    """Whether the mean over cases is within four standard errors of what is expected of each case."""
    error = values - expected
    return abs(error.mean().item()) < 4 * error.std().item() / len(values) ** 0.5


@pytest.mark.parametrize("num_samples", [4, 16])
def test_drawing_from_the_raters_themselves_reaches_the_floor(num_samples):
    raters = random_raters(400, 4, seed=0)
    chosen = torch.randint(4, (400, num_samples), generator=torch.Generator().manual_seed(1))
    samples = raters[torch.arange(400)[:, None], chosen]
    ged, floor = generalized_energy_distance(samples, raters), energy_distance_floor(raters, num_samples)
    assert within_chance(ged, floor)
    # The test can fail: a fused mask, or raters of another case, are far off.
    assert not within_chance(generalized_energy_distance(fuse_masks(raters), raters), floor)
    assert not within_chance(generalized_energy_distance(samples.roll(1, 0), raters), floor)


@pytest.mark.parametrize("num_samples", [4, 16])
def test_drawing_from_the_population_of_raters(num_samples):
    # Sixteen samples and four raters of one population: V costs D (1/N + 1/R), U nothing.
    everyone = random_raters(600, 4 + num_samples, seed=2)
    raters, samples = everyone[:, :4], everyone[:, 4:]
    spread = sample_diversity(everyone)
    v, u = (generalized_energy_distance(samples, raters, unbiased=unbiased) for unbiased in (False, True))
    assert within_chance(v, spread * (1 / num_samples + 1 / 4))
    assert within_chance(u, 0.0)
    assert not within_chance(v, 0.0)


@pytest.mark.data
def test_drawing_from_real_raters_reaches_the_floor(unpack):
    folder = unpack("lidc_idri_slices_train_val.tar.xz", r"/LIDC-IDRI-000[1-4]/.*mask-", stop_at="/LIDC-IDRI-0006/")
    slices = sorted(folder.rglob("mask-0/*.png"))
    masks = np.stack(
        [[np.asarray(Image.open(path.parents[1] / f"mask-{i}" / path.name)) > 0 for i in range(4)] for path in slices]
    )
    # Ten draws of each slice.
    raters = torch.from_numpy(masks).repeat(10, 1, 1, 1)
    chosen = torch.randint(4, (len(raters), 16), generator=torch.Generator().manual_seed(0))
    samples = raters[torch.arange(len(raters))[:, None], chosen]
    floor = energy_distance_floor(raters, 16)
    assert floor.mean() > 0.005
    assert within_chance(generalized_energy_distance(samples, raters), floor)


def test_sample_diversity_by_hand():
    # full-top 1/2, full-empty 1, top-empty 1.
    assert sample_diversity(case(FULL, TOP, EMPTY)).item() == pytest.approx(5 / 6, abs=1e-12)
    assert sample_diversity(torch.cat([case(EMPTY, EMPTY), case(TOP, TOP)])).tolist() == [0, 0]
    assert sample_diversity(case(FULL)).isnan().all()
    metric = SampleDiversity()
    metric(case(FULL, TOP, EMPTY), case(LEFT))
    metric(case(FULL), case(LEFT))
    assert metric.aggregate().item() == pytest.approx(5 / 6, abs=1e-12)


def test_bad_input_names_the_argument():
    with pytest.raises(InputError, match="samples: found the value 2"):
        generalized_energy_distance(case(FULL).int() * 2, case(FULL))
    with pytest.raises(InputError, match="raters: found the value nan"):
        generalized_energy_distance(case(FULL), case(FULL) * torch.nan)
    damaged = torch.stack([torch.stack([FULL, TOP])] * 3).float()
    damaged[2, 1, 0, 1] = torch.nan
    with pytest.raises(InputError, match=r"samples: found the value nan.*\(mask 1 of case 2 in the batch\)"):
        generalized_energy_distance(damaged, damaged > 0)
    with pytest.raises(InputError, match="raters: found shape"):
        generalized_energy_distance(case(FULL), case(FULL)[..., :1])
