"""The reverse loop: any scheduler, few steps, and the loop in the hidden width."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    UniPCMultistepScheduler,
)

from diffrec.diffusion.gaussian import GaussianProcess
from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.sampler import Guided, sample
from diffrec.diffusion.schedules import linear, linear_variance
from diffrec.errors import UsageError
from diffrec.nn.vector_mlp import VectorMLP

DETERMINISTIC = [
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
]


def network(dims=(16, 8), dim=37):
    torch.manual_seed(0)
    return VectorMLP(dim, dims).eval()


def process_with(scheduler_class, steps=20, prediction_type="sample"):
    process = GaussianProcess(linear(steps, 1e-3, 0.2), prediction_type)
    process.scheduler = scheduler_class.from_config(process.scheduler.config)
    return process


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
@pytest.mark.parametrize("num_steps", [None, 7, 3])
@pytest.mark.parametrize("scheduler_class", DETERMINISTIC)
def test_hidden_width_equals_full_width(scheduler_class, num_steps, prediction_type):
    model, x = network(), torch.randn(5, 37, generator=torch.Generator().manual_seed(1))
    process = process_with(scheduler_class, prediction_type=prediction_type)
    with torch.no_grad():
        full = sample(lambda x, t: model(x, t), process, x, num_inference_steps=num_steps)
        compact = sample(model, process, x, num_inference_steps=num_steps)
    torch.testing.assert_close(compact, full, rtol=1e-3, atol=1e-4 * full.abs().max().item())


@pytest.mark.parametrize("scheduler_class", DETERMINISTIC)
@pytest.mark.parametrize("num_steps", [1, 3, 7, 20])
def test_a_perfect_denoiser_arrives(scheduler_class, num_steps):
    """A network that knows x_0 must end there, on every grid: no off-by-one in the last step."""
    truth = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    start = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
    x = sample(lambda x, t: truth, process_with(scheduler_class), start, num_inference_steps=num_steps)
    torch.testing.assert_close(x, truth, rtol=1e-3, atol=5e-3)


def test_the_network_is_told_the_visited_timesteps():
    seen = []
    process = GaussianProcess(linear(40))
    sample(lambda x, t: seen.append(t.item()) or x, process, torch.zeros(2, 3), num_inference_steps=6)
    assert seen == [39, 32, 26, 19, 12, 6]


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
def test_noise_in_the_hidden_width_has_the_same_distribution(prediction_type):
    """The projected noise W_1 eps is drawn directly, or all of it where x_0 holds it; means and spreads over many draws
    must agree."""
    model, x = network(dims=(6,), dim=9), torch.zeros(1, 9)
    process = GaussianProcess(linear(6, 0.05, 0.4), prediction_type)
    many = x.expand(20_000, 9)
    with torch.no_grad():
        keys = torch.arange(20_000)
        compact = sample(model, process, many, noise=RequestNoise.from_keys(keys, 1).normal)
        full = sample(lambda x, t: model(x, t), process, many, noise=RequestNoise.from_keys(keys, 2).normal)
        quiet = sample(model, process, many)
    spread = full.std(0)
    assert quiet.std(0).max() < 1e-5
    assert spread.min() > 1e-3
    torch.testing.assert_close(compact.std(0), spread, rtol=0.05, atol=0)
    assert ((compact.mean(0) - full.mean(0)).abs() < 0.05 * spread).all()


def test_products_follow_the_weights():
    """The cached product W_1 W_last is recomputed when a weight changes in place."""
    model, process, x = network(), GaussianProcess(linear_variance(5, 0.1, 0.01, 0.5)), torch.rand(3, 37)
    with torch.no_grad():
        before = sample(model, process, x)
        model.layers[-1].weight.mul_(1.5)
        after = sample(model, process, x)
        full = sample(lambda x, t: model(x, t), process, x)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, full, rtol=1e-4, atol=1e-5)


def test_normalised_input_uses_the_full_width():
    model = VectorMLP(11, (5,), normalise=True).eval()
    assert model.compact(torch.rand(2, 11), noisy=False) is None


@pytest.mark.parametrize(
    ("scheduler_class", "settings"),
    [(DDPMScheduler, {}), (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"})],
)
def test_schedulers_that_draw_for_the_batch_are_refused(scheduler_class, settings):
    process = process_with(DDIMScheduler)
    with pytest.raises(UsageError, match="noise that belongs to the request"):
        process.scheduler = scheduler_class.from_config(process.scheduler.config, **settings)


@pytest.mark.parametrize("scheduler_class", [EulerDiscreteScheduler, HeunDiscreteScheduler, LMSDiscreteScheduler])
def test_every_solver_starts_at_the_same_point(scheduler_class):
    """Of first order and from a history, solvers of the same equation agree: the network sees x as it is."""
    seen, process = [], GaussianProcess(linear_variance(40, 0.1, 0.01, 0.5))
    x = torch.rand(3, 8, generator=torch.Generator().manual_seed(1))
    process.scheduler = scheduler_class.from_config(process.scheduler.config)
    sample(lambda x, t: seen.append(x) or x * 0.5, process, x)
    torch.testing.assert_close(seen[0], x, rtol=1e-5, atol=0)


def test_euler_agrees_with_the_first_order_solver():
    model, x = network(), torch.rand(5, 37, generator=torch.Generator().manual_seed(1))
    ends = []
    for solver, settings in ((EulerDiscreteScheduler, {}), (DDIMScheduler, {})):
        process = GaussianProcess(linear_variance(200, 0.1, 0.01, 0.5))
        process.scheduler = solver.from_config(process.scheduler.config, **settings)
        steps = process.reverse_steps()
        state = steps.enter(x)
        with torch.no_grad():
            for place, (t, index) in enumerate(zip(steps.timesteps, steps.indices, strict=True)):
                output = model(steps.model_input(state, place), torch.tensor([t]))
                deterministic = {"eta": 0.0} if solver is DDIMScheduler else {}
                state = steps.scheduler.step(output, index, state, **deterministic, return_dict=False)[0]
        ends.append(state)
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=2e-2 * ends[1].abs().max().item())


def test_pictures_are_not_assumed():
    """A scheduler as diffusers makes it clips to [-1, 1]; here it must not."""
    process = process_with(DDIMScheduler)
    process.scheduler = DDIMScheduler(prediction_type="sample")
    truth = torch.full((2, 3), 5.0)
    assert torch.equal(sample(lambda x, t: truth, process, torch.zeros(2, 3)), truth)


@pytest.mark.parametrize("steps", [0, 21, -1])
def test_number_of_steps_is_checked(steps):
    with pytest.raises(UsageError, match=r"1\.\.20"):
        sample(lambda x, t: x, process_with(DDIMScheduler), torch.zeros(2, 3), num_inference_steps=steps)


def test_guidance():
    denoiser = lambda x, t, c: x + c  # noqa: E731
    condition, null = torch.ones(2, 3), torch.full((1, 3), -1.0)
    x, t = torch.zeros(2, 3), torch.tensor([0])
    assert torch.equal(Guided(denoiser, condition, null, 1.0)(x, t), condition)
    assert torch.equal(Guided(denoiser, condition, null, 3.0)(x, t), -1 + 3 * (condition + 1))


def test_guidance_with_a_timestep_for_each_request():
    denoiser = lambda x, t, c: x + c * t[:, None]  # noqa: E731
    x, t = torch.zeros(2, 3), torch.tensor([1, 5])
    guided = Guided(denoiser, torch.ones(2, 3), torch.zeros(1, 3), 3.0)
    assert torch.equal(guided(x, t), 3.0 * t[:, None].expand(2, 3))


def test_corruption_precision_at_the_scales_of_diffrec():
    """At 1 - alpha_bar = 5e-8 float32 tables would be 19 % off."""
    process = GaussianProcess(linear_variance(5, 1e-4, 5e-4, 5e-3))
    zero, noise = torch.zeros(5, 1), torch.ones(5, 1)
    sigma = process.corrupt(zero, torch.arange(5), noise).x_t[:, 0].double()
    expected = torch.linspace(5e-8, 5e-7, 5, dtype=torch.float64).sqrt()
    torch.testing.assert_close(sigma, expected, rtol=1e-6, atol=0)
