"""The straight path between noise and a clean vector: rectified flow, also called linear flow matching.

Time t runs over [0, 1]: t = 0 is the clean vector, t = 1 the noise, as diffusers' flow schedulers count (papers on
flow matching often count the other way). Liu et al., "Flow Straight and Fast", ICLR 2023, arXiv 2209.03003; Lipman et
al., "Flow Matching for Generative Modeling", ICLR 2023, arXiv 2210.02747.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.sampler import ReverseSteps, UnscaledSteps
from diffrec.diffusion.schedulers import FLOW_SCHEDULERS, Scheduler, check_scheduler, renoises
from diffrec.diffusion.trajectory import RenoisedSteps, Trajectory
from diffrec.errors import UsageError, check_sizes
from diffrec.typing import Float, Tensor

_STEPS_OF_NONE = 1000  # what a number of steps that is not stated means


@dataclass(frozen=True)
class PathSample:
    """A clean vector, noise, and the point between them at time t. x0, noise, x_t: (batch, dim); t: (batch,)."""

    x0: Float[Tensor, "batch dim"]
    noise: Float[Tensor, "batch dim"]
    t: Float[Tensor, " batch"]
    x_t: Float[Tensor, "batch dim"]


@dataclass(frozen=True)
class VelocitySteps(UnscaledSteps):
    """A fresh flow scheduler of diffusers for a network that tells x0: the `ReverseSteps` of a rectified flow.

    timesteps: the times that the network is told, 1 first; indices: what the scheduler is told at the same place.
    """

    scheduler: Scheduler
    timesteps: list[float]
    indices: Tensor

    def step(
        self,
        output: Float[Tensor, "batch dim"],
        state: Float[Tensor, "batch dim"],
        place: int,
        draw: Callable[[], Tensor] | None,
    ) -> Float[Tensor, "batch dim"]:
        """One step along the velocity (x_t - x0) / t; nothing is drawn on the way."""
        velocity = (state - output) / self.timesteps[place]
        return self.scheduler.step(velocity, self.indices[place], state, return_dict=False)[0]


@dataclass
class FixedStartSteps(UnscaledSteps):
    """The steps of FMRec's code: every velocity is measured from where the walk began, x0 - noise.

    What comes out is the mean of all outputs of the network.
    """

    timesteps: list[float]
    start: Tensor | None = None

    def enter(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """The noise itself, which is kept."""
        self.start = x
        return x

    def step(
        self,
        output: Float[Tensor, "batch dim"],
        state: Float[Tensor, "batch dim"],
        place: int,
        draw: Callable[[], Tensor] | None,
    ) -> Float[Tensor, "batch dim"]:
        """The same share of the way at every place."""
        assert self.start is not None
        return state + (output - self.start) / len(self.timesteps)


class RectifiedFlow(nn.Module):
    """x_t = (1 - t) x0 + t noise, for networks that tell x0.

    Any number of steps is exact: the grid is 1, (n - 1) / n, ... 1 / n. `scheduler` is a template, one of
    `schedulers.FLOW_SCHEDULERS`: Euler asks the network once a step, Heun twice but for the last; those of
    LCM corrupt x0 anew, with noise of the request.
    fixed_start: the steps of FMRec's code instead; shortest: how far from the data they end, and from the noise begin.
    """

    num_train_timesteps = _STEPS_OF_NONE

    def __init__(self, *, fixed_start: bool = False, shortest: float = 1e-3) -> None:
        super().__init__()
        self.fixed_start, self.shortest = fixed_start, shortest
        self.scheduler = cast(Scheduler, FlowMatchEulerDiscreteScheduler())  # it declares lists beside its tensors

    @property
    def scheduler(self) -> Scheduler:
        """Whose steps the reverse loop takes."""
        return self._scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Scheduler) -> None:
        check_scheduler(scheduler, FLOW_SCHEDULERS)
        self._scheduler = scheduler

    def corrupt(
        self,
        x0: Float[Tensor, "batch dim"],
        t: Float[Tensor, " batch"],
        noise: Float[Tensor, "batch dim"] | None = None,
    ) -> PathSample:
        """The point at time t on the way from x0 to noise, which is drawn where it is not given."""
        noise = torch.randn_like(x0) if noise is None else noise
        return PathSample(x0, noise, t, torch.lerp(x0, noise, t[:, None].to(x0.dtype)))

    def prior(self, shape: tuple[int, ...], noise: RequestNoise) -> Float[Tensor, "batch dim"]:
        """A sample of N(0, I) for each request, of the given shape."""
        return noise.normal(math.prod(shape)).unflatten(1, shape)

    def num_steps(self, num_inference_steps: int | None) -> int:
        """How many steps are taken, 1000 where it is None; UsageError for a number below 1."""
        steps = self.num_train_timesteps if num_inference_steps is None else num_inference_steps
        check_sizes(num_inference_steps=steps)
        return steps

    def trajectory(self, num_inference_steps: int | None = None) -> Trajectory:
        """The places of that many steps; UsageError where they are measured from the start."""
        if self.fixed_start:
            raise UsageError("steps that are measured from where the walk began do not follow one trajectory")
        number = self.num_steps(num_inference_steps)
        times = torch.arange(number, 0, -1, dtype=torch.float64) / number
        return Trajectory(times.float(), 1 - times, times)

    def reverse_steps(self, num_inference_steps: int | None = None) -> ReverseSteps:
        """A fresh scheduler for one walk (schedulers keep state)."""
        number = self.num_steps(num_inference_steps)
        if self.fixed_start:
            share = (1 - self.shortest) / number
            return FixedStartSteps([1 - self.shortest - place * share for place in range(number)])
        if renoises(self.scheduler):
            return RenoisedSteps(self.trajectory(number))
        # the flow schedulers' own grid ends at 1 / num_train_timesteps, whatever the number of steps
        scheduler = self.scheduler.from_config(self.scheduler.config, num_train_timesteps=number)
        scheduler.set_timesteps(number)
        times: Sequence[float] = (scheduler.timesteps.double() / number).tolist()
        return VelocitySteps(scheduler, list(times), scheduler.timesteps)
