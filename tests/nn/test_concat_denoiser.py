"""DreamRec's denoiser against its formula; golden numbers are in tests/models."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from torch.nn.functional import gelu, linear

from diffrec.diffusion import schedules
from diffrec.diffusion.gaussian import GaussianProcess
from diffrec.diffusion.sampler import Guided, sample
from diffrec.nn.concat_denoiser import ConcatDenoiser
from diffrec.nn.time_embedding import sine_cosine

DIM = 8


def parts(layers: int) -> tuple[ConcatDenoiser, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A denoiser and x_t, t, condition for five requests."""
    torch.manual_seed(layers)
    return ConcatDenoiser(DIM, layers), torch.randn(5, DIM), torch.tensor([0, 3, 3, 40, 999]), torch.randn(5, DIM)


@pytest.mark.parametrize("layers", [1, 2])
def test_linear_layers_over_state_condition_and_time(layers):
    model, x, t, condition = parts(layers)
    state = model.state_dict()

    def layer(name, value):
        return linear(value, state[f"{name}.weight"], state[f"{name}.bias"])

    time = layer("time.2", gelu(layer("time.0", sine_cosine(t, DIM))))
    expected = layer("output.0", torch.cat([x, condition, time], dim=1))
    if layers == 2:
        expected = layer("output.2", gelu(expected))
    torch.testing.assert_close(model(x, t, condition), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layers", [1, 2])
def test_one_step_for_all_is_the_same_step_for_each(layers):
    model, x, _, condition = parts(layers)
    each = model(x, torch.full((5,), 17), condition)
    torch.testing.assert_close(model(x, torch.tensor([17]), condition), each, rtol=1e-6, atol=1e-6)
    assert (model(x, torch.tensor([18]), condition) - each).abs().max() > 1e-4


def test_widths():
    assert [tuple(p.shape) for p in ConcatDenoiser(4).output.parameters()] == [(4, 12), (4,)]
    assert [tuple(p.shape) for p in ConcatDenoiser(4, 2).output.parameters()] == [(8, 12), (8,), (4, 8), (4,)]


@pytest.fixture
def request_of_five():
    """x_T, condition and the null condition."""
    torch.manual_seed(2)
    return torch.randn(5, 8), torch.randn(5, 8), torch.randn(1, 8)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.5])
def test_a_condition_given_once_is_the_same(layers, guidance_scale, request_of_five):
    torch.manual_seed(1)
    network, (x, condition, null) = ConcatDenoiser(8, layers), request_of_five
    expected = Guided(network, condition, null, guidance_scale)
    given = network.given(condition, None if guidance_scale == 1 else null, guidance_scale)
    for t in (torch.tensor([7]), torch.tensor([0, 1, 5, 90, 3])):
        torch.testing.assert_close(given(x, t), expected(x, t), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scheduler", [DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_a_walk_of_one_layer_is_one_map(scheduler, steps, request_of_five, monkeypatch):
    """Whatever the scheduler: the map of the whole walk against the walk of every request, with guidance."""
    torch.manual_seed(1)
    network, (x, condition, null) = ConcatDenoiser(8), request_of_five
    process = GaussianProcess(schedules.linear(20, 1e-3, 0.2))
    process.scheduler = scheduler.from_config(process.scheduler.config)
    given = network.given(condition, null, 3.5)
    mapped = sample(given, process, x, num_inference_steps=steps)
    monkeypatch.setattr(type(given), "widest", 7)
    assert given.compact(x, noisy=False) is None
    walked = sample(given, process, x, num_inference_steps=steps)
    torch.testing.assert_close(mapped, walked, rtol=1e-4, atol=1e-5)


def test_a_walk_with_noise_is_no_map(request_of_five):
    x, condition, null = request_of_five
    assert ConcatDenoiser(8).given(condition, null, 3.5).compact(x, noisy=True) is None
