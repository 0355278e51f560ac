"""The forward process and its conversions, against the formulas written out."""

from __future__ import annotations

import pytest
import torch

from medseglatdiff_monai.diffusion import DiffusionProcess


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_true_target_recovers_x0_and_noise(prediction_type):
    process = DiffusionProcess(prediction_type=prediction_type).double()
    torch.manual_seed(0)
    x_0, eps = torch.randn(2, 6, 3, 4, 4, dtype=torch.float64)
    timesteps = torch.tensor([0, 10, 250, 500, 900, 990])
    z_t = process.add_noise(x_0, eps, timesteps)
    target = process.target(x_0, eps, timesteps)
    torch.testing.assert_close(process.predict_x0(target, z_t, timesteps), x_0, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(process.predict_eps(target, z_t, timesteps), eps, atol=1e-6, rtol=1e-6)


def test_schedule_is_the_product_of_alphas():
    process = DiffusionProcess(schedule="linear_beta", prediction_type="epsilon")
    betas = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    expected = torch.cumprod(1 - betas, 0)
    torch.testing.assert_close(process.alpha_bar.double(), expected, atol=1e-5, rtol=1e-4)


def test_add_noise_has_the_variance_of_equation_3():
    process = DiffusionProcess()
    timesteps = torch.full((200_000,), 500)
    z_t = process.add_noise(torch.full((200_000, 1), 2.0), torch.randn(200_000, 1), timesteps)
    alpha_bar = float(process.alpha_bar[500])
    assert float(z_t.mean()) == pytest.approx(2.0 * alpha_bar**0.5, abs=0.01)
    assert float(z_t.var()) == pytest.approx(1.0 - alpha_bar, abs=0.01)


def test_loss_weight_is_snr_plus_one_capped():
    process = DiffusionProcess(max_loss_weight=5.0)
    timesteps = torch.tensor([5, 500, 999])
    alpha_bar = process.alpha_bar[timesteps]
    expected = (alpha_bar / (1 - alpha_bar) + 1).clamp(max=5.0)
    torch.testing.assert_close(process.loss_weight(timesteps), expected)
    assert DiffusionProcess(prediction_type="epsilon").loss_weight(timesteps).tolist() == [1.0, 1.0, 1.0]


def test_timesteps_are_stratified_and_in_range():
    process = DiffusionProcess()
    drawn = torch.stack([process.draw_timesteps(10, torch.device("cpu")) for _ in range(50)])
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) <= 999
    assert torch.equal((drawn // 100).sort(dim=1).values, torch.arange(10).expand(50, 10))


@pytest.mark.parametrize(
    ("arguments", "message"), [({"prediction_type": "noise"}, "prediction_type"), ({"input_scale": 0}, "input_scale")]
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        DiffusionProcess(**arguments)
