"""The MLP of FlowCF over whole interaction vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import nn

from diffrec.nn.dropout import Dropout
from diffrec.nn.time_embedding import cosine_sine
from diffrec.nn.wide_linear import wide_linear
from diffrec.typing import Float, Int, Tensor


class FlowMLP(nn.Module):
    """(x_t, t) -> output: linear layers with tanh between them over [x_t, Linear(sinusoid(2 pi s))].

    s = 1 - (t + 1) / T is the time of step t = 0..T-1, 0 at the prior; dims: hidden widths, first to last.
    Dropout acts before every layer. Weights start as N(0, 2 / (fan_in + fan_out)), biases as 0.
    """

    def __init__(
        self,
        dim: int,
        dims: Sequence[int],
        num_train_timesteps: int,
        time_embedding_size: int = 10,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.num_train_timesteps, self.time_embedding_size = num_train_timesteps, time_embedding_size
        self.time = nn.Linear(time_embedding_size, time_embedding_size)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([dim + time_embedding_size, *dims, dim]))
        self.dropout = Dropout(dropout)
        for layer in (self.time, *self.layers):
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x_t: Float[Tensor, "batch dim"], t: Int[Tensor, "#batch"]) -> Float[Tensor, "batch dim"]:
        """t: (batch,), or (1,) where the whole batch is at one step."""
        s = 1 - (t + 1) / self.num_train_timesteps
        time = self.time(cosine_sine(2 * math.pi * s, self.time_embedding_size)).expand(len(x_t), -1)
        first, *others = cast("list[nn.Linear]", list(self.layers))
        z = wide_linear((self.dropout(x_t), self.dropout(time)), first.weight, first.bias)
        for layer in others:
            z = wide_linear((self.dropout(torch.tanh(z)),), layer.weight, layer.bias)
        return z
