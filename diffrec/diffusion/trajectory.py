"""The places between noise and x_0 at which a walk stops, where every request may be at a place of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from diffrec.diffusion.sampler import UnscaledSteps
from diffrec.typing import Float, Int, Tensor


@dataclass(frozen=True)
class Trajectory:
    """The N places at which a walk asks the network; behind the last there is x_0.

    t: (N,), what the network is told there, noisy first; signal, sigma: (N,) float64, x_t = signal x_0 + sigma noise;
    prediction_type: what the network tells, in diffusers' words.
    """

    t: Tensor
    signal: Float[Tensor, " places"]
    sigma: Float[Tensor, " places"]
    prediction_type: str = "sample"

    @property
    def num_steps(self) -> int:
        """N."""
        return len(self.t)

    def told(self, place: Int[Tensor, "#batch"]) -> Tensor:
        """What the network is told at these places, of each request or of all."""
        return self.t.to(place.device)[place]

    def noised(self, x0: Tensor, noise: Tensor, place: Int[Tensor, "#batch"]) -> Float[Tensor, "batch dim"]:
        """x_t at these places, from (batch, dim) each; x_0 at place N."""
        signal, sigma = self._levels(place, x0)
        return signal * x0 + sigma * noise

    def clean(self, output: Tensor, x_t: Tensor, place: Int[Tensor, "#batch"]) -> Float[Tensor, "batch dim"]:
        """The x_0 that an output for x_t stands for."""
        signal, sigma = self._levels(place, x_t)
        if self.prediction_type == "epsilon":
            return (x_t - sigma * output) / signal
        return signal * x_t - sigma * output if self.prediction_type == "v_prediction" else output

    def noise(self, x0: Tensor, x_t: Tensor, place: Int[Tensor, "#batch"]) -> Float[Tensor, "batch dim"]:
        """What x_t holds beside x_0."""
        signal, sigma = self._levels(place, x_t)
        return (x_t - signal * x0) / sigma

    def step(self, output: Tensor, x_t: Tensor, place: Int[Tensor, "#batch"]) -> tuple[Tensor, Tensor]:
        """x_0, and the state one place on where its noise stays: the step of DDIM with eta 0 (Song et al., ICLR 2021,
        eq. 12), of a flow that of Euler. (batch, dim) each."""
        x0 = self.clean(output, x_t, place)
        return x0, self.noised(x0, self.noise(x0, x_t, place), place + 1)

    def _levels(self, place: Int[Tensor, "#batch"], x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, 1) each, as x has its numbers."""
        signal, sigma = torch.cat([self.signal, torch.ones(1)]), torch.cat([self.sigma, torch.zeros(1)])
        return signal.to(x)[place, None], sigma.to(x)[place, None]


class RenoisedSteps(UnscaledSteps):
    """Steps of a network that tells the end of the way wherever it is: that end, corrupted anew to the next place.

    Song et al., "Consistency Models", ICML 2023, algorithm 1. The noise is that of the request; a walk without any
    keeps what it has, which are the steps of DDIM with eta 0 or of Euler.
    """

    def __init__(self, way: Trajectory) -> None:
        self.way, self.timesteps = way, way.t.tolist()

    def step(
        self,
        output: Float[Tensor, "batch dim"],
        state: Float[Tensor, "batch dim"],
        place: int,
        draw: Callable[[], Tensor] | None,
    ) -> Float[Tensor, "batch dim"]:
        """One place on; behind the last there is nothing to draw."""
        here = torch.tensor([place], device=state.device)
        x0 = self.way.clean(output, state, here)
        if place == self.way.num_steps - 1:
            return x0
        return self.way.noised(x0, self.way.noise(x0, state, here) if draw is None else draw(), here + 1)
