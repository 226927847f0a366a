"""The denoiser of DreamRec: one or two linear layers over [x_t, condition, time]."""

from __future__ import annotations

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
