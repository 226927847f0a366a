"""Places of a walk: that of the scheduler one by one; its end where that is known; the way back with new noise."""

from __future__ import annotations

import pytest
import torch

from diffrec.diffusion.gaussian import GaussianProcess
from diffrec.diffusion.rectified_flow import RectifiedFlow
from diffrec.diffusion.sampler import sample
from diffrec.diffusion.schedulers import with_settings
from diffrec.diffusion.schedules import betas_of, preferdiff_grid
from diffrec.errors import UsageError

PROCESSES = {
    "sample": lambda: GaussianProcess(betas_of("linear", 50), eta=0.0),
    "epsilon": lambda: GaussianProcess(betas_of("linear", 50), "epsilon", eta=0.0),
    "v_prediction": lambda: GaussianProcess(betas_of("cosine", 50), "v_prediction", eta=0.0),
    "told otherwise": lambda: GaussianProcess(betas_of("linear", 50), eta=0.0, grid=preferdiff_grid),
    "flow": RectifiedFlow,
}


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("name", PROCESSES)
def test_place_by_place_it_is_the_walk_of_the_scheduler(name, steps):
    process = PROCESSES[name]()
    way, place = process.trajectory(steps), torch.zeros(4, dtype=torch.long)
    torch.manual_seed(0)
    x, weight = torch.randn(4, 3), 0.3 * torch.randn(3, 3)

    def network(x_t, t):
        return x_t @ weight + (t / 50)[:, None]

    end = sample(network, process, x, num_inference_steps=steps)
    for _ in range(way.num_steps):
        x0, x = way.step(network(x, way.told(place)), x, place)
        place = place + 1
    torch.testing.assert_close(x, end, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(x0, x)


@pytest.mark.parametrize("name", ["sample", "flow"])
def test_it_ends_where_that_of_a_normal_distribution_ends(name):
    """The way from x at a level is mean + std (x - signal mean) / sqrt(signal^2 std^2 + sigma^2)."""
    process, mean, std = PROCESSES[name](), 2.0, 0.5
    way, place = process.trajectory(50 if name == "sample" else 200), torch.zeros(4, dtype=torch.long)
    start = x = torch.tensor([[-1.5], [0.0], [0.3], [2.0]])
    for _ in range(way.num_steps):
        signal, sigma = way.signal[place[0]].item(), way.sigma[place[0]].item()
        known = mean + signal * std**2 / (signal**2 * std**2 + sigma**2) * (x - signal * mean)
        _, x = way.step(known, x, place)
        place = place + 1
    signal, sigma = way.signal[0].item(), way.sigma[0].item()
    end = mean + std * (start - signal * mean) / (signal**2 * std**2 + sigma**2) ** 0.5
    torch.testing.assert_close(x, end, rtol=0, atol=0.03)


def test_a_place_of_its_own_for_each_request():
    way = RectifiedFlow().trajectory(4)
    place, x0, noise = torch.tensor([0, 1, 3]), torch.randn(3, 2), torch.randn(3, 2)
    assert way.told(place).tolist() == [1.0, 0.75, 0.25]
    torch.testing.assert_close(way.noised(x0, noise, place), torch.lerp(x0, noise, way.told(place)[:, None]))


def test_steps_from_where_a_walk_began_are_no_trajectory():
    with pytest.raises(UsageError, match="do not follow one trajectory"):
        RectifiedFlow(fixed_start=True).trajectory(2)


@pytest.mark.parametrize("name", [name for name in PROCESSES if name != "told otherwise"])
def test_steps_of_lcm_corrupt_the_end_anew_with_noise_of_the_request(name):
    """Against the two steps written out; one step is that of the usual scheduler, and so are all without noise."""
    process = PROCESSES[name]()
    usual, lcm = process.scheduler, "FlowMatchLCMScheduler" if name == "flow" else "LCMScheduler"
    torch.manual_seed(0)
    x, weight, noise = torch.randn(4, 3), 0.3 * torch.randn(3, 3), torch.randn(4, 3)

    def network(x_t, t):
        return x_t @ weight + (t / 50)[:, None]

    known = [sample(network, process, x, num_inference_steps=steps) for steps in (1, 3)]
    process.scheduler = with_settings(lcm, {}, usual)
    drawn = [noise]
    again = [sample(network, process, x, num_inference_steps=steps) for steps in (1, 3)]
    torch.testing.assert_close(again, known, rtol=1e-4, atol=1e-4)
    two = sample(network, process, x, num_inference_steps=2, noise=lambda _: drawn.pop())
    way, first, second = process.trajectory(2), torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.long)
    x_t = way.noised(way.clean(network(x, way.told(first)), x, first), noise, second)
    torch.testing.assert_close(two, way.clean(network(x_t, way.told(second)), x_t, second))
    assert not drawn  # nothing is drawn behind the last place
