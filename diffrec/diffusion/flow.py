"""Discrete flow matching between a Bernoulli prior and interaction vectors, and its reverse steps.

A step t = 0..T-1 stands at the time s = 1 - (t + 1) / T of the flow: t = T-1 is the prior (s = 0), and the step
after t = 0 is the data (s = 1). Flow matching calls the prior X_0 and the data X_1; here x0 is clean, as everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.special import ndtr

from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.sampler import Corrupted, UnscaledSteps
from diffrec.diffusion.schedules import steps_of
from diffrec.errors import check_sizes
from diffrec.typing import Float, Int, Tensor


@dataclass
class FlowSteps(UnscaledSteps):
    """The last steps of the flow: the `ReverseSteps` of a Bernoulli flow. What is 1 at the start stays 1.

    timesteps: the visited t, s-1..0; given: the vector that the walk started from.
    """

    timesteps: list[int]
    given: Tensor | None = None

    def enter(self, x: Float[Tensor, "batch items"]) -> Float[Tensor, "batch items"]:
        """x itself."""
        self.given = x
        return x

    def step(
        self,
        output: Float[Tensor, "batch items"],
        state: Float[Tensor, "batch items"],
        place: int,
        draw: Callable[[], Tensor] | None,
    ) -> Float[Tensor, "batch items"]:
        """p = x + v / T with the velocity v = (x1_hat - x) / (1 - s); the more likely of 0 and 1, or one drawn by p.

        The last step gives x1_hat itself, which ranks items where p has only two values.
        """
        if place == len(self.timesteps) - 1:
            return output
        p = state + (output - state) / (self.timesteps[place] + 1)  # 1 - s = (t + 1) / T
        level = 0.5 if draw is None else ndtr(draw())
        return ((p > level) | (self.given == 1)).to(state.dtype)


class BernoulliFlow(nn.Module):
    """x_t holds a coordinate of x0 with probability s, else one of the prior, Bernoulli(frequency).

    frequency: (N,) shares of users who have each item, filled by the model; noise=False shows x0 at every t, the
    control without a flow.
    """

    frequency: Tensor

    def __init__(self, num_items: int, num_train_timesteps: int, noise: bool = True) -> None:
        super().__init__()
        check_sizes(num_items=num_items, num_train_timesteps=num_train_timesteps)
        self.num_train_timesteps, self.noise = num_train_timesteps, noise
        self.register_buffer("frequency", torch.zeros(num_items))

    def corrupt(
        self,
        x0: Float[Tensor, "batch items"],
        t: Int[Tensor, " batch"],
        prior: Float[Tensor, "batch items"] | None = None,
        uniform: Float[Tensor, "batch items"] | None = None,
    ) -> Corrupted:
        """x0 where uniform <= s, else the prior; both are drawn where they are not given."""
        if not self.noise:
            return Corrupted(x0, t, x0)
        prior = torch.bernoulli(self.frequency.expand_as(x0)) if prior is None else prior
        uniform = torch.rand_like(x0) if uniform is None else uniform
        s = 1 - (t + 1) / self.num_train_timesteps
        return Corrupted(x0, t, torch.where(uniform <= s[:, None], x0, prior))

    def prior(self, shape: tuple[int, ...], noise: RequestNoise) -> Float[Tensor, "batch items"]:
        """A sample of Bernoulli(frequency) for each request."""
        return (ndtr(noise.normal(math.prod(shape))) < self.frequency).to(self.frequency.dtype)

    def num_steps(self, num_inference_steps: int | None) -> int:
        """How many steps are visited, see `steps_of`."""
        return steps_of(num_inference_steps, self.num_train_timesteps)

    def reverse_steps(self, num_inference_steps: int | None = None) -> FlowSteps:
        """The last `num_inference_steps` of the grid: fewer steps start nearer to the data, not with longer strides."""
        return FlowSteps(list(reversed(range(self.num_steps(num_inference_steps)))))
