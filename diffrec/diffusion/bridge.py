"""The Brownian bridge between a clean vector and a known end: diffusion that does not start from noise.

A step t = 0..T-1 stands at m = (t + 1) / T of the way: m = 0 is the clean vector, m = 1 the end.
Li et al., "BBDM: Image-to-image Translation with Brownian Bridge Diffusion Models", CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.sampler import Corrupted, UnscaledSteps
from diffrec.diffusion.schedules import steps_of, trailing_timesteps
from diffrec.errors import check_numbers, check_sizes
from diffrec.typing import Float, Int, Tensor


@dataclass(frozen=True)
class BridgeSteps(UnscaledSteps):
    """The way from the end to the clean vector: the `ReverseSteps` of a bridge whose network tells x0.

    timesteps: the visited t, the end first; places: the m of each, and 0 behind the last.
    """

    timesteps: list[int]
    places: list[float]
    variance: float

    def step(
        self,
        output: Float[Tensor, "batch dim"],
        state: Float[Tensor, "batch dim"],
        place: int,
        draw: Callable[[], Tensor] | None,
    ) -> Float[Tensor, "batch dim"]:
        """From m to n < m the bridge between x0 and x_m: mean x0 + (n / m) (x_m - x0), variance 2 s n (m - n) / m."""
        here, there = self.places[place], self.places[place + 1]
        mean = torch.lerp(output, state, there / here)
        if draw is None or there == 0:
            return mean
        return mean + (2 * self.variance * there * (here - there) / here) ** 0.5 * draw()


class BrownianBridge(nn.Module):
    """x_t = (1 - m) x0 + m end + sqrt(2 s m (1 - m)) eps.

    variance: s; 0 is a straight line, the control without noise.
    """

    def __init__(self, num_train_timesteps: int, variance: float) -> None:
        super().__init__()
        check_sizes(num_train_timesteps=num_train_timesteps)
        check_numbers(low=0.0, variance=variance)
        self.num_train_timesteps, self.variance = num_train_timesteps, variance

    def corrupt(
        self,
        x0: Float[Tensor, "batch dim"],
        t: Int[Tensor, " batch"],
        end: Float[Tensor, "batch dim"] | None = None,
        noise: Float[Tensor, "batch dim"] | None = None,
    ) -> Corrupted:
        """A point of the bridge to `end`, to the origin where none is given; eps is drawn where it is not given."""
        end = torch.zeros_like(x0) if end is None else end.to(x0.dtype)
        noise = torch.randn_like(x0) if noise is None else noise
        m = ((t + 1) / self.num_train_timesteps)[:, None]
        deviation = (2 * self.variance * m * (1 - m)).sqrt()
        return Corrupted(x0, t, torch.lerp(x0, end, m) + deviation * noise)

    def prior(self, shape: tuple[int, ...], noise: RequestNoise) -> Float[Tensor, "batch dim"]:
        """The origin: an end that no history tells."""
        return torch.zeros(len(noise.state), *shape, device=noise.state.device)

    def num_steps(self, num_inference_steps: int | None) -> int:
        """How many steps are visited, see `steps_of`."""
        return steps_of(num_inference_steps, self.num_train_timesteps)

    def reverse_steps(self, num_inference_steps: int | None = None) -> BridgeSteps:
        """A trailing grid of that many steps, from the end on; every grid is exact."""
        visited = trailing_timesteps(self.num_train_timesteps, self.num_steps(num_inference_steps))[::-1].tolist()
        places = [(t + 1) / self.num_train_timesteps for t in visited]
        return BridgeSteps(visited, [*places, 0.0], self.variance)
