"""Networks of the literature that MONAI does not have: what each adds to the parts that it is built from."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medseglatdiff_monai.networks import (
    AnchorConditioner,
    AnchorEncoder,
    EvidenceLoss,
    HyperSeg,
    MedSegDiffV2Denoiser,
    ProbabilisticNetwork,
    ProbabilisticUNet,
    SegFormer,
    SwinUNet,
    TransUNet,
)
from medseglatdiff_monai.networks.baselines.hyperseg import _mix_channels, _mix_neighbours
from medseglatdiff_monai.networks.baselines.medsegdiff_v2 import AnchorSmoothing

ANCHOR = {
    "channels": (8, 16),
    "num_res_blocks": 1,
    "attention_levels": (False, False),
    "num_head_channels": 8,
    "norm_num_groups": 4,
}


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def small_networks() -> dict[str, nn.Module]:
    return {
        "transunet": TransUNet(3, 32, (8, 8), 24, 24, 2, 2),
        "swinunet": SwinUNet(3, 2, 12, (1, 1, 1), (1, 2, 4), 4),
        "hyperseg": HyperSeg(3, (8, 8, 8), 8, 8),
        "segformer": SegFormer(3, (8, 16, 40, 64), (1, 1, 1, 1), 16),
    }


@pytest.mark.parametrize("name", ["transunet", "swinunet", "hyperseg", "segformer"])
def test_every_weight_and_every_part_of_the_image_matters(name: str) -> None:
    network = small_networks()[name]
    image = torch.rand(2, 3, 32, 32, requires_grad=True)
    logits = network(image)
    assert logits.shape == (2, 1, 32, 32)
    (logits * torch.randn_like(logits)).sum().backward()
    assert [key for key, weight in network.named_parameters() if weight.grad is None] == []
    # A pixel in one corner is seen from the opposite one: by attention, or by the weights of its patch.
    image.grad = None
    network(image)[0, 0, 0, 0].backward()
    assert image.grad is not None
    assert image.grad[0, :, 16:, 16:].abs().sum() > 0


@pytest.mark.parametrize("name", ["transunet", "swinunet", "hyperseg", "segformer"])
def test_another_size_than_the_training_images(name: str) -> None:
    network = small_networks()[name].eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 64, 32)).shape == (1, 1, 64, 32)


def test_patches_have_convolutions_of_their_own() -> None:
    x, weights = torch.randn(2, 3, 8, 12), torch.randn(2, 5, 3, 2, 3)
    mixed = _mix_channels(x, weights)
    neighbours = torch.randn(2, 3, 9, 2, 3)
    depthwise = _mix_neighbours(x, neighbours)
    for case in range(2):
        for row in range(2):
            for column in range(3):
                rows, columns = slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4)
                part = (slice(case, case + 1), slice(None), rows, columns)
                kernel = weights[case, :, :, row, column, None, None]
                torch.testing.assert_close(mixed[part], F.conv2d(x[part], kernel) / math.sqrt(3))
                kernel = neighbours[case, :, :, row, column].reshape(3, 1, 3, 3)
                whole = F.conv2d(x[case : case + 1], kernel, padding=1, groups=3)
                torch.testing.assert_close(depthwise[part], whole[:, :, rows, columns] / 3)


def test_anchor_gains_a_margin_and_loses_nothing() -> None:
    smoothing = AnchorSmoothing(2)
    x = torch.zeros(1, 2, 17, 17)
    x[0, 0, 8, 8] = 1.0
    y = smoothing(x)
    assert y[0, 0, 8, 8] == 1.0
    assert not y[0, 1].any()
    # A Gaussian of standard deviation 1 around it.
    assert float((y[0, 0, 8, 10] / y[0, 0, 8, 9]).detach()) == pytest.approx(math.exp(-0.5 * 4 + 0.5), rel=1e-5)


def test_medsegdiff_v2_sees_anchor_and_spectra() -> None:
    encoder = AnchorEncoder(3, 8)
    conditioner = AnchorConditioner(encoder)
    denoiser = MedSegDiffV2Denoiser(3, 8, 1, **ANCHOR)
    with torch.no_grad():
        for module in denoiser.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.any():
                module.weight.normal_(0.0, 0.3)
    x_t, image, t = torch.randn(2, 1, 32, 32), torch.rand(2, 3, 32, 32), torch.tensor([10, 700])
    condition, logits = conditioner.condition_and_mean_mask(image)
    assert condition.shape == (2, 3 + 8 + 1, 32, 32)
    assert torch.equal(condition[:, :3], image)
    assert logits is not None
    assert torch.equal(logits, condition[:, -1:])
    output = denoiser(torch.cat([x_t, condition], dim=1), t)
    assert output.shape == (2, 1, 32, 32)
    output.square().mean().backward()
    unused = [
        key
        for part in (encoder, denoiser)
        for key, weight in part.named_parameters()
        if weight.grad is None or not weight.grad.any()
    ]
    # A linear layer before an instance norm needs no bias, and a bias of the keys shifts all affinities of a query.
    assert [key for key in unused if not key.endswith(".bias")] == []


@pytest.fixture
def probabilistic() -> ProbabilisticUNet:
    return ProbabilisticUNet(1, (8,) * 6, (8, 8), 3, num_samples=4)


def test_samples_belong_to_seed_case_and_number(probabilistic: ProbabilisticUNet) -> None:
    image = torch.rand(2, 1, 32, 32)
    probabilistic.eval()
    both = probabilistic.ensemble_logits(image, 3, seed=1, cases=["a", "b"])
    assert both.shape == (2, 3, 32, 32)
    alone = probabilistic.ensemble_logits(image[1:], 2, seed=1, cases=["b"], chunk_size=1)
    torch.testing.assert_close(both[1:, :2], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(both[0, 0], both[0, 1])
    assert not torch.allclose(alone, probabilistic.ensemble_logits(image[1:], 2, seed=2, cases=["b"]))


def test_divergence_is_that_of_two_gaussians(probabilistic: ProbabilisticUNet) -> None:
    image, masks = torch.rand(2, 1, 32, 32), (torch.rand(2, 2, 32, 32) > 0.5).float()
    with torch.no_grad():
        for encoder, mean, log_std in ((probabilistic.prior, 0.0, 0.0), (probabilistic.posterior, 1.0, math.log(2.0))):
            encoder.to_parameters.weight.zero_()
            encoder.to_parameters.bias[:3] = mean
            encoder.to_parameters.bias[3:] = log_std
    output = ProbabilisticNetwork(probabilistic)(image, masks)
    assert output["logits"].shape == output["target"].shape == (4, 1, 32, 32)
    assert torch.equal(output["target"][1, 0], masks[0, 1])
    # KL(N(1, 4) | N(0, 1)) = (4 + 1 - 1) / 2 - log 2 for each of the three numbers.
    torch.testing.assert_close(output["divergence"], torch.full((4,), 3 * (2.0 - math.log(2.0))))
    loss = EvidenceLoss(divergence_weight=2.0)(output)
    entropy = F.binary_cross_entropy(output["logits"].sigmoid(), output["target"])
    assert float(loss) == pytest.approx(float(entropy) + 2.0 * 3 * (2.0 - math.log(2.0)) / 1024, rel=1e-4)


def test_two_raters_are_two_kinds_of_samples() -> None:
    """One rater marks the left half, the other the right: samples are one or the other, and both occur."""
    rows = torch.linspace(0, 1, 32).expand(4, 1, 32, 32)
    masks = torch.zeros(4, 2, 32, 32)
    masks[:, 0, :, :16] = masks[:, 1, :, 16:] = 1.0
    segmenter = ProbabilisticUNet(1, (8,) * 6, (8, 8), 3)
    network, loss = ProbabilisticNetwork(segmenter), EvidenceLoss()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss(network(rows, masks)).backward()
        optimizer.step()
    samples = segmenter.eval().ensemble_logits(rows[:1], 16)[0] > 0
    left, right = samples[:, :, :16].float().mean((1, 2)), samples[:, :, 16:].float().mean((1, 2))
    assert ((left - right).abs() > 0.9).float().mean() > 0.8
    assert 2 <= int((left > right).sum()) <= 14
