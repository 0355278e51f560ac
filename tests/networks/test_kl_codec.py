"""The KL-VAE codec: its loss by hand and by torch.distributions, and the shared codec interface."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_divergence

from medseglatdiff_monai.networks import CodecConditioner, KLCodec
from medseglatdiff_monai.networks.kl_codec import kl_divergence
from medseglatdiff_monai.networks.weights import load_weights, save_tensors
from medseglatdiff_monai.training.losses import CodecLoss


def test_divergence_by_hand_and_by_torch():
    mu, sigma = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [2.0, 1.0]])
    # Case 1: 1/2 + 0. Case 2: (4 - log 4 - 1) / 2 + 4 / 2.
    assert float(kl_divergence(mu, sigma)) == pytest.approx((0.5 + (3 - math.log(4)) / 2 + 2) / 2)
    mu, sigma = torch.randn(3, 2, 4, 4), torch.rand(3, 2, 4, 4) + 0.1
    expected = reference_divergence(Normal(mu, sigma), Normal(0.0, 1.0)).sum((1, 2, 3)).mean()
    torch.testing.assert_close(kl_divergence(mu, sigma), expected)


def test_training_pass_adds_the_weighted_divergence():
    codec = KLCodec(2, 1, (8, 8), 1, 3, kl_weight=0.01).eval()
    x = torch.rand(2, 1, 16, 16)
    output = codec(x)
    mu, sigma = codec.autoencoder.encode(x)
    torch.testing.assert_close(output["quantizer_loss"], 0.01 * kl_divergence(mu, sigma))
    assert torch.equal(codec.encode(x), mu)
    loss = CodecLoss("wce", 5.0, scale=10.0)(output, (x > 0.5).float())
    plain = CodecLoss("wce", 5.0, scale=10.0)({**output, "quantizer_loss": torch.zeros(())}, (x > 0.5).float())
    torch.testing.assert_close(loss - plain, output["quantizer_loss"])


@pytest.mark.parametrize(("channels", "factor"), [((8, 16), 4), ((8, 8, 16), 8)])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_shapes(channels, factor, spatial_dims):
    codec = KLCodec(spatial_dims, 1, channels, 1, embedding_dim=3).eval()
    x = torch.rand(2, 1, *(16,) * spatial_dims)
    assert codec.encode(x).shape == (2, 3, *(16 // factor,) * spatial_dims)
    assert codec.reconstruct(x).shape == x.shape
    assert codec.downsampling == factor
    with pytest.raises(ValueError, match=f"f = {factor}"):
        codec.encode(torch.rand(1, 1, *(15,) * spatial_dims))


def test_latents_are_the_mean_and_training_draws_about_it():
    codec = KLCodec(2, 1, (8,), 1, 2).train()
    x = torch.rand(1, 1, 8, 8)
    assert torch.equal(codec.encode(x), codec.encode(x))
    assert not torch.equal(codec(x)["reconstruction"], codec(x)["reconstruction"])
    assert int(codec.num_latent_updates) == 2
    torch.testing.assert_close(codec.latent_mean, codec.encode(x).mean((0, 2, 3)))
    codec.eval()
    torch.testing.assert_close(codec(x)["reconstruction"] - codec.positive_weight.log(), codec.reconstruct(x))
    assert int(codec.num_latent_updates) == 2


def test_logits_are_corrected_by_log_w():
    corrected = KLCodec(2, 1, (8,), positive_weight=50.0).eval()
    paper = KLCodec(2, 1, (8,), positive_weight=50.0, correct_logits=False).eval()
    paper.load_state_dict(corrected.state_dict())
    z = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(paper.decode(z) - corrected.decode(z), torch.full((2, 1, 16, 16), math.log(50.0)))


def test_encoder_only_shares_weights_and_leaves_the_original_whole(tmp_path):
    codec = KLCodec(2, 1, (8,), 1, 2).eval()
    part = codec.encoder_only()
    x = torch.rand(1, 1, 8, 8)
    assert torch.equal(part.encode(x), codec.encode(x))
    assert codec.reconstruct(x).shape == x.shape
    names = set(part.state_dict())
    assert names < set(codec.state_dict())
    assert not any("decoder" in name or "post_quant" in name or "log_sigma" in name for name in names)
    assert dict(part.named_parameters())["autoencoder.quant_conv_mu.conv.weight"] is (
        codec.autoencoder.quant_conv_mu.conv.weight
    )
    conditioner = CodecConditioner(codec, trainable=True).train()
    conditioner(x).sum().backward()
    # Nothing idle: a distributed wrapper would wait for its gradient.
    assert all(parameter.grad is not None for parameter in conditioner.parameters())
    save_tensors(copy.deepcopy(part).state_dict(), tmp_path / "part.pt")
    assert torch.equal(load_weights(part, tmp_path / "part.pt").encode(x), codec.encode(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"channels": (6, 12)}, r"\(3, 6, 12\)"), ({"kl_weight": -1.0}, "kl_weight"), ({"latent_noise": -1.0}, "noise")],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        KLCodec(**{"channels": (8,), **arguments})
