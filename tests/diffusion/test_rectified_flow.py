"""The straight path and its steps, against fields whose walks are known."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler

from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.rectified_flow import RectifiedFlow
from diffrec.diffusion.sampler import Process, ReverseSteps, sample
from diffrec.diffusion.timesteps import FlowTimes
from diffrec.errors import NotFoundError, UsageError


def test_it_is_a_process_with_steps_of_a_scheduler():
    assert isinstance(RectifiedFlow(), Process)
    assert isinstance(RectifiedFlow().reverse_steps(3), ReverseSteps)
    assert isinstance(RectifiedFlow(fixed_start=True).reverse_steps(3), ReverseSteps)


def test_the_path_leads_from_the_data_to_the_noise():
    x0, noise = torch.randn(3, 4), torch.randn(3, 4)
    x_t = RectifiedFlow().corrupt(x0, torch.tensor([0.0, 1.0, 0.25]), noise).x_t
    torch.testing.assert_close(x_t, torch.stack([x0[0], noise[1], 0.75 * x0[2] + 0.25 * noise[2]]))


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_a_grid_of_equal_steps(steps):
    process = RectifiedFlow()
    times = [(steps - place) / steps for place in range(steps)]
    assert process.reverse_steps(steps).timesteps == pytest.approx(times)
    process.scheduler = FlowMatchHeunDiscreteScheduler()
    assert process.reverse_steps(steps).timesteps == pytest.approx(sorted([1.0, *times[1:] * 2], reverse=True))


def test_a_network_that_knows_the_data_gets_there_in_any_number_of_steps():
    start, x0 = torch.randn(5, 4), torch.randn(5, 4)
    for scheduler in (FlowMatchEulerDiscreteScheduler(), FlowMatchHeunDiscreteScheduler()):
        process = RectifiedFlow()
        process.scheduler = scheduler
        for steps in (1, 2, 9):
            torch.testing.assert_close(sample(lambda x, t: x0, process, start, num_inference_steps=steps), x0)


def test_heun_is_of_second_order_and_euler_of_first():
    """x0 = (1 - t) x is the field dx/dt = x, whose walk from 1 to 0 divides by e."""
    start, errors = torch.ones(2, 3), {}
    for name, scheduler in (("euler", FlowMatchEulerDiscreteScheduler()), ("heun", FlowMatchHeunDiscreteScheduler())):
        process = RectifiedFlow()
        process.scheduler = scheduler
        for steps in (5, 10):
            x = sample(lambda x, t: (1 - t) * x, process, start, num_inference_steps=steps)
            errors[name, steps] = float((x - math.exp(-1)).abs().max())
    assert errors["euler", 10] < 0.7 * errors["euler", 5]
    assert errors["heun", 10] < 0.35 * errors["heun", 5]
    assert errors["heun", 5] < errors["euler", 10]


def test_a_fixed_start_gives_the_mean_of_the_outputs():
    outputs = torch.randn(6, 5, 4)
    given, seen = iter(outputs), []

    def network(x, t):
        seen.append(float(t))
        return next(given)

    x = sample(network, RectifiedFlow(fixed_start=True), torch.randn(5, 4), num_inference_steps=6)
    torch.testing.assert_close(x, outputs.mean(0))
    assert seen == pytest.approx([0.999 * (1 - place / 6) for place in range(6)])


def test_the_prior_belongs_to_the_request():
    drawn = RectifiedFlow().prior((4,), RequestNoise.from_keys(torch.arange(9)))
    assert torch.equal(RectifiedFlow().prior((4,), RequestNoise.from_keys(torch.arange(5, 7))), drawn[5:7])


def test_mistakes_are_named():
    for steps in (0, -1):
        with pytest.raises(UsageError, match=f"num_inference_steps must be a whole number from 1, got {steps}"):
            RectifiedFlow().reverse_steps(steps)
    for setting in ("stochastic_sampling", "use_dynamic_shifting", "invert_sigmas"):
        with pytest.raises(UsageError, match=f"cannot be used with {setting}"):
            RectifiedFlow().scheduler = FlowMatchEulerDiscreteScheduler(**{setting: True})
    with pytest.raises(NotFoundError, match=r"no density .modes..*mode"):
        FlowTimes("modes")
    with pytest.raises(UsageError, match="scale must"):
        FlowTimes("mode", scale=3.0)


def test_times_lie_between_the_data_and_the_noise():
    torch.manual_seed(0)
    for density in ("uniform", "mode", "cosmap", "logit_normal"):
        t = FlowTimes(density).draw(20_000, torch.device("cpu")).t
        assert 0 <= t.min() < 0.1
        assert 0.9 < t.max() <= 0.999
        assert t.mean() == pytest.approx(0.4995, abs=0.02)
