"""The composite network: shapes, frozen parts, seeds, gradients, and the trace."""

from __future__ import annotations

import itertools

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet

from medseglatdiff_monai.diffusion import DiffusionProcess
from medseglatdiff_monai.networks import (
    CodecConditioner,
    DenoisingNetwork,
    IdentityCodec,
    LatentDiffusionSegmenter,
    VQVAECodec,
    draw_sample_noise,
    noise_generator,
)
from medseglatdiff_monai.training.losses import DenoisingLoss


def test_forward_is_a_confidence_map_of_thirds(make_segmenter):
    network = make_segmenter(num_samples=3)
    confidence = network(torch.rand(2, 1, 32, 32))
    assert confidence.shape == (2, 1, 32, 32)
    assert set((confidence * 3).round(decimals=4).unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}


def test_forward_takes_the_noise_it_would_draw(make_segmenter):
    network = make_segmenter()
    image = torch.rand(2, 1, 32, 32)
    noise = network.draw_noise(image, 3, 0, [""])
    assert noise.shape == (2, 3, 3, 8, 8)
    assert torch.equal(network(image), network(image, noise))


def test_noise_belongs_to_seed_case_and_sample():
    draw = lambda *key: torch.randn(4, generator=noise_generator(*key))  # noqa: E731
    assert torch.equal(draw(0, "a", 1), draw(0, "a", 1))
    others = [draw(1, "a", 1), draw(0, "b", 1), draw(0, "a", 2)]
    assert not any(torch.equal(draw(0, "a", 1), other) for other in others)


def test_noise_comes_in_opposite_pairs_that_are_independent_and_standard_normal(make_segmenter):
    noise = make_segmenter().draw_noise(torch.rand(1, 1, 64, 64), 9, 3, ["a"])[0].flatten(1)
    assert torch.equal(noise[1::2], -noise[:-1:2])
    noise = noise[::2]
    # 768 numbers each: 4 deviations of a correlation and a mean are 0.14, of a standard deviation 0.10.
    assert torch.corrcoef(noise).triu(1).abs().max() < 0.15
    assert (noise.mean(1).abs() < 0.15).all()
    assert ((noise.std(1) - 1).abs() < 0.11).all()


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 4, 6), (2, 4, 4, 2), (6,)])
def test_the_mean_of_the_first_channel_is_spread_evenly_over_pairs_and_uniform_over_cases(shape):
    def share(case, number):
        noise = draw_sample_noise(shape, 3, case, number)
        return float(torch.special.ndtr(noise[0].double().mean() * noise[0].numel() ** 0.5))

    found = [share("a", number) for number in range(0, 32, 2)]
    steps = [(later - earlier) % 1 for earlier, later in itertools.pairwise(found)]
    # Steps of the golden ratio modulo 1, whatever their number.
    assert steps == pytest.approx([0.6180340] * 15, abs=1e-4)
    over_cases = torch.tensor([share(str(case), 0) for case in range(400)])
    # 4 deviations of the mean of 400 uniform numbers: 0.058.
    assert (over_cases.mean() - 0.5).abs() < 0.058
    assert torch.histc(over_cases, 4, 0, 1).min() > 65


def test_every_number_of_a_samples_noise_is_standard_normal_over_cases():
    noise = torch.stack([draw_sample_noise((2, 2, 3), 3, str(case), 5) for case in range(2000)]).flatten(1)
    # 4 deviations of a mean of 2,000 numbers are 0.09, of a standard deviation 0.063, of a correlation 0.09.
    assert noise.mean(0).abs().max() < 0.09
    assert (noise.std(0) - 1).abs().max() < 0.063
    assert torch.corrcoef(noise.T).triu(1).abs().max() < 0.09


def test_trace_equals_the_network(make_segmenter):
    network = make_segmenter()
    image = torch.rand(1, 1, 32, 32)
    traced = torch.jit.trace(network, image, check_trace=False)
    image = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(traced(image), network(image))


def flip(x: torch.Tensor, symmetry: int) -> torch.Tensor:
    """Rows reversed, columns reversed, transposed: bits 0, 1 and 2."""
    x = x.flip(-2) if symmetry & 1 else x
    x = x.flip(-1) if symmetry & 2 else x
    return x.transpose(-1, -2) if symmetry & 4 else x


@pytest.mark.parametrize(("size", "symmetries"), [((32, 32), (0, 3, 5, 6, 1, 2, 4, 7)), ((32, 24), (0, 3, 1, 2))])
def test_each_sample_sees_image_and_noise_flipped_and_is_flipped_back(make_segmenter, size, symmetries):
    network, plain = make_segmenter(test_time_augmentation=True), make_segmenter()
    plain.load_state_dict(network.state_dict())
    image = torch.rand(2, 1, *size)
    found = network.ensemble_logits(image, 10, 3, ["a", "b"], chunk_size=3)
    noise = plain.draw_noise(image, 10, 3, ["a", "b"])
    for i in range(10):
        symmetry = symmetries[i % len(symmetries)]
        with torch.no_grad():
            expected = plain.sample_logits(plain.conditioner(flip(image, symmetry)), flip(noise[:, i], symmetry))
        torch.testing.assert_close(flip(found[:, i], symmetry), expected.squeeze(1))
    # Fewer samples are the first of many; one image is what it is in a batch.
    torch.testing.assert_close(network.ensemble_logits(image[1:], 5, 3, ["b"])[0], found[1, :5])


def test_forward_flips_as_the_ensemble_does(make_segmenter):
    network = make_segmenter(num_samples=5, test_time_augmentation=True)
    image = torch.rand(2, 1, 32, 32)
    expected = (network.ensemble_logits(image, 5, cases=["", ""]) > 0).float().mean(1, keepdim=True)
    torch.testing.assert_close(network(image), expected)
    traced = torch.jit.trace(network, (image[:1], network.draw_noise(image[:1], 5, 0, [""])), check_trace=False)
    torch.testing.assert_close(traced(image, network.draw_noise(image, 5, 0, [""])), expected)


@pytest.mark.parametrize("trainable", [True, False])
def test_frozen_parts_stay_frozen(make_segmenter, trainable):
    network = make_segmenter(trainable=trainable)
    training = DenoisingNetwork(network).train()
    assert not network.mask_codec.training
    assert network.conditioner.codec.training is trainable
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in training.parameters() if p.requires_grad], lr=0.1)
    output = training(torch.rand(2, 1, 32, 32), (torch.rand(2, 4, 32, 32) < 0.2).float())
    DenoisingLoss()(output).backward()
    optimizer.step()
    after = network.state_dict()
    changed = {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}
    assert changed == ({"denoiser", "conditioner"} if trainable else {"denoiser"})


def test_draws_share_the_condition_and_cover_every_mask(make_segmenter):
    network = make_segmenter()
    masks = (torch.rand(2, 4, 32, 32) < 0.3).float()
    output = DenoisingNetwork(network)(torch.rand(2, 1, 32, 32), masks)
    expected = network.encode_masks(masks.flatten(0, 1)[:, None])
    torch.testing.assert_close(output["target"], expected)
    assert output["prediction"].shape == (8, 3, 8, 8)
    latents = expected.unflatten(0, (2, 4))
    torch.testing.assert_close(DenoisingNetwork(network)(torch.rand(2, 1, 32, 32), masks, latents)["target"], expected)


def test_unequal_downsampling_is_refused():
    conditioner = CodecConditioner(VQVAECodec(2, 1, (8, 8, 8)))
    with pytest.raises(ValueError, match="f = 4 and f = 8"):
        LatentDiffusionSegmenter(VQVAECodec(2, 1, (8, 8)), conditioner, torch.nn.Identity(), DiffusionProcess())


def test_pixel_space_is_the_same_program():
    """Identity codecs for image and mask: EnsembleDiff's arrangement."""
    denoiser = DiffusionModelUNet(
        spatial_dims=2, in_channels=2, out_channels=1, channels=(8, 8), attention_levels=(False, False),
        num_res_blocks=1, num_head_channels=8, norm_num_groups=8,
    )  # fmt: skip
    conditioner = CodecConditioner(IdentityCodec(), trainable=False)
    network = LatentDiffusionSegmenter(IdentityCodec(), conditioner, denoiser, DiffusionProcess(), 2, 2).eval()
    assert network(torch.rand(1, 1, 16, 16)).shape == (1, 1, 16, 16)
