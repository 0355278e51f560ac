"""Classifier-free guidance: the formula by hand, dropout's share, what 0 costs, the trace, and refusals."""

from __future__ import annotations

import pytest
import torch

from medseglatdiff_monai.diffusion import RectifiedFlow
from medseglatdiff_monai.networks import DenoisingNetwork


@pytest.fixture
def count_calls(monkeypatch):
    """Rows of each call of a network's denoiser."""

    def count(network):
        rows, original = [], network.denoiser.forward
        monkeypatch.setattr(network.denoiser, "forward", lambda x, t: rows.append(len(x)) or original(x, t))
        return rows

    return count


def test_guided_output_by_hand(make_segmenter):
    network = make_segmenter(condition_dropout=0.1, guidance_scale=0.3)
    z_t, condition = torch.randn(2, 3, 8, 8), torch.randn(2, 4, 8, 8)
    timesteps = torch.tensor([100, 900])
    with torch.no_grad():
        conditional = network.denoiser(torch.cat([z_t, condition], 1), timesteps)
        unconditional = network.denoiser(torch.cat([z_t, torch.zeros(2, 4, 8, 8)], 1), timesteps)
        guided = network.denoise_guided(z_t, timesteps, condition)
    torch.testing.assert_close(guided, 1.3 * conditional - 0.3 * unconditional, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(guided, conditional, atol=1e-3)


def test_scale_is_applied_when_masks_are_drawn(make_segmenter):
    """A denoiser whose x0 is the condition's first channel, or nothing: guidance multiplies it by 1 + g."""

    class Echo(torch.nn.Module):
        def forward(self, x, timesteps):
            return x[:, 3:4].expand(-1, 3, -1, -1)

    network = make_segmenter(condition_dropout=0.1, guidance_scale=2.0, num_inference_steps=1)
    network.denoiser = Echo()
    seen = []
    network.decode_latents = lambda x_0: seen.append(x_0) or x_0[:, :1]
    image = torch.rand(1, 1, 32, 32)
    network.ensemble_logits(image, 2)
    expected = 3.0 * network.conditioner(image)[:, :1].expand(2, 3, -1, -1)
    torch.testing.assert_close(seen[0], expected)


def test_zero_is_the_plain_network_at_no_cost(make_segmenter, count_calls):
    plain, dropped = make_segmenter(), make_segmenter(condition_dropout=0.5)
    assert plain.state_dict().keys() == dropped.state_dict().keys()

    image = torch.rand(2, 1, 32, 32)
    rows = count_calls(plain)
    logits = plain.ensemble_logits(image, 3)
    assert rows == [6, 6]
    assert torch.equal(dropped.ensemble_logits(image, 3), logits)
    guided = make_segmenter(condition_dropout=0.5, guidance_scale=1.0)
    rows = count_calls(guided)
    assert not torch.equal(guided.ensemble_logits(image, 3), logits)
    assert rows == [12, 12]


def test_dropout_withholds_whole_conditions_in_training_alone(make_segmenter):
    network = make_segmenter(condition_dropout=0.25)
    torch.manual_seed(0)
    kept = network.drop_condition(torch.ones(4000, 2, 2, 2))
    share = kept.flatten(1).mean(1)
    assert set(share.tolist()) == {0.0, 1.0}
    # Five standard deviations.
    assert float(1 - share.mean()) == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 4000) ** 0.5)

    conditions = []
    network.denoiser.register_forward_pre_hook(lambda module, arguments: conditions.append(arguments[0][:, 3:]))
    training = DenoisingNetwork(network)
    image, masks = torch.rand(4, 1, 32, 32), torch.zeros(4, 16, 32, 32)
    training.train()(image, masks)
    training.eval()(image, masks)
    withheld = [int((~condition.flatten(1).any(1)).sum()) for condition in conditions]
    assert 0 < withheld[0] < 64
    assert withheld[1] == 0


def test_no_dropout_draws_no_random_number(make_segmenter):
    network = make_segmenter()
    condition, state = torch.rand(3, 4, 8, 8), torch.get_rng_state()
    assert network.drop_condition(condition) is condition
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("flow", [False, True])
def test_trace_of_a_guided_network(make_segmenter, flow):
    network = make_segmenter(condition_dropout=0.1, guidance_scale=0.5)
    if flow:
        network.process, network.sampler = RectifiedFlow(), "rflow"
    image = torch.rand(1, 1, 32, 32)
    traced = torch.jit.trace(network, image, check_trace=False)
    image = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(traced(image), network(image))
    noise = network.draw_noise(image, 3, 1, [""])
    traced = torch.jit.trace(network, (image, noise), check_trace=False)
    torch.testing.assert_close(traced(image[:1], noise[:1]), network(image[:1], noise[:1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"condition_dropout": 1.0}, r"condition_dropout must be in \[0, 1\)"),
        ({"guidance_scale": -0.1}, "guidance_scale must be at least 0"),
        ({"noise_scale": 0.0}, "noise_scale must be positive, found 0.0"),
        ({"guidance_scale": 0.3}, "needs a network that was trained with condition_dropout"),
    ],
)
def test_bad_arguments_are_named(make_segmenter, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_segmenter(**arguments)
