"""Heat against its equations, written out for one vector in float64."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from diffrec.diffusion.heat import HeatProcess, SquaredError
from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.sampler import Corrupted, sample
from diffrec.errors import UsageError

T, ALPHA, DECAY = 5, 1.5, 0.4


class Dense(nn.Module):
    """x -> x S^T."""

    def __init__(self) -> None:
        super().__init__()
        matrix = np.random.default_rng(0).normal(size=(6, 6))
        self.matrix = torch.from_numpy((matrix + matrix.T) / 6)

    def forward(self, x):
        return x @ self.matrix


@pytest.fixture
def process():
    return HeatProcess(Dense(), T, ALPHA, noise_scale=0.3, decay=DECAY)


@pytest.fixture
def x():
    return torch.from_numpy(np.random.default_rng(1).normal(size=(4, 6)))


def smoothed(process, x, time):
    """F(x, time) of one vector at a time 0..T of the paper."""
    return x + ALPHA * time / T * (process.filter.matrix.numpy() @ x - x)


def test_corruption_is_heat_and_noise(process, x):
    t, noise = torch.tensor([0, 2, 4, 4]), torch.randn(4, 6, dtype=torch.float64)
    got = process.corrupt(x, t, noise)
    for row, time in enumerate((1, 3, 5, 5)):
        sigma = 0.3 * DECAY ** (T - time)
        expected = smoothed(process, x[row].numpy(), time) + sigma * noise[row].numpy()
        np.testing.assert_allclose(got.x_t[row], expected, rtol=1e-12)
    process.noise_scale = 0.0
    assert torch.equal(process.corrupt(x, t, noise).x_t, process.corrupt(x, t).x_t), "nothing is drawn"


@pytest.mark.parametrize(("steps", "times"), [(None, [5, 4, 3, 2, 1, 0]), (2, [5, 2, 0]), (1, [5, 0])])
def test_the_way_back_refines_an_estimate(process, x, steps, times):
    """The network here is any function of what it sees and of t."""

    def network(z, t):
        return torch.tanh(z) / (1 + t)

    got = sample(network, process, x, num_inference_steps=steps)
    for row in range(len(x)):
        z = smoothed(process, x[row].numpy(), T)
        for time, after in pairwise(times):
            estimate = np.tanh(z) / time
            left = DECAY ** (time - after) * (z - smoothed(process, estimate, time))
            z = smoothed(process, estimate, after) + left
        np.testing.assert_allclose(got[row], z, rtol=1e-10)


def test_an_exact_estimate_is_returned_exactly(process, x):
    torch.testing.assert_close(sample(lambda z, t: x, process, x), x, rtol=1e-12, atol=1e-12)


def test_the_objective_is_a_sum(x):
    noised = Corrupted(x, torch.zeros(4, dtype=torch.int64), x)
    torch.testing.assert_close(SquaredError()(x + 2, noised), torch.full((4,), 24.0, dtype=torch.float64))


def test_what_heat_cannot_do_is_refused(process):
    with pytest.raises(UsageError, match=r"num_inference_steps must be a whole number in 1\.\.5, got 6"):
        process.reverse_steps(6)
    with pytest.raises(UsageError, match="heat generates nothing from noise"):
        process.prior((6,), RequestNoise.from_keys(torch.arange(3)))
