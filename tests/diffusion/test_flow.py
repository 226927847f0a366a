"""The Bernoulli flow: its corruption, its prior and what one step does. Its walk is in tests/models/test_flowcf.py."""

from __future__ import annotations

import pytest
import torch

from diffrec.diffusion.flow import BernoulliFlow
from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.sampler import Process, ReverseSteps
from diffrec.errors import UsageError

FREQUENCY = torch.tensor([0.0, 0.1, 0.5, 1.0])


def flow(steps: int = 4, noise: bool = True) -> BernoulliFlow:
    process = BernoulliFlow(4, steps, noise)
    process.frequency.copy_(FREQUENCY)
    return process


def test_it_is_a_process_with_steps_of_its_own():
    assert isinstance(flow(), Process)
    assert isinstance(flow().reverse_steps(), ReverseSteps)


def test_the_first_step_is_the_prior_and_each_later_one_nearer_to_the_data():
    torch.manual_seed(0)
    x0 = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(40_000, 4)
    for t, s in ((3, 0.0), (2, 0.25), (1, 0.5), (0, 0.75)):
        x_t = flow().corrupt(x0, torch.full((40_000,), t)).x_t
        torch.testing.assert_close(x_t.mean(0), s * x0[0] + (1 - s) * FREQUENCY, rtol=0, atol=0.01)
        assert set(x_t.unique().tolist()) <= {0.0, 1.0}


def test_without_noise_the_vector_is_shown_as_it_is():
    x0 = torch.eye(4)
    noised = flow(noise=False).corrupt(x0, torch.arange(4))
    assert torch.equal(noised.x_t, x0)


def test_the_prior_belongs_to_the_request():
    keys = torch.arange(40_000)
    drawn = flow().prior((4,), RequestNoise.from_keys(keys))
    torch.testing.assert_close(drawn.mean(0), FREQUENCY, rtol=0, atol=0.01)
    assert torch.equal(flow().prior((4,), RequestNoise.from_keys(keys[7:9])), drawn[7:9])


def test_fewer_steps_are_the_last_ones():
    assert flow().reverse_steps().timesteps == [3, 2, 1, 0]
    assert flow().reverse_steps(2).timesteps == [1, 0]
    for steps in (0, 5):
        with pytest.raises(UsageError, match=rf"num_inference_steps must be a whole number in 1\.\.4, got {steps}"):
            flow().reverse_steps(steps)


def test_a_step_adds_what_is_likelier_and_keeps_what_was_given():
    """At t = 1 of 4 half of the way is left to go in two strides: p = (x + x1_hat) / 2."""
    x, x1_hat = torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.tensor([[0.2, -0.4, 0.9, 1.2]])
    steps = flow().reverse_steps(2)
    state = steps.enter(x)
    assert torch.equal(steps.step(x1_hat, state, 0, None), torch.tensor([[1.0, 1.0, 0.0, 1.0]]))
    steps.enter(torch.tensor([[0.0, 1.0, 0.0, 0.0]]))  # item 1 was added on the way and may go again
    assert torch.equal(steps.step(x1_hat - 0.5, state, 0, None), torch.tensor([[0.0, 1.0, 0.0, 0.0]]))
    assert steps.step(x1_hat, state, 1, None) is x1_hat


def test_a_step_with_noise_draws_by_the_same_probabilities():
    x, x1_hat = torch.zeros(40_000, 4), torch.tensor([0.0, 0.4, 1.0, 1.6]).expand(40_000, 4)
    steps = flow().reverse_steps(2)
    noise = RequestNoise.from_keys(torch.arange(40_000))
    drawn = steps.step(x1_hat, steps.enter(x), 0, lambda: noise.normal(4))
    torch.testing.assert_close(drawn.mean(0), torch.tensor([0.0, 0.2, 0.5, 0.8]), rtol=0, atol=0.01)
