"""Rectified flow: the path by hand, and its sampler against an Euler integration written out and against an oracle."""

from __future__ import annotations

import itertools

import pytest
import torch

from medseglatdiff_monai.diffusion import DiffusionProcess, RectifiedFlow, sample


def test_path_and_target_by_hand():
    process = RectifiedFlow(num_train_timesteps=4)
    x_0, eps = torch.full((3, 1, 1, 1), 2.0), torch.full((3, 1, 1, 1), -6.0)
    timesteps = torch.tensor([0, 1, 4])
    # t = 0, 1/4, 1: 2, 2 - 8/4, -6.
    assert process.add_noise(x_0, eps, timesteps).flatten().tolist() == [2.0, 0.0, -6.0]
    assert process.target(x_0, eps, timesteps).flatten().tolist() == [8.0, 8.0, 8.0]
    assert process.loss_weight(timesteps).tolist() == [1.0, 1.0, 1.0]
    z_t = process.add_noise(x_0, eps, timesteps)
    torch.testing.assert_close(process.predict_x0(process.target(x_0, eps, timesteps), z_t, timesteps), x_0)


@pytest.mark.parametrize("dims", [2, 3])
def test_volumes_take_the_same_path(dims):
    process = RectifiedFlow()
    x_0, eps = torch.randn(2, 2, 3, *(4,) * dims)
    z_t = process.add_noise(x_0, eps, torch.tensor([250, 500]))
    torch.testing.assert_close(z_t[1], 0.5 * x_0[1] + 0.5 * eps[1])
    torch.testing.assert_close(z_t[0], 0.75 * x_0[0] + 0.25 * eps[0])


@pytest.mark.parametrize("steps", [1, 2, 5, 7, 10, 25, 30, 50, 250, 1000])
def test_sampler_equals_an_independent_euler_integration(steps):
    """Linear toy: v(z, t) = a z + b t + c, integrated from t = 1 to 0 with dz = -(-v) dt, step for step."""
    a, b, c = -0.7, 0.4, 0.3
    process = RectifiedFlow()
    noise = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    calls = []

    def velocity(z_t, timesteps):
        calls.append(int(timesteps[0]))
        return a * z_t + b * timesteps.view(-1, 1, 1, 1) / 1000 + c

    result = sample(velocity, noise, process, steps, "rflow")
    grid = [round(1000 * (1 - i / steps)) for i in range(steps)] + [0]
    z = noise.clone()
    for now, following in itertools.pairwise(grid):
        z = z + (now - following) / 1000 * (a * z + b * now / 1000 + c)
    torch.testing.assert_close(result, z)
    assert calls == grid[:-1]
    if steps == 1000:
        # The exact solution in s = 1 - t: z' = a z + b (1 - s) + c.
        k = torch.tensor(a, dtype=torch.float64).exp()
        exact = k * noise + (k - 1) / a * (b + c) - b * ((k - 1) / a**2 - 1 / a)
        torch.testing.assert_close(result, exact, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_oracle_velocity_recovers_x0_in_any_number_of_steps(steps):
    process = RectifiedFlow()
    x_0, noise = torch.randn(2, 3, 2, 4, 4)
    # A straight path has one velocity.
    torch.testing.assert_close(sample(lambda z_t, t: x_0 - noise, noise, process, steps, "rflow"), x_0)


@pytest.mark.parametrize("passes", [1, 3])
def test_direct_passes_recover_x0_from_fresh_noise(passes):
    process = RectifiedFlow()
    x_0, noise = torch.randn(2, 2, 4, 4), torch.randn(2, 2 * passes, 4, 4)
    calls = []

    def velocity(z_t, timesteps):
        calls.append(int(timesteps[0]))
        return (x_0 - z_t) / (timesteps.view(-1, 1, 1, 1) / 1000)

    torch.testing.assert_close(sample(velocity, noise, process, passes, "direct"), x_0)
    assert calls == {1: [1000], 3: [1000, 900, 800]}[passes]


def test_timesteps_are_stratified_and_reach_pure_noise():
    # Single precision now and then rounds a draw at the end of its stratum into the next one.
    torch.manual_seed(0)
    process = RectifiedFlow()
    drawn = torch.stack([process.draw_timesteps(1000, torch.device("cpu")) for _ in range(20)])
    assert torch.equal(drawn.sort(dim=1).values, torch.arange(1, 1001).expand(20, 1000))


def test_process_and_sampler_must_fit():
    noise = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="rectified flow, and sampler is 'ddim'"):
        sample(lambda z, t: z, noise, RectifiedFlow(), 2, "ddim")
    with pytest.raises(ValueError, match="'rflow' needs a rectified flow"):
        sample(lambda z, t: z, noise, DiffusionProcess(), 2, "rflow")
    with pytest.raises(ValueError, match=r"\[1, 1000\], found 0"):
        sample(lambda z, t: z, noise, RectifiedFlow(), 0, "rflow")


@pytest.mark.parametrize(
    ("arguments", "message"), [({"num_train_timesteps": 4000}, "num_train_timesteps"), ({"input_scale": 0}, "input_sc")]
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        RectifiedFlow(**arguments)
