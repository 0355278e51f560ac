"""Samplers against oracles: a denoiser that knows the answer, Gaussian data, and an independent DDIM."""

from __future__ import annotations

import pytest
import torch

from medseglatdiff_monai.diffusion import DiffusionProcess, RectifiedFlow, sample, sampling_timesteps
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.networks import noise_generator


def oracle(process: DiffusionProcess, x_0: torch.Tensor):
    """Denoiser that knows x_0 and answers in the process's own target."""

    def denoise(z_t, timesteps):
        signal, noise = process.coefficients(timesteps, z_t.ndim)
        return process.target(x_0, (z_t - signal * x_0) / noise, timesteps)

    return denoise


def gaussian_denoiser(process: DiffusionProcess, mean: float, std: float):
    """Exact posterior mean of x_0 for data N(mean, std^2), as the process's target."""

    def denoise(z_t, timesteps):
        signal, noise = process.coefficients(timesteps, z_t.ndim)
        gain = signal * std**2 / (signal**2 * std**2 + noise**2)
        x_0 = mean + gain * (z_t - signal * mean)
        return process.target(x_0, (z_t - signal * x_0) / noise, timesteps)

    return denoise


def test_timesteps_start_at_noise_and_are_even():
    assert sampling_timesteps(1000, 4) == [999, 749, 499, 249]
    assert sampling_timesteps(1000, 1) == [999]
    assert sampling_timesteps(1000, 1000) == list(range(999, -1, -1))
    assert sampling_timesteps(1000, 3) == [999, 666, 332]
    with pytest.raises(ValueError, match=r"\[1, 1000\]"):
        sampling_timesteps(1000, 0)
    with pytest.raises(ValueError, match=r"\[1, 1000\]"):
        sampling_timesteps(1000, 1001)


def test_a_process_of_a_single_timestep_has_an_end():
    # Of the cosine schedule it leaves next to no signal; there is no other to choose.
    assert DiffusionProcess(num_train_timesteps=1).sampling_timesteps(1) == [0]


def test_timesteps_that_are_denser_near_noise():
    # By hand: 999 - 299 * (0, 1/9, 4/9, 1).
    assert sampling_timesteps(1000, 4, power=2.0, last_timestep=700) == [999, 966, 866, 700]
    assert sampling_timesteps(1000, 1, power=2.0, last_timestep=700) == [999]
    many = sampling_timesteps(1000, 250, power=2.0, last_timestep=700)
    assert len(set(many)) == 250
    assert many == sorted(many, reverse=True)
    assert (many[0], many[-1]) == (999, 700)
    # Few steps end no later than even ones do.
    assert sampling_timesteps(1000, 4, power=2.0) == [999, 916, 666, 249]
    # More steps than there are timesteps from 700 on: the last one makes room.
    assert sampling_timesteps(1000, 400, power=2.0, last_timestep=700)[-1] == 600
    assert sampling_timesteps(1000, 1000, power=2.0, last_timestep=700) == list(range(999, -1, -1))


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("sampler", ["dpm++", "ddim", "ddpm", "pndm"])
@pytest.mark.parametrize("steps", [1, 2, 7, 10, 50])
@pytest.mark.parametrize(("power", "last"), [(1.0, 0), (2.0, 400)])
def test_oracle_denoiser_recovers_x0(prediction_type, sampler, steps, power, last):
    # Not the cosine schedule: its last step leaves a signal of 5e-5, by which epsilon-prediction would divide.
    process = DiffusionProcess(
        schedule="scaled_linear_beta", prediction_type=prediction_type, timestep_power=power, last_timestep=last
    ).double()
    torch.manual_seed(1)
    x_0 = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    generators = [noise_generator(0, "case", i) for i in range(3)]
    result = sample(oracle(process, x_0), torch.randn_like(x_0), process, steps, sampler, generators)
    torch.testing.assert_close(result, x_0, atol=2e-3, rtol=1e-3)


def test_direct_passes_equal_the_formula():
    process = DiffusionProcess(prediction_type="v_prediction").double()
    noise = torch.randn(2, 6, 3, 3, dtype=torch.float64)
    calls = []

    def model(z_t, t):
        calls.append(int(t[0]))
        return torch.tanh(z_t) * (t.view(-1, 1, 1, 1) / 1000.0)

    result = sample(model, noise, process, 3, "direct")
    alpha, sigma = process.alpha_bar.sqrt(), (1 - process.alpha_bar).sqrt()
    z, x_0 = noise[:, :2], None
    # 30% of 1000 timesteps, in thirds.
    for i, t in enumerate([999, 899, 799]):
        if x_0 is not None:
            z = alpha[t] * x_0 + sigma[t] * noise[:, 2 * i : 2 * i + 2]
        x_0 = alpha[t] * z - sigma[t] * torch.tanh(z) * (t / 1000.0)
    assert calls == [999, 899, 799]
    torch.testing.assert_close(result, x_0, atol=1e-6, rtol=1e-6)
    # One pass is the network's own answer to noise.
    alone = sample(lambda z_t, t: 0.5 * z_t, noise, DiffusionProcess().double(), 1, "direct")
    torch.testing.assert_close(alone, 0.5 * noise)


@pytest.mark.parametrize(
    ("sampler", "steps"), [("dpm++", 25), ("ddim", 100), ("ddpm", 200), ("ddpm", 1000), ("pndm", 100)]
)
def test_gaussian_data_come_out_with_their_mean_and_deviation(sampler, steps):
    process = DiffusionProcess(prediction_type="sample").double()
    torch.manual_seed(2)
    noise = torch.randn(40, 1, 24, 24, dtype=torch.float64)
    generators = [noise_generator(0, "gauss", i) for i in range(40)]
    result = sample(gaussian_denoiser(process, 0.7, 0.3), noise, process, steps, sampler, generators)
    assert float(result.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(result.std()) == pytest.approx(0.3, rel=0.06)


def test_ddim_equals_the_formula_step_for_step():
    process = DiffusionProcess(prediction_type="epsilon", schedule="linear_beta").double()
    torch.manual_seed(3)
    z = torch.randn(2, 1, 3, 3, dtype=torch.float64)
    model = lambda z_t, t: torch.tanh(z_t) * (t.view(-1, 1, 1, 1) / 1000.0)  # noqa: E731
    result = sample(model, z, process, 8, "ddim")
    steps = sampling_timesteps(1000, 8)
    for t, previous in zip(steps, [*steps[1:], None], strict=True):
        eps = torch.tanh(z) * (t / 1000.0)
        a = process.alpha_bar[t]
        b = process.alpha_bar[previous] if previous is not None else torch.tensor(1.0, dtype=torch.float64)
        z = b.sqrt() * (z - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps
    torch.testing.assert_close(result, z, atol=1e-6, rtol=1e-6)


def test_dpm_solver_equals_the_formula_step_for_step():
    """In the paper's own form (arXiv 2211.01095, Eq. 15 and Algorithm 2), with exponentials of the half log SNR."""
    process = DiffusionProcess(prediction_type="v_prediction", timestep_power=2.0, last_timestep=300).double()
    torch.manual_seed(3)
    z = torch.randn(2, 1, 3, 3, dtype=torch.float64)
    model = lambda z_t, t: torch.tanh(z_t) * (t.view(-1, 1, 1, 1) / 1000.0)  # noqa: E731
    result = sample(model, z, process, 6, "dpm++")
    steps = process.sampling_timesteps(6)
    alpha, sigma = process.alpha_bar.sqrt(), (1 - process.alpha_bar).sqrt()
    log_snr = torch.log(alpha / sigma)
    x_0: list[torch.Tensor] = []
    for i, t in enumerate(steps):
        x_0.append(alpha[t] * z - sigma[t] * torch.tanh(z) * (t / 1000.0))
        if i + 1 == len(steps):
            break
        following, h, d = steps[i + 1], log_snr[steps[i + 1]] - log_snr[t], x_0[-1]
        if i:
            r = (log_snr[t] - log_snr[steps[i - 1]]) / h
            d = (1 + 1 / (2 * r)) * x_0[-1] - 1 / (2 * r) * x_0[-2]
        z = sigma[following] / sigma[t] * z - alpha[following] * (torch.exp(-h) - 1) * d
    torch.testing.assert_close(result, x_0[-1], atol=1e-6, rtol=1e-6)


def test_dpm_solver_is_of_second_order_on_gaussian_data():
    process = DiffusionProcess(last_timestep=200).double()
    torch.manual_seed(5)
    noise = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    denoise = gaussian_denoiser(process, 0.7, 0.3)
    exact = sample(denoise, noise, process, 800, "dpm++")

    def error(sampler: str, steps: int) -> float:
        return float((sample(denoise, noise, process, steps, sampler) - exact).abs().mean())

    # Twice the steps: half the error of a method of first order, a quarter of one of second.
    assert 1.8 < error("ddim", 20) / error("ddim", 40) < 2.3
    assert 3.5 < error("dpm++", 20) / error("dpm++", 40) < 4.8
    assert error("dpm++", 10) < 0.3 * error("ddim", 10)


@pytest.mark.parametrize("steps", [10, 1000])
def test_a_sample_does_not_depend_on_its_batch(steps):
    process = DiffusionProcess(prediction_type="sample")
    model = gaussian_denoiser(process, 0.0, 1.0)
    noise = torch.randn(4, 1, 2, 2)
    together = sample(model, noise, process, steps, "ddpm", [noise_generator(0, "c", i) for i in range(4)])
    alone = sample(model, noise[2:3], process, steps, "ddpm", [noise_generator(0, "c", 2)])
    torch.testing.assert_close(together[2:3], alone)


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 25, 50, 250, 1000])
@pytest.mark.parametrize("sampler", ["dpm++", "ddim", "ddpm", "pndm"])
@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_every_number_of_steps_of_the_sweep_recovers_x0(steps, sampler, prediction_type):
    # PLMS extrapolates noise, which the cosine schedule's first step does not show in x0.
    schedule = "linear_beta" if sampler == "pndm" else "cosine"
    process = DiffusionProcess(schedule=schedule, prediction_type=prediction_type).double()
    torch.manual_seed(4)
    x_0 = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    generators = [noise_generator(0, "case", i) for i in range(2)]
    result = sample(oracle(process, x_0), torch.randn_like(x_0), process, steps, sampler, generators)
    torch.testing.assert_close(result, x_0, atol=2e-3, rtol=1e-3)


def test_bad_arguments_are_named():
    process = DiffusionProcess()
    noise = torch.zeros(2, 1, 2, 2)
    with pytest.raises(ValueError, match="sampler must be one of"):
        sample(lambda z, t: z, noise, process, 2, "euler")
    with pytest.raises(ValueError, match="one generator for each of 2"):
        sample(lambda z, t: z, noise, process, 2, "ddpm")
    with pytest.raises(ValueError, match="choose 500 or 1000"):
        sample(lambda z, t: z, noise, process, 600, "pndm")
    with pytest.raises(ValueError, match="timestep_power must be at least 1"):
        DiffusionProcess(timestep_power=0.9)
    with pytest.raises(ValueError, match=r"last_timestep must be in \[0, 1000\)"):
        DiffusionProcess(last_timestep=1000)
    with pytest.raises(ValueError, match=r"leaves a share of 0\.007 of the signal"):
        DiffusionProcess(schedule="linear_beta", last_timestep=700)


def test_timesteps_of_the_direct_sampler():
    process = DiffusionProcess()
    assert process.direct_timesteps(1) == [999]
    assert process.direct_timesteps(2) == [999, 849]
    assert process.direct_timesteps(3) == [999, 899, 799]
    assert RectifiedFlow().direct_timesteps(2) == [1000, 850]
    for passes in (0, 301):
        with pytest.raises(InputError, match=rf"'direct' must be in \[1, 300\], found {passes}"):
            process.direct_timesteps(passes)


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
@pytest.mark.parametrize("passes", [1, 2, 5])
def test_direct_recovers_what_an_oracle_knows(prediction_type, passes):
    process = DiffusionProcess(prediction_type=prediction_type)
    x_0 = torch.randn(3, 2, 4, 4)
    found = sample(oracle(process, x_0), torch.randn(3, 2 * passes, 4, 4), process, passes, "direct")
    torch.testing.assert_close(found, x_0, atol=1e-3, rtol=0)


def test_noise_scale_is_for_the_first_pass_of_direct_alone():
    process, noise = DiffusionProcess(), torch.randn(1, 4, 3, 3)
    denoise = lambda z, t: 0.5 * z  # noqa: E731
    first = sample(denoise, noise[:, :2], process, 1, "direct", noise_scale=0.6)
    torch.testing.assert_close(first, 0.3 * noise[:, :2])
    alpha_bar = process.alpha_bar[849]
    second = sample(denoise, noise, process, 2, "direct", noise_scale=0.6)
    torch.testing.assert_close(second, 0.5 * (alpha_bar.sqrt() * first + (1 - alpha_bar).sqrt() * noise[:, 2:]))
    steps = sample(denoise, noise, process, 3, "dpm++")
    torch.testing.assert_close(sample(denoise, noise, process, 3, "dpm++", noise_scale=0.6), steps)


def test_common_noise_is_one_standard_normal_number_in_the_first_pass_of_direct_alone():
    process, noise = DiffusionProcess(), torch.randn(2000, 4, 3, 5)
    seen = []
    denoise = lambda z, t: seen.append(z) or 0.5 * z  # noqa: E731
    sample(denoise, noise, process, 2, "direct", noise_scale=0.6, common_noise=True)
    first, second = seen
    torch.testing.assert_close(first[:, 1], 0.6 * noise[:, 1])
    torch.testing.assert_close(first[:, 0], (noise[:, 0].sum((1, 2), keepdim=True) / 15**0.5).expand(-1, 3, 5))
    # Of 2,000 numbers: 4 deviations of the mean are 0.09, of the deviation 0.06.
    assert first[:, 0, 0, 0].mean().abs() < 0.09
    assert (first[:, 0, 0, 0].std() - 1).abs() < 0.06
    assert second[0, 0].std() > 0.1
    steps = sample(denoise, noise, process, 3, "dpm++")
    torch.testing.assert_close(sample(denoise, noise, process, 3, "dpm++", common_noise=True), steps)


def test_direct_on_a_rectified_flow_is_one_euler_step():
    process, noise = RectifiedFlow(), torch.randn(2, 3, 4, 4)
    denoise = lambda z, t: torch.tanh(z) + t.view(-1, 1, 1, 1) / 1000  # noqa: E731
    found = sample(denoise, noise, process, 1, "direct")
    torch.testing.assert_close(found, sample(denoise, noise, process, 1, "rflow"))


def test_direct_refuses_a_network_that_predicts_noise():
    with pytest.raises(InputError, match="--sampler ddim"):
        sample(lambda z, t: z, torch.randn(1, 1, 4, 4), DiffusionProcess(prediction_type="epsilon"), 1, "direct")
