"""The Brownian bridge: its ends, its moments, and steps that agree with its own marginals."""

from __future__ import annotations

import pytest
import torch

from diffrec.diffusion.bridge import BrownianBridge
from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.sampler import sample
from diffrec.diffusion.timesteps import LateTimesteps
from diffrec.errors import UsageError

ROWS = 40_000


def ends() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([[1.0, -2.0]]).expand(ROWS, 2), torch.tensor([[3.0, 0.5]]).expand(ROWS, 2)


@pytest.mark.parametrize("t", [0, 1, 3])
def test_moments(t):
    bridge, (x0, end) = BrownianBridge(4, variance=0.5), ends()
    torch.manual_seed(0)
    x_t = bridge.corrupt(x0, torch.full((ROWS,), t), end).x_t
    m = (t + 1) / 4
    torch.testing.assert_close(x_t.mean(0), ((1 - m) * x0 + m * end)[0], rtol=0, atol=0.02)
    torch.testing.assert_close(x_t.var(0), torch.full((2,), 2 * 0.5 * m * (1 - m)), rtol=0.03, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_walk_with_the_true_x0_ends_there_and_visits_the_marginals(steps):
    bridge, (x0, end) = BrownianBridge(4, variance=0.5), ends()
    seen = {}

    def tells_x0(x, t):
        seen[int(t)] = x
        return x0

    noise = RequestNoise.from_keys(torch.arange(ROWS))
    torch.testing.assert_close(sample(tells_x0, bridge, end, num_inference_steps=steps, noise=noise.normal), x0)
    assert list(seen) == sorted(seen, reverse=True)
    assert len(seen) == steps
    for t, x in seen.items():
        m = (t + 1) / 4
        torch.testing.assert_close(x.mean(0), ((1 - m) * x0 + m * end)[0], rtol=0, atol=0.02)
        torch.testing.assert_close(x.var(0), torch.full((2,), 2 * 0.5 * m * (1 - m)), rtol=0.04, atol=1e-6)


def test_without_noise_it_is_a_straight_line():
    bridge, (x0, end) = BrownianBridge(4, variance=0.0), ends()
    x_t = bridge.corrupt(x0, torch.full((ROWS,), 1), end).x_t
    torch.testing.assert_close(x_t, (x0 + end) / 2)
    torch.testing.assert_close(bridge.corrupt(x0, torch.full((ROWS,), 1)).x_t, x0 / 2)


def test_steps_outside_of_the_bridge_are_refused():
    with pytest.raises(UsageError, match=r"num_inference_steps must be a whole number in 1\.\.4, got 5"):
        BrownianBridge(4, 0.5).num_steps(5)


@pytest.mark.parametrize("power", [1.0, 3.0])
def test_late_timesteps(power):
    """P(t <= k) = ((k + 1) / T)^power."""
    torch.manual_seed(0)
    draw = LateTimesteps(4, power).draw(ROWS, torch.device("cpu"))
    below = torch.bincount(draw.t, minlength=4).cumsum(0) / ROWS
    torch.testing.assert_close(below, (torch.arange(1, 5) / 4) ** power, rtol=0, atol=0.01)
    assert (draw.weight == 1).all()
