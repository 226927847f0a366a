"""The denoiser of DreamRec: one or two linear layers over [x_t, condition, time]."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from diffrec.nn.time_embedding import sine_cosine
from diffrec.typing import Float, Int, Tensor


class ConcatDenoiser(nn.Module):
    """(x_t, t, condition) -> output, all of one width.

    layers 1: Linear(3d -> d); layers 2: Linear(3d -> 2d), GELU, Linear(2d -> d).
    The time vector is Linear(d -> 2d), GELU, Linear(2d -> d) of a sinusoid.
    """

    def __init__(self, dim: int, layers: int = 1) -> None:
        super().__init__()
        self.dim = dim
        self.time = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        wide = [nn.Linear(3 * dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)]
        self.output = nn.Sequential(*wide) if layers == 2 else nn.Sequential(nn.Linear(3 * dim, dim))

    def forward(
        self,
        x_t: Float[Tensor, "batch dim"],
        t: Int[Tensor, "#batch"],
        condition: Float[Tensor, "batch dim"],
    ) -> Float[Tensor, "batch dim"]:
        """t: (batch,), or (1,) where the whole batch is at one step."""
        time = self.time(sine_cosine(t, self.dim)).expand_as(x_t)
        return self.output(torch.cat([x_t, condition, time], dim=1))

    def given(
        self, condition: Float[Tensor, "batch dim"], null: Float[Tensor, "1 dim"] | None, guidance_scale: float
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """(x_t, t) -> output for one request: what the condition and the guidance add is worked out once.

        null: None for no guidance. With one layer the guided output is that for the guided condition.
        """
        first = cast(nn.Linear, self.output[0])
        of_x, of_condition, of_time = first.weight.chunk(3, dim=1)
        if len(self.output) == 1:
            if null is not None:
                condition = null + guidance_scale * (condition - null)
            fixed = torch.addmm(first.bias, condition, of_condition.T)
            return AffineDenoiser(of_x, fixed, lambda t: self.time(sine_cosine(t, self.dim)) @ of_time.T)
        asked = [condition] if null is None else [condition, null]
        fixed = [torch.addmm(first.bias, each, of_condition.T) for each in asked]

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            shared = x_t @ of_x.T + self.time(sine_cosine(t, self.dim)) @ of_time.T
            outputs = [self.output[1:](shared + each) for each in fixed]
            return outputs[0] if null is None else outputs[1] + guidance_scale * (outputs[0] - outputs[1])

        return denoise


class AffineDenoiser:
    """(x_t, t) -> W x_t + fixed + time(t): one layer, for one request. fixed: (batch, dim).

    Steps being linear too, x_0 = P x_T + Q fixed + r for a walk without noise, whoever asks: `compact` lets the loop
    walk the rows of P^T, Q^T and r, as if they were 2 dim + 1 requests. Wide networks would have too many.
    """

    widest = 256

    def __init__(
        self, weight: Float[Tensor, "dim dim"], fixed: Float[Tensor, "batch dim"], time: Callable[[Tensor], Tensor]
    ) -> None:
        self.weight, self.fixed, self.time = weight, fixed, time

    def __call__(self, x_t: Float[Tensor, "batch dim"], t: Int[Tensor, "#batch"]) -> Float[Tensor, "batch dim"]:
        return torch.addmm(self.fixed, x_t, self.weight.T) + self.time(t)

    def compact(self, x: Float[Tensor, "batch dim"], noisy: bool) -> AffineWalk | None:
        """The same on the rows of the map from (x, fixed, 1); None where noise joins on the way, or for wide ones."""
        return None if noisy or x.shape[1] > self.widest else AffineWalk(self, x)


class AffineWalk:
    """The coordinates are P^T, Q^T and r of x_t = P x_T + Q fixed + r, (2 dim + 1, dim)."""

    def __init__(self, denoiser: AffineDenoiser, x: Float[Tensor, "batch dim"]) -> None:
        self.denoiser, self.x = denoiser, x
        identity, none = torch.eye(x.shape[1], dtype=x.dtype, device=x.device), torch.zeros_like(denoiser.weight)
        self.start = torch.cat([identity, none, none[:1]])
        self.added = torch.cat([none, identity])

    def __call__(self, coordinates: Float[Tensor, "rows dim"], t: Int[Tensor, 1]) -> Float[Tensor, "rows dim"]:
        return coordinates @ self.denoiser.weight.T + torch.cat([self.added, self.denoiser.time(t)])

    def noise(self, normal: Callable[[int], Tensor]) -> Float[Tensor, "rows dim"]:
        """There is none."""
        raise NotImplementedError

    def expand(self, coordinates: Float[Tensor, "rows dim"]) -> Float[Tensor, "batch dim"]:
        """x_0 of every request."""
        of_x, of_fixed, rest = coordinates.split([self.x.shape[1]] * 2 + [1])
        return rest + self.x @ of_x + self.denoiser.fixed @ of_fixed
