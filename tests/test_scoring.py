"""The scoring stage: its distances and score by hand, what minimises them, and the network that is trained by them."""

from __future__ import annotations

import math

import pytest
import torch

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.metrics import generalized_energy_distance
from medseglatdiff_monai.metrics.distances import pairwise_iou_distance
from medseglatdiff_monai.networks import ScoringNetwork
from medseglatdiff_monai.networks.noise import spread_first_channel
from medseglatdiff_monai.training.batches import PrepareScoring
from medseglatdiff_monai.training.losses import ScoringLoss, energy_score, latent_distance, ruzicka_distance


def test_ruzicka_distance_by_hand() -> None:
    a = torch.tensor([[[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]]])
    b = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]])
    # min (1, 0.5, 0), max (1, 1, 0); with a pixel of 1 in both: 1 - 2.5 / 3.
    expected = torch.tensor([[[1 - 2.5 / 3, 1 - 1 / 2.5], [1 - 1 / 3, 0.0]]])
    torch.testing.assert_close(ruzicka_distance(a, b), expected)
    torch.testing.assert_close(ruzicka_distance(a, b, smoothing=0.0)[0, 0, 0], torch.tensor(0.25))


def test_ruzicka_distance_of_binary_masks_is_that_of_the_metric() -> None:
    torch.manual_seed(0)
    samples, raters = torch.rand(3, 5, 8, 8) < 0.4, torch.rand(3, 4, 8, 8) < 0.4
    found = ruzicka_distance(samples.float().flatten(2), raters.float().flatten(2), smoothing=0.0)
    torch.testing.assert_close(found.double(), pairwise_iou_distance(samples, raters), atol=1e-6, rtol=0)


def test_latent_distance_by_hand() -> None:
    a = torch.zeros(1, 1, 2, 1, 2)
    b = torch.zeros(1, 1, 2, 1, 2)
    b[0, 0, :, 0, 0] = torch.tensor([3.0, 1.0])
    # Mean squares at the two positions: 5 and 0; over all 2.5.
    expected = 0.5 * math.sqrt(2.5) + 0.5 * math.sqrt(5.0) / 2
    assert float(latent_distance(a, b)) == pytest.approx(expected, abs=1e-4)


def test_latent_distance_has_a_gradient_where_latents_are_equal() -> None:
    a = torch.zeros(1, 2, 4, 3, 3, requires_grad=True)
    latent_distance(a, a).sum().backward()
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize(("fairness", "spread"), [(1.0, 0.6), (0.0, 0.4), (0.95, 0.95 * 0.6 + 0.05 * 0.4)])
def test_energy_score_by_hand(fairness: float, spread: float) -> None:
    to_raters = torch.tensor([[[0.2, 0.4], [0.6, 0.8], [0.1, 0.3]]])
    # Three pairs of different samples, each twice: 2 (0.9 + 0.6 + 0.3) = 3.6; / 6 = 0.6, / 9 = 0.4.
    among = torch.tensor([[[0.0, 0.9, 0.6], [0.9, 0.0, 0.3], [0.6, 0.3, 0.0]]])
    assert float(energy_score(to_raters, among, fairness)) == pytest.approx(0.4 - 0.5 * spread)


def test_fair_score_is_half_of_the_unbiased_energy_distance() -> None:
    torch.manual_seed(1)
    samples, raters = torch.rand(4, 6, 9, 9) < 0.5, torch.rand(4, 4, 9, 9) < 0.5
    s, y = samples.float().flatten(2), raters.float().flatten(2)
    score = energy_score(ruzicka_distance(s, y, 0.0), ruzicka_distance(s, s, 0.0), fairness=1.0)
    among_raters = ruzicka_distance(y, y, 0.0).sum((1, 2)) / 12
    expected = generalized_energy_distance(samples, raters, unbiased=True)
    torch.testing.assert_close(2 * score.double() - among_raters.double(), expected, atol=1e-6, rtol=0)


def discs(radii: torch.Tensor, side: int = 24) -> torch.Tensor:
    """Soft discs (B, N, side * side) of radii (B, N)."""
    grid = torch.arange(side) - side / 2 + 0.5
    distance = (grid[:, None] ** 2 + grid[None] ** 2).sqrt().flatten()
    return torch.sigmoid(4.0 * (radii[..., None] - distance))


def mean_score(radii: torch.Tensor, raters: torch.Tensor, fairness: float) -> float:
    samples = discs(radii)
    raters = discs(raters).expand(len(samples), -1, -1)
    return float(energy_score(ruzicka_distance(samples, raters), ruzicka_distance(samples, samples), fairness).mean())


@pytest.mark.parametrize("fairness", [1.0, 0.95])
def test_raters_own_distribution_scores_best(fairness: float) -> None:
    torch.manual_seed(2)
    raters = torch.tensor([[0.0, 4.0, 6.0, 9.0]])
    draw = lambda low: raters[0, torch.randint(low, 4, (2000, 4))]  # noqa: E731
    own = mean_score(draw(0), raters, fairness)
    collapsed = mean_score(torch.full((1, 4), float(raters.mean())), raters, fairness)
    never_empty = mean_score(draw(1), raters, fairness)
    dispersed = mean_score(draw(0) + 4.0 * torch.randn(2000, 4), raters, fairness)
    assert own < min(collapsed, never_empty, dispersed) - 0.005


def test_training_by_the_score_finds_the_distribution_and_not_its_mean() -> None:
    torch.manual_seed(3)
    raters = torch.tensor([[3.0, 3.0, 9.0, 9.0]])
    # A generator of radii: noise in, radius out.
    network = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    target = discs(raters)
    for _ in range(300):
        samples = discs(6.0 + 3.0 * network(torch.randn(16, 4, 1)).squeeze(-1))
        to_raters = ruzicka_distance(samples, target.expand(16, -1, -1))
        loss = energy_score(to_raters, ruzicka_distance(samples, samples)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        radii = (6.0 + 3.0 * network(torch.randn(400, 1))).flatten()
    assert 0.3 < float((radii > 6.0).float().mean()) < 0.7
    assert float(((radii - 3.0).abs() < 1.0).float().mean() + ((radii - 9.0).abs() < 1.0).float().mean()) > 0.8


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    label = torch.zeros(2, 4, 64, 64)
    label[0, :3, 20:40, 20:40] = 1
    label[1, :2, 10:30, 30:50] = 1
    return {"image": torch.rand(2, 1, 64, 64), "label": label}


def test_network_returns_what_the_loss_compares(make_segmenter, batch: dict) -> None:
    segmenter = make_segmenter()
    network = ScoringNetwork(segmenter, num_samples=3, denoising_draws=2)
    image, _, (raters,), _ = PrepareScoring()(batch)
    output = network(image, raters)
    d, h, w = segmenter.latent_shape(image)
    assert output["sample_logits"].shape == (2, 3, 64, 64)
    assert output["sample_latents"].shape == (2, 3, d, h, w)
    assert output["rater_latents"].shape == (2, 4, d, h, w)
    assert output["prediction"].shape == output["target"].shape == (4, d, h, w)
    loss = ScoringLoss()(output)
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in segmenter.denoiser.parameters())
    assert all(p.grad is None for p in segmenter.mask_codec.parameters())


def test_gradient_of_decoded_masks_reaches_the_denoiser(make_segmenter, batch: dict) -> None:
    segmenter = make_segmenter()
    # The mask codec quantises: without a straight-through gradient the masks would teach nothing.
    assert segmenter.mask_codec.quantizer is not None
    output = ScoringNetwork(segmenter, denoising_draws=0)(batch["image"], batch["label"])
    ScoringLoss(latent_weight=0.0)(output).backward()
    assert any(bool(p.grad.abs().sum() > 0) for p in segmenter.denoiser.parameters() if p.grad is not None)


@pytest.mark.parametrize("common", [False, True])
def test_training_and_inference_see_the_same_kind_of_noise(make_segmenter, batch: dict, common: bool) -> None:
    segmenter = make_segmenter(common_noise=common, sampler="direct", num_inference_steps=1)
    seen: list[torch.Tensor] = []
    denoise = segmenter.denoise
    segmenter.denoise = lambda z_t, *rest: seen.append(z_t) or denoise(z_t, *rest)
    ScoringNetwork(segmenter, denoising_draws=0)(batch["image"], batch["label"])
    segmenter(batch["image"])
    for z_t in seen:
        assert [bool(z_t[:, c].std((1, 2)).max() < 1e-5) for c in range(3)] == [common, False, False]
    assert len(seen) == 2
    # The four numbers of an image in training: one in each quarter of the normal distribution.
    if common:
        quarters = torch.special.ndtr(seen[0][:, 0, 0, 0]).reshape(2, 4) * 4
        assert [sorted(map(int, case)) for case in quarters] == [[0, 1, 2, 3]] * 2


def test_a_low_fairness_makes_up_for_the_spread() -> None:
    torch.manual_seed(7)
    numbers = spread_first_channel(torch.randn(20_000, 4, 1, 1, 1)).flatten(1)
    among = (numbers[:, :, None] - numbers[:, None]).abs()
    spread = {f: -2 * float(energy_score(torch.zeros(1, 4, 1), among, f).mean()) for f in (0.3, 0.95)}
    # Two independent standard normal numbers are 2 / √π apart.
    assert spread[0.3] == pytest.approx(2 / math.sqrt(math.pi), rel=0.02)
    assert spread[0.95] == pytest.approx(1.2 * 2 / math.sqrt(math.pi), rel=0.02)


@pytest.mark.parametrize("sample", [0, 1])
def test_each_sample_of_spread_noise_is_standard_normal(sample: int) -> None:
    torch.manual_seed(6)
    noise = spread_first_channel(torch.randn(8000, 2, 2, 2, 2))[:, sample].flatten(1)
    # Of 8,000 draws: 4.5 deviations of a mean are 0.05, and of a variance or covariance 0.07.
    assert noise.mean(0).abs().max() < 0.05
    assert (noise.T.cov() - torch.eye(8)).abs().max() < 0.07


def test_consensus_as_the_only_rater(batch: dict) -> None:
    _, label, (raters,), _ = PrepareScoring("consensus")(batch)
    assert raters.shape == (2, 1, 64, 64)
    assert label.shape == (2, 4, 64, 64)
    torch.testing.assert_close(raters[:, 0], (label.mean(1) >= 0.5).float())


def test_refusals(make_segmenter) -> None:
    with pytest.raises(InputError, match="at least 2 samples"):
        ScoringNetwork(make_segmenter(), num_samples=1)
    with pytest.raises(InputError, match="fairness"):
        ScoringLoss(fairness=1.5)
    with pytest.raises(InputError, match="target"):
        PrepareScoring("best_rater")
    segmenter = make_segmenter()
    segmenter.process.prediction_type = "epsilon"
    with pytest.raises(InputError, match="leave 'scoring' out"):
        ScoringNetwork(segmenter)
