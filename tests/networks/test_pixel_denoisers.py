"""Denoisers of SegDiff and MedSegDiff: what conditions them, and the learned frequency filter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.networks import DenseImageEncoder, FrequencyParser, MedSegDiffDenoiser, SegDiffDenoiser

SIZES = {
    "channels": (8, 16),
    "num_res_blocks": 1,
    "attention_levels": (False, True),
    "num_head_channels": 8,
    "norm_num_groups": 4,
}


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@torch.no_grad()
def awaken(network: nn.Module) -> nn.Module:
    """MONAI starts some convolutions at zero, which would hide what comes before them."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.any():
            module.weight.normal_(0.0, 0.3)
    return network.eval()


@torch.no_grad()
def test_filter_multiplies_frequencies() -> None:
    parser = FrequencyParser(1, 8)
    x = torch.rand(2, 1, 8, 8)
    weight = torch.zeros_like(parser.weight)
    # The mean alone, doubled.
    weight[..., 0, 0, 0] = 2.0
    parser.weight.copy_(weight)
    torch.testing.assert_close(parser(x), 2 * x.mean((2, 3), keepdim=True).expand_as(x))
    # A linear phase is a cyclic shift by one row.
    rows = np.fft.fftfreq(8)
    phase = np.exp(-2j * np.pi * rows)[:, None] * np.ones(5)
    parser.weight.copy_(torch.view_as_real(torch.tensor(phase)).float()[None])
    torch.testing.assert_close(parser(x), x.roll(1, 2), atol=1e-5, rtol=0)


def test_untrained_filter_passes_features_on() -> None:
    x = torch.randn(1, 3, 16, 16)
    assert float((FrequencyParser(3, 16)(x) - x).std()) < 0.1


def test_filter_names_another_size() -> None:
    with pytest.raises(InputError, match="16×16, found 8×8"):
        FrequencyParser(3, 16)(torch.zeros(1, 3, 8, 8))


def test_medsegdiff_sees_image_and_filter() -> None:
    network = awaken(MedSegDiffDenoiser(1, 3, 16, **SIZES))
    x_t, image, t = torch.randn(2, 1, 16, 16), torch.rand(2, 3, 16, 16), torch.tensor([10, 700])
    output = network(torch.cat([x_t, image], dim=1), t)
    assert output.shape == (2, 1, 16, 16)
    output.square().mean().backward()
    unused = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert unused == []
    # By way of the image encoder as well, and not by the concatenation alone.
    with torch.no_grad():
        for fusion in network.fusions:
            fusion.parser.weight.zero_()
    assert not torch.allclose(network(torch.cat([x_t, image], dim=1), t), output, atol=1e-4)


def test_medsegdiff_needs_sides_that_halve() -> None:
    with pytest.raises(InputError, match="image_size is 17, and 2 levels need a multiple of 2"):
        MedSegDiffDenoiser(1, 1, 17, **SIZES)


def test_segdiff_adds_features_of_image_and_mask() -> None:
    encoder, network = DenseImageEncoder(3, 8, num_blocks=1, growth=4), awaken(SegDiffDenoiser(1, 8, **SIZES))
    x_t, image, t = torch.randn(2, 1, 16, 16), torch.rand(2, 3, 16, 16), torch.tensor([10, 700])
    features = encoder.encode(image)
    assert features.shape == (2, 8, 16, 16)
    assert encoder.downsampling == 1
    output = network(torch.cat([x_t, features], dim=1), t)
    assert output.shape == (2, 1, 16, 16)
    # F(x_t) + G(I): what is taken from the one and given to the other leaves the sum.
    shift = torch.randn(1, 8, 1, 1)
    with torch.no_grad():
        network.embed_mask.bias.sub_(shift.flatten())
    torch.testing.assert_close(network(torch.cat([x_t, features + shift], dim=1), t), output, atol=1e-4, rtol=1e-4)
