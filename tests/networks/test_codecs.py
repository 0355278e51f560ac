"""Codecs: sizes, the log w correction, latent statistics, and codecs that learn tiny masks."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.networks import IdentityCodec, KLCodec, VQVAECodec
from medseglatdiff_monai.networks.weights import save_weights
from medseglatdiff_monai.training.checkpoints import StageCheckpoint, start_from_weights
from medseglatdiff_monai.training.losses import CodecLoss


@pytest.mark.parametrize(("channels", "factor"), [((8, 16), 4), ((8, 8, 16), 8)])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_shapes(channels, factor, spatial_dims):
    codec = VQVAECodec(spatial_dims, 1, channels, 1, embedding_dim=3, num_embeddings=16).eval()
    x = torch.rand(2, 1, *(16,) * spatial_dims)
    assert codec.encode(x).shape == (2, 3, *(16 // factor,) * spatial_dims)
    assert codec.reconstruct(x).shape == x.shape
    assert codec.downsampling == factor


def test_size_that_cannot_be_halved_is_refused_with_the_nearest_right_one():
    codec = VQVAECodec(2, 1, (8, 16))
    with pytest.raises(ValueError, match=r"\(30, 64\).*f = 4.*\(32, 64\)"):
        codec.encode(torch.zeros(1, 1, 30, 64))


def test_logits_are_corrected_by_log_w():
    corrected = VQVAECodec(2, 1, (8,), positive_weight=50.0).eval()
    paper = VQVAECodec(2, 1, (8,), positive_weight=50.0, correct_logits=False).eval()
    paper.load_state_dict(corrected.state_dict())
    z = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(paper.decode(z) - corrected.decode(z), torch.full((2, 1, 16, 16), math.log(50.0)))


def test_weighted_cross_entropy_moves_the_optimum_by_log_w():
    # One logit for pixels of which 30% are foreground: the optimum is logit(0.3) + log w.
    target = (torch.arange(10) < 3).float().view(1, 1, 1, 10)
    logit = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([logit], max_iter=100)
    loss = CodecLoss("wce", positive_weight=5.0)

    def closure():
        optimizer.zero_grad()
        value = loss({"reconstruction": logit.expand(1, 1, 1, 10), "quantizer_loss": torch.zeros(())}, target)
        value.backward()
        return value

    optimizer.step(closure)
    assert float(logit) - math.log(5.0) == pytest.approx(math.log(0.3 / 0.7), abs=1e-3)


def test_latent_statistics_standardise_and_survive_the_checkpoint():
    torch.manual_seed(0)
    codec = VQVAECodec(2, 1, (8, 8), embedding_dim=3)
    for _ in range(400):
        codec.update_latent_statistics(torch.randn(8, 3, 8, 8) * torch.tensor([1.0, 2.0, 5.0]).view(1, 3, 1, 1) + 4.0)
    assert codec.latent_mean.tolist() == pytest.approx([4.0, 4.0, 4.0], abs=0.2)
    assert codec.latent_std.tolist() == pytest.approx([1.0, 2.0, 5.0], rel=0.05)
    other = VQVAECodec(2, 1, (8, 8), embedding_dim=3)
    other.load_state_dict(codec.state_dict())
    z = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(other.unstandardize(other.standardize(z)), z)
    assert torch.equal(other.latent_std, codec.latent_std)


def test_latents_are_quantised_only_where_asked():
    torch.manual_seed(0)
    codec = VQVAECodec(2, 1, (8,), embedding_dim=2, num_embeddings=4, quantize_latents=True).eval()
    z = codec.encode(torch.rand(1, 1, 16, 16))
    entries = {tuple(entry.tolist()) for entry in codec.quantizer.embedding}
    assert {tuple(v.tolist()) for v in z.movedim(1, -1).reshape(-1, 2)} <= entries


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positive_weight": 0.0}, "positive_weight must be positive or 'automatic', found 0.0"),
        ({"positive_weight": "auto"}, "found 'auto'"),
        ({"latent_noise": -0.1}, "latent_noise must be at least 0"),
        ({"latent_noise": 0.1}, "continuous latents, and the codec has a codebook of 512"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        VQVAECodec(2, 1, (8,), **arguments)


def test_latent_noise_is_in_units_of_the_latents_deviation():
    codec = VQVAECodec(2, 1, (8,), embedding_dim=2, num_embeddings=0, latent_noise=0.1)
    codec.latent_std.copy_(torch.tensor([1.0, 10.0]))
    torch.manual_seed(0)
    z = torch.zeros(16, 2, 32, 32)
    noisy = codec.add_latent_noise(z, 0.1)
    assert noisy.std((0, 2, 3)).tolist() == pytest.approx([0.1, 1.0], rel=0.03)
    x = torch.rand(1, 1, 8, 8)
    codec.train()
    assert not torch.equal(codec(x)["reconstruction"], codec(x)["reconstruction"])
    codec.eval()
    assert torch.equal(codec(x)["reconstruction"], codec(x)["reconstruction"])


@pytest.mark.parametrize("quantize_decoded", [False, True])
def test_a_decoder_learns_alone_from_the_latents_that_it_decodes(quantize_decoded):
    torch.manual_seed(0)
    codec = VQVAECodec(
        2, 1, (8,), embedding_dim=2, num_embeddings=4, quantize_decoded=quantize_decoded, trainable_encoder=False,
        positive_weight=5.0,
    ).train()  # fmt: skip
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    x = (torch.rand(4, 1, 16, 16) > 0.5).float()
    output = codec(x)
    torch.testing.assert_close(codec.correction(output["reconstruction"]), codec.reconstruct(x))
    optimizer = torch.optim.SGD([value for value in codec.parameters() if value.requires_grad], 0.1)
    CodecLoss("wce", 5.0)(output, x).backward()
    optimizer.step()
    changed = {name for name, value in codec.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("decoder.")}


def test_a_codec_keeps_its_w_when_it_starts_from_weights(tmp_path):
    given, codec = (VQVAECodec(2, 1, (8,), embedding_dim=2, num_embeddings=4, positive_weight=w) for w in (5.0, 2.0))
    save_weights(given, tmp_path / "mask_codec.pt")
    assert start_from_weights(codec, tmp_path / "mask_codec.pt", "mask_codec") == []
    assert codec.positive_weight == 2.0
    names = list(codec.encoder.state_dict())
    assert names
    for name in names:
        torch.testing.assert_close(codec.encoder.state_dict()[name], given.encoder.state_dict()[name].half().float())


def test_an_untrained_encoder_is_not_frozen(tmp_path):
    codec = VQVAECodec(2, 1, (8,), embedding_dim=2, num_embeddings=4, trainable_encoder=False)
    optimizer = torch.optim.SGD(codec.decoder.parameters(), 0.1)
    with pytest.raises(InputError, match="encoder starts from scratch"):
        StageCheckpoint(codec, optimizer, tmp_path / "mask_codec.pt")._restore(None)


def test_encoder_only_shares_weights_and_leaves_the_original_whole():
    codec = VQVAECodec(2, 1, (8,), embedding_dim=2, num_embeddings=4).eval()
    part = codec.encoder_only()
    x = torch.rand(1, 1, 8, 8)
    assert torch.equal(part.encode(x), codec.encode(x))
    assert part.decoder is None
    assert part.quantizer is None
    assert codec.reconstruct(x).shape == x.shape


def test_identity_codec_round_trip():
    codec = IdentityCodec()
    mask = (torch.rand(2, 1, 7, 5) < 0.3).float()
    assert torch.equal((codec.decode(codec.encode(mask)) > 0).float(), mask)


@pytest.mark.parametrize(
    ("make_codec", "steps"),
    [
        (partial(VQVAECodec, num_embeddings=64, codebook_update="ema", codebook_decay=0.95), 150),
        (partial(VQVAECodec, num_embeddings=64, codebook_update="gradient", codebook_decay=0.95), 150),
        (KLCodec, 100),
    ],
    ids=["ema", "gradient", "kl"],
)
def test_codec_learns_tiny_masks(make_codec, steps):
    """A 3-pixel-radius disc is 1% of the image, as lung nodules are: the weighted codec must learn it."""
    torch.manual_seed(0)
    codec = make_codec(2, 1, (16, 32), 1, 8, positive_weight=5.0)
    loss_function = CodecLoss("wce", positive_weight=5.0, scale=10.0)
    optimizer = torch.optim.AdamW(codec.parameters(), lr=3e-3)
    grid = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij"))

    def discs(number):
        centre = torch.rand(number, 2, 1, 1) * 16 + 8
        return ((grid - centre).pow(2).sum(1, keepdim=True) < 9).float()

    for _ in range(steps):
        masks = discs(16)
        optimizer.zero_grad()
        loss_function(codec(masks), masks).backward()
        optimizer.step()
    codec.eval()
    masks = discs(64) > 0
    rebuilt = codec.reconstruct(masks.float()) > 0
    dice = 2 * (rebuilt & masks).sum((1, 2, 3)) / (rebuilt.sum((1, 2, 3)) + masks.sum((1, 2, 3)))
    assert float(dice.mean()) > 0.6
    assert not bool((codec.reconstruct(torch.zeros(1, 1, 32, 32)) > 0).any())
