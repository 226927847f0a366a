"""Heat on a graph: a vector is smoothed step by step, and the way back refines what was smoothed away.

A step t = 0..T-1 is the time t + 1 of the paper's 1..T; its time 0 is the vector itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.sampler import Corrupted, UnscaledSteps
from diffrec.diffusion.schedules import steps_of, trailing_timesteps
from diffrec.errors import UsageError, check_numbers, check_sizes
from diffrec.typing import Float, Int, Tensor


@dataclass(frozen=True)
class HeatSteps(UnscaledSteps):
    """z_s = F(x0_hat, s) + (sigma_s / sigma_t) (z_t - F(x0_hat, t)): the `ReverseSteps` of heat, none of them noisy.

    timesteps: the visited t, smooth first.
    """

    process: HeatProcess
    timesteps: list[int]

    def enter(self, x: Float[Tensor, "batch items"]) -> Float[Tensor, "batch items"]:
        """F(x, T-1): the walk starts from a clean vector, which is smoothed here."""
        return self.process.mixed(x, self.process.filter(x), self.timesteps[0])

    def step(
        self,
        output: Float[Tensor, "batch items"],
        state: Float[Tensor, "batch items"],
        place: int,
        draw: Callable[[], Tensor] | None,
    ) -> Float[Tensor, "batch items"]:
        """The estimate `output` of x_0, smoothed to the next step, and a share of what it did not explain of z_t."""
        t, s = self.timesteps[place], (*self.timesteps, -1)[place + 1]
        smooth = self.process.filter(output)
        left = state - self.process.mixed(output, smooth, t)
        return self.process.mixed(output, smooth, s) + self.process.decay ** (t - s) * left


class HeatProcess(nn.Module):
    """x_t = F(x_0, t) + sigma_t eps with F(x, t) = x + alpha (t + 1) / T (S x - x).

    sigma_t = noise_scale decay^(T-1-t).

    filter: S, (batch, items) -> (batch, items); alpha: how far the last step has gone, 1 being S x itself;
    decay: the share of noise, and on the way back of what is left unexplained, that one step keeps.
    """

    def __init__(
        self,
        filter: nn.Module,
        num_train_timesteps: int,
        alpha: float = 1.5,
        noise_scale: float = 0.0,
        decay: float = 0.5,
    ) -> None:
        super().__init__()
        check_sizes(num_train_timesteps=num_train_timesteps)
        check_numbers(low=0.0, alpha=alpha, noise_scale=noise_scale, decay=decay)
        self.filter, self.num_train_timesteps = filter, num_train_timesteps
        self.alpha, self.noise_scale, self.decay = alpha, noise_scale, decay

    def mixed(
        self, x: Float[Tensor, "batch items"], smooth: Float[Tensor, "batch items"], t: int | Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch items"]:
        """F(x, t) from x and S x; t = -1 gives x."""
        time = (t + 1).to(x.dtype)[:, None] if isinstance(t, Tensor) else t + 1
        return x.lerp(smooth.to(x.dtype), self.alpha / self.num_train_timesteps * time)

    def corrupt(
        self,
        x0: Float[Tensor, "batch items"],
        t: Int[Tensor, " batch"],
        noise: Float[Tensor, "batch items"] | None = None,
    ) -> Corrupted:
        """x_0 smoothed to step t, and noise where there is any; it is drawn where it is not given."""
        x_t = self.mixed(x0, self.filter(x0), t)
        if self.noise_scale:
            sigma = self.noise_scale * self.decay ** (self.num_train_timesteps - 1 - t).to(x0.dtype)
            x_t = x_t + sigma[:, None] * (torch.randn_like(x0) if noise is None else noise)
        return Corrupted(x0, t, x_t)

    def prior(self, shape: tuple[int, ...], noise: RequestNoise) -> Float[Tensor, "batch items"]:
        """UsageError: heat has no distribution to start from but the vectors it smooths."""
        raise UsageError("heat generates nothing from noise; it starts from the history")

    def num_steps(self, num_inference_steps: int | None) -> int:
        """How many steps are visited, see `steps_of`."""
        return steps_of(num_inference_steps, self.num_train_timesteps)

    def reverse_steps(self, num_inference_steps: int | None = None) -> HeatSteps:
        """A trailing grid of that many steps; each is exact on every grid."""
        visited = trailing_timesteps(self.num_train_timesteps, self.num_steps(num_inference_steps))
        return HeatSteps(self, visited[::-1].tolist())


class SquaredError(nn.Module):
    """Sum over coordinates of (x_0 - output)^2: the network tells x_0."""

    def forward(self, output: Float[Tensor, "batch items"], noised: Corrupted) -> Float[Tensor, " batch"]:
        return (output - noised.x0).square().sum(1)
