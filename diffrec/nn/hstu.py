"""The blocks of HSTU: attention without softmax, gated, with learned biases for distances and times."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd import Function
from torch.nn.functional import layer_norm, silu

from diffrec.nn.dropout import Dropout
from diffrec.nn.transformer import Slots
from diffrec.typing import Float, History, Int, Tensor

_BUCKETS = 129
_LOG_BASE = 0.301  # natural logarithms in units of this: the original's idea of a decimal logarithm
_CELLS_AT_ONCE = 1 << 22
_EPS = 1e-6


def time_buckets(query: History, key: History) -> Int[Tensor, "batch length length"]:
    """floor(ln(max(1, |query - key|)) / .301), at most 128, for the seconds of every pair of slots."""
    seconds = (query[:, :, None] - key[:, None]).abs().clamp(min=1)
    return (seconds.double().log() / _LOG_BASE).floor().long().clamp(max=_BUCKETS - 1)


class _TakenAlike(Function):
    """table[index] for a small table and a large index.

    Its gradient is summed by a matrix product, chunk by chunk: the sums that torch makes of so many equal indices are
    slow on an accelerator where they have to be the same on every run.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.size = len(table)
        return table[index]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        rows = torch.arange(ctx.size, device=grad.device)
        at_once = max(1, _CELLS_AT_ONCE // ctx.size)
        parts = zip(grad.flatten().split(at_once), index.flatten().split(at_once), strict=True)
        return torch.stack([(cells == rows[:, None]).to(part.dtype) @ part for part, cells in parts]).sum(0), None


class RelativeBias(nn.Module):
    """position[query - key], and with times time[bucket], (batch or 1, length, length); for keys up to the query."""

    def __init__(self, window: int, with_times: bool) -> None:
        super().__init__()
        self.position = nn.Parameter(0.02 * torch.randn(window))
        self.time = nn.Parameter(0.02 * torch.randn(_BUCKETS)) if with_times else None

    def forward(self, length: int, buckets: Int[Tensor, "batch length length"] | None) -> Float[Tensor, "b q k"]:
        slots = torch.arange(length, device=self.position.device)
        distances = (slots[:, None] - slots).clamp(min=0)  # those of later keys are never read
        bias = _TakenAlike.apply(self.position, distances)[None]
        return bias if self.time is None else bias + _TakenAlike.apply(self.time, buckets)


class HSTUBlock(nn.Module):
    """x + W_o Drop(u * LN(A v)), A = SiLU(q k^T + bias) / window for keys up to the query, (u, v, q, k) = SiLU(W LN x).

    LN has no weights of its own. window: as many slots as there may be, however many there are.
    """

    def __init__(
        self, dim: int, num_heads: int, key_size: int, value_size: int, window: int, dropout: float, with_times: bool
    ) -> None:
        super().__init__()
        self.num_heads, self.window = num_heads, window
        self.sizes = [num_heads * size for size in (value_size, value_size, key_size, key_size)]
        self.project = nn.Parameter(torch.empty(dim, sum(self.sizes)).normal_(std=0.02))
        self.out = nn.Linear(num_heads * value_size, dim)
        nn.init.xavier_uniform_(self.out.weight)
        self.bias, self.dropout = RelativeBias(window, with_times), Dropout(dropout)

    def forward(self, x: Slots, buckets: Int[Tensor, "batch length length"] | None) -> Slots:
        u, v, q, k = silu(layer_norm(x, x.shape[-1:], eps=_EPS) @ self.project).split(self.sizes, dim=-1)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
        scores = q @ k.transpose(2, 3) + self.bias(x.shape[1], buckets)[:, None]
        attended = (silu(scores) / self.window).tril() @ v
        mixed = attended.transpose(1, 2).flatten(-2)
        return x + self.out(self.dropout(u * layer_norm(mixed, mixed.shape[-1:], eps=_EPS)))
