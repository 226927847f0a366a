"""The denoiser of DiffuRec: a bidirectional transformer over the history, into which x_t is mixed at every slot."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Num
from torch import nn

from diffrec.nn.dropout import Dropout
from diffrec.nn.time_embedding import cosine_sine
from diffrec.typing import Bool, Float, Tensor

Normal = Callable[[int, int], Tensor]


class HistoryBlock(nn.Module):
    """Pre-norm and bidirectional: x + Drop(Attn(LN x)), then x + Drop(FFN(LN x)) with a tanh-GELU layer of 4 d.

    attend_padding: False leaves empty slots out; True is the mask of the original: they are read by all, and
    themselves see every slot alike; dropout behind the block too is the original's. An empty history reads its first,
    empty slot.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float, attend_padding: bool = False) -> None:
        super().__init__()
        self.num_heads, self.attention_dropout, self.attend_padding = num_heads, dropout, attend_padding
        self.norm_attention, self.norm_feed = nn.LayerNorm(dim, eps=1e-12), nn.LayerNorm(dim, eps=1e-12)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.feed_in, self.feed_out = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.dropout = Dropout(dropout)
        for layer in (self.out, self.feed_in, self.feed_out):
            nn.init.xavier_normal_(layer.weight)

    def forward(
        self, x: Float[Tensor, "batch slots dim"], real: Bool[Tensor, "batch slots"]
    ) -> Float[Tensor, "batch slots dim"]:
        q, k, v = self.heads(self.norm_attention(x))
        if self.attend_padding:
            q, visible = q * real[:, None, :, None], None  # a query of zeros scores all slots alike
        else:
            visible = torch.cat([torch.ones_like(real[:, :1]), real[:, 1:]], dim=1)[:, None, None]
        x = x + self.attended(q, k, v, visible)
        x = x + self.fed(self.norm_feed(x))
        return self.dropout(x) if self.attend_padding else x

    def heads(self, x: Float[Tensor, "batch slots dim"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (batch, heads, slots, dim of a head) each."""
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        return q, k, v

    def attended(
        self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, causal: bool = False
    ) -> Float[Tensor, "batch slots dim"]:
        """Drop(Attn)."""
        dropout = self.attention_dropout if self.training else 0.0
        read = nn.functional.scaled_dot_product_attention(q, k, v, visible, dropout, is_causal=causal)
        return self.dropout(self.out(read.transpose(1, 2).flatten(-2)))

    def fed(self, x: Float[Tensor, "batch slots dim"]) -> Float[Tensor, "batch slots dim"]:
        """Drop(FFN(x))."""
        wide = nn.functional.gelu(self.feed_in(x), approximate="tanh")
        return self.dropout(self.feed_out(self.dropout(wide)))


class NoisyHistoryTransformer(nn.Module):
    """(x_t, t, slots) -> the state at the last real slot of blocks over h_i + lambda_i * (x_t + time(t)).

    slots: (batch, length, dim + 1) of a `SlotConditioner`; lambda ~ N(lambda_mean, lambda_std^2) anew for every slot,
    coordinate and call, in training and afterwards. There are no positions. The network is told time_start +
    time_scale t. attend_padding: see `HistoryBlock`.
    """

    def __init__(
        self,
        dim: int,
        num_blocks: int,
        num_heads: int,
        dropout: float,
        lambda_mean: float = 0.001,
        lambda_std: float = 0.001,
        attend_padding: bool = False,
        *,
        time_scale: float,
        time_start: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim, self.time_scale, self.time_start = dim, time_scale, time_start
        self.lambda_mean, self.lambda_std = lambda_mean, lambda_std
        self.time = nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))
        self.blocks = nn.ModuleList(HistoryBlock(dim, num_heads, dropout, attend_padding) for _ in range(num_blocks))
        self.dropout, self.norm = Dropout(dropout), nn.LayerNorm(dim, eps=1e-12)

    def forward(
        self,
        x_t: Float[Tensor, "batch dim"],
        t: Num[Tensor, "#batch"],
        slots: Float[Tensor, "batch slots dim_and_one"],
        normal: Normal | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """t: (batch,), or (1,) where the whole batch is at one step; normal: (slots, dim) -> numbers for lambda."""
        strength = self.strength(x_t, slots.shape[1], normal)
        return self.denoise(x_t, t, slots, strength)

    def drawing(self, normal: Normal) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The same network with lambdas from `normal`."""
        return partial(self, normal=normal)

    def denoise(
        self,
        x_t: Float[Tensor, "batch dim"],
        t: Num[Tensor, "#batch"],
        slots: Float[Tensor, "batch slots dim_and_one"],
        strength: Float[Tensor, "#batch #slots #dim"],
    ) -> Float[Tensor, "batch dim"]:
        """The output for given lambdas."""
        return self.output(self.last_states(x_t, t, slots, strength)[-1])

    def output(self, last: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """What is made of the state behind the last block."""
        return self.norm(self.dropout(last))

    def last_states(
        self,
        x_t: Float[Tensor, "batch dim"],
        t: Num[Tensor, "#batch"],
        slots: Float[Tensor, "batch slots dim_and_one"],
        strength: Float[Tensor, "#batch #slots #dim"],
    ) -> list[Float[Tensor, "batch dim"]]:
        """The state at the last real slot behind every block."""
        states, real = slots[..., :-1], slots[..., -1] > 0
        time = self.time(cosine_sine(self.time_start + self.time_scale * t, self.dim))
        states = states + strength * (x_t + time)[:, None]
        here = (torch.arange(len(states), device=states.device), (real.sum(1) - 1).clamp(min=0))
        behind = []
        for block in self.blocks:
            states = block(states, real)
            behind.append(states[here])
        return behind

    def strength(
        self, x_t: Float[Tensor, "batch dim"], length: int, normal: Normal | None = None
    ) -> Float[Tensor, "#batch #slots #dim"]:
        """Lambda for every slot and coordinate; normal: (slots, dim) -> numbers, None: drawn here."""
        if self.lambda_std == 0:
            return x_t.new_full((1, 1, 1), self.lambda_mean)
        shape = (len(x_t), length, self.dim)
        numbers = torch.randn(shape, device=x_t.device) if normal is None else normal(*shape[1:])
        return self.lambda_mean + self.lambda_std * numbers.to(x_t.dtype)
