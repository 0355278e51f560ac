"""Rules of fusion: hand-worked ensembles, agreement of all rules where samples agree, STAPLE against its equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseglatdiff_monai.ensemble import FUSIONS, fuse_ensemble
from medseglatdiff_monai.ensemble.inferer import EnsembleInferer
from medseglatdiff_monai.ensemble.summary import summarize_ensemble
from medseglatdiff_monai.ensemble.transforms import SplitEnsembled
from medseglatdiff_monai.errors import InputError


def votes(*counts: int, slots: int) -> torch.Tensor:
    """Logits (1, slots, 1, len(counts)) of samples of which so many contain each pixel."""
    return ((torch.arange(slots)[:, None] < torch.tensor(counts)).float() * 2 - 1)[None, :, None]


def fuse(logits: torch.Tensor, **arguments) -> list[bool]:
    return summarize_ensemble(logits, **arguments)["consensus_mask"].flatten().tolist()


def test_mean_and_majority_differ_in_the_tie_alone():
    logits = votes(0, 1, 2, 3, 4, slots=4)
    assert fuse(logits) == fuse(logits, fusion="mean") == [False, False, True, True, True]
    assert fuse(logits, fusion="majority") == [False, False, False, True, True]
    assert fuse(logits, fusion="mean", threshold=0.75) == [False, False, False, True, True]
    # A majority is a majority at any threshold.
    assert fuse(logits, fusion="majority", threshold=1.0) == [False, False, False, True, True]
    assert fuse(votes(2, 3, slots=5), fusion="majority") == fuse(votes(2, 3, slots=5)) == [False, True]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # Four samples: shares, mean size, and the sizes that thresholds can give.
        ((4, 1, 1, 1, 1, 0), (1, 0, 0, 0, 0, 0)),  # 2 of {0, 1, 5}: 1 is nearest, and the mean's answer too
        ((4, 2, 2, 1, 1, 1, 1), (1, 1, 1, 0, 0, 0, 0)),  # 3 of {0, 1, 3, 7}
        ((1, 1, 1, 1, 1, 1), (0, 0, 0, 0, 0, 0)),  # 1.5 of {0, 6}: nothing
        ((2, 1, 1), (1, 0, 0)),  # 1 of {0, 1, 3}
        ((3, 3, 3), (1, 1, 1)),  # 2.25 of {0, 3}
        ((2, 2), (0, 0)),  # 1 of {0, 2}: a tie goes to the smaller
        ((1, 1, 1, 1, 4), (0, 0, 0, 0, 1)),  # 2 of {0, 1, 5}
        ((0, 0), (0, 0)),
        ((4, 4), (1, 1)),
    ],
)
def test_size_preserving_threshold_by_hand(counts, expected):
    assert fuse(votes(*counts, slots=4), fusion="size_preserving") == [bool(pixel) for pixel in expected]


def test_size_preserving_threshold_keeps_what_a_fixed_one_loses():
    # Three samples place a blob at one of three pixels: half of them agree nowhere, yet there is a blob.
    logits = -torch.ones(1, 5, 1, 8)
    for sample, pixel in enumerate((2, 2, 3, 4, 5)):
        logits[0, sample, 0, pixel] = 1.0
    assert not any(fuse(logits))
    assert fuse(logits, fusion="size_preserving").index(True) == 2


@pytest.mark.parametrize("seed", range(10))
def test_size_preserving_threshold_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    samples = torch.from_numpy(rng.random((3, 6, 7, 8)) < rng.random((3, 1, 7, 8)) ** 2)
    confidence = samples.float().mean(1, keepdim=True)
    mask = fuse_ensemble(samples, confidence, fusion="size_preserving")["consensus_mask"]
    for case in range(3):
        target = samples[case].sum((1, 2)).double().mean().item()
        thresholds = [k / 6 - 0.01 for k in range(1, 8)]
        errors = [abs((confidence[case] >= t).sum().item() - target) for t in thresholds]
        assert abs(mask[case].sum().item() - target) == min(errors)
        # A threshold it is: what is inside is at least as sure as what is outside.
        if mask[case].any():
            assert confidence[case][mask[case]].min() > confidence[case][~mask[case]].max()


def staple(samples: np.ndarray, iterations: int = 100) -> np.ndarray:
    """Warfield et al. 2004: expectation maximisation with a prior that is the samples' overall share of foreground."""
    votes = samples.reshape(len(samples), -1).astype(float)
    prior = votes.mean()
    p, q = np.full(len(votes), 0.99999), np.full(len(votes), 0.99999)
    weight = None
    for _ in range(iterations):
        a = prior * np.prod(np.where(votes == 1, p[:, None], 1 - p[:, None]), axis=0)
        b = (1 - prior) * np.prod(np.where(votes == 1, 1 - q[:, None], q[:, None]), axis=0)
        weight = a / (a + b)
        p, q = (votes * weight).sum(1) / weight.sum(), ((1 - votes) * (1 - weight)).sum(1) / (1 - weight).sum()
    return weight.reshape(samples.shape[1:])


def test_staple_solves_its_equations():
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:24, :24]
    truth = np.hypot(rows - 12, columns - 12) < 7
    # Five samples with errors of their own, and one that sees nothing.
    samples = np.stack([truth ^ (rng.random(truth.shape) < error) for error in (0.02, 0.05, 0.1, 0.2, 0.3)])
    samples = np.concatenate([samples, np.zeros_like(truth)[None]])
    out = summarize_ensemble(torch.from_numpy(samples).float()[None] * 2 - 1, fusion="staple")
    assert out["staple_probability"].shape == (1, 1, 24, 24)
    assert out["staple_probability"].dtype == torch.float32
    np.testing.assert_allclose(out["staple_probability"][0, 0].numpy(), staple(samples), atol=1e-2)
    # It trusts the good samples: the mean, which does not, is further from the truth.
    plain = summarize_ensemble(torch.from_numpy(samples).float()[None] * 2 - 1)
    fused_wrong, plain_wrong = ((found["consensus_mask"][0, 0].numpy() != truth).sum() for found in (out, plain))
    assert fused_wrong < plain_wrong


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("spatial", [(9, 10), (5, 6, 7)])
def test_where_samples_agree_all_rules_return_their_mask(fusion, spatial):
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(spatial, generator=generator) < 0.3
    for agreed in (mask, torch.zeros_like(mask), torch.ones_like(mask)):
        for number in (1, 4):
            out = summarize_ensemble((agreed.float() * 2 - 1).expand(1, number, *spatial), fusion=fusion)
            assert torch.equal(out["consensus_mask"][0, 0], agreed)
            assert out["consensus_mask"].dtype == torch.bool
            assert ("staple_probability" in out) == (fusion == "staple")
            assert torch.equal(out["confidence_map"][0, 0], agreed.float())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_images_of_a_batch_are_fused_by_themselves(fusion):
    logits = (
        torch.randn((3, 5, 8, 8), generator=torch.Generator().manual_seed(0))
        + torch.tensor([-1.0, 0, 1])[:, None, None, None]
    )
    together = summarize_ensemble(logits, fusion=fusion)
    alone = [summarize_ensemble(logits[i : i + 1], fusion=fusion) for i in range(3)]
    for name, values in together.items():
        torch.testing.assert_close(values, torch.cat([single[name] for single in alone]))
    # The confidence is a mean, whatever the rule.
    assert torch.equal(together["confidence_map"], (logits > 0).float().mean(1, keepdim=True))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_inferer_takes_the_rule(make_segmenter, fusion):
    network, image = make_segmenter(), torch.rand(2, 1, 32, 32)
    out = EnsembleInferer(num_samples=4, fusion=fusion)(image, network, ["a", "b"])
    expected = fuse_ensemble(out["samples"], out["confidence_map"], fusion=fusion)["consensus_mask"]
    assert torch.equal(out["consensus_mask"], expected)


def test_staple_s_probability_reaches_the_keys_of_monai():
    logits = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    for fusion in FUSIONS:
        ensemble = {name: values[0] for name, values in summarize_ensemble(logits, fusion=fusion).items()}
        item = SplitEnsembled("pred")({"pred": ensemble})
        assert torch.equal(item["pred"].as_tensor(), ensemble["consensus_mask"].float())
        assert item.keys() == (ensemble.keys() - {"consensus_mask"}) | {"pred"}


def test_bad_arguments_are_named():
    with pytest.raises(InputError, match="fusion: found 'median', expected one of mean, majority, staple"):
        EnsembleInferer(fusion="median")
    with pytest.raises(InputError, match="fusion: found 'median'"):
        summarize_ensemble(votes(1, slots=2), fusion="median")
    with pytest.raises(InputError, match="postprocess: found 'erode', expected null or one of morphology"):
        EnsembleInferer(postprocess="erode")
    with pytest.raises(InputError, match="confidence must be 'samples'"):
        EnsembleInferer(postprocess="morphology", confidence="probabilities")
    with pytest.raises(InputError, match="threshold must be in"):
        EnsembleInferer(threshold=0.0)
