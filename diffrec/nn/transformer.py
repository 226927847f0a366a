"""The one transformer of the sequence models, on scaled_dot_product_attention."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from diffrec.errors import UsageError, check_numbers, check_sizes
from diffrec.nn.dropout import Dropout
from diffrec.typing import Bool, Float, Tensor

Slots = Float[Tensor, "batch length dim"]
Visible = Bool[Tensor, "batch length"]


def check_heads(embedding_size: int, num_heads: int) -> None:
    """UsageError where the width cannot be shared out among the heads."""
    if embedding_size % num_heads:
        raise UsageError(f"embedding_size must be a multiple of num_heads, got {embedding_size} and {num_heads}")


def check_blocks(embedding_size: int, num_blocks: int, num_heads: int, dropout: float) -> None:
    """UsageError, by its name, for an argument of which no blocks can be made."""
    check_sizes(embedding_size=embedding_size, num_blocks=num_blocks, num_heads=num_heads)
    check_numbers(low=0.0, high=1.0, dropout=dropout)
    check_heads(embedding_size, num_heads)


def attention(
    q: Float[Tensor, "batch asking dim"],
    k: Slots,
    v: Slots,
    num_heads: int,
    dropout: float = 0.0,
    visible: Visible | None = None,
) -> Float[Tensor, "batch asking dim"]:
    """Softmax attention of all heads, side by side. visible: the slots that are read; None: none behind the own."""
    q, k, v = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in (q, k, v))
    mask = None if visible is None else visible[:, None, None]
    attended = nn.functional.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=visible is None)
    return attended.transpose(1, 2).flatten(-2)


class TransformerBlock(nn.Module):
    """Attention, then a feed-forward layer of 4 d with GELU, each beside a residual.

    Pre-norm: x + Drop(Attn(LN x)), then x + Drop(FFN(LN x)). post_norm: LN(x + Drop(Attn x)), then LN(x + Drop(FFN x)).
    head_size, feed_size: width of a head, and of the layer; None: the heads share d, and 4 d.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        dropout: float,
        attention_dropout: float | None = None,
        post_norm: bool = False,
        head_size: int | None = None,
        feed_size: int | None = None,
    ) -> None:
        super().__init__()
        self.num_heads, self.post_norm = num_heads, post_norm
        self.attention_dropout = dropout if attention_dropout is None else attention_dropout
        self.norm_attention, self.norm_feed = nn.LayerNorm(dim), nn.LayerNorm(dim)
        inner = dim if head_size is None else num_heads * head_size
        feed_size = 4 * dim if feed_size is None else feed_size
        self.qkv, self.out = nn.Linear(dim, 3 * inner), nn.Linear(inner, dim)
        self.feed = nn.Sequential(nn.Linear(dim, feed_size), nn.GELU(), nn.Linear(feed_size, dim))
        self.dropout = Dropout(dropout)

    def forward(self, x: Slots, visible: Visible | None = None) -> Slots:
        """visible: the slots that all read; None: each reads those up to itself."""
        if self.post_norm:
            x = self.mixed(x, visible)
            return self.norm_feed(x + self.dropout(self.feed(x)))
        x = x + self.attended(self.norm_attention(x), visible)
        return x + self.dropout(self.feed(self.norm_feed(x)))

    def mixed(self, x: Slots, visible: Visible | None) -> Slots:
        """The first half of a post-norm block, where slots meet."""
        return self.norm_attention(x + self.attended(x, visible))

    def attended(self, x: Slots, visible: Visible | None) -> Slots:
        """Drop(Attn(x))."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        dropout = self.attention_dropout if self.training else 0.0
        return self.dropout(self.out(attention(q, k, v, self.num_heads, dropout, visible)))


class PublishedBlock(nn.Module):
    """The causal block of SASRec as published in 2018, and of gSASRec: the residuals lie behind the norms.

    y = LN(x); z = LN(y + Attn(y, keys and values: x)); z + Drop(W Drop(ReLU(W z))). The layer is as wide as the
    state, and nothing is behind the heads.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.attention_dropout = num_heads, dropout
        self.norm_attention, self.norm_feed = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.feed = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), Dropout(dropout), nn.Linear(dim, dim), Dropout(dropout)
        )

    def forward(self, x: Slots) -> Slots:
        y = self.norm_attention(x)
        dropout = self.attention_dropout if self.training else 0.0
        z = self.norm_feed(y + attention(self.query(y), self.key(x), self.value(x), self.num_heads, dropout))
        return z + self.feed(z)


class Transformer(nn.Module):
    """Blocks over right-padded sequences, then `norm`. Weights start as N(0, init_std^2), biases at 0."""

    def __init__(self, blocks: Iterable[nn.Module], norm: nn.Module, init_std: float = 0.02) -> None:
        super().__init__()
        self.blocks, self.norm = nn.ModuleList(blocks), norm
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=init_std)
                nn.init.zeros_(module.bias)

    def forward(self, x: Slots, *visible: Visible) -> Slots:
        """visible: the slots that all read; without it padding, which lies behind every real slot, is read by none."""
        for block in self.blocks:
            x = block(x, *visible)
        return self.norm(x)


class CausalTransformer(Transformer):
    """Pre-norm blocks; the causal mask is the only mask."""

    def __init__(self, dim: int, num_blocks: int, num_heads: int, dropout: float, init_std: float = 0.02) -> None:
        blocks = [TransformerBlock(dim, num_heads, dropout) for _ in range(num_blocks)]
        super().__init__(blocks, nn.LayerNorm(dim), init_std)


class PublishedTransformer(Transformer):
    """`PublishedBlock`s, then a norm."""

    def __init__(self, dim: int, num_blocks: int, num_heads: int, dropout: float) -> None:
        super().__init__([PublishedBlock(dim, num_heads, dropout) for _ in range(num_blocks)], nn.LayerNorm(dim))


def last_state(states: Slots, lengths: torch.Tensor) -> Float[Tensor, "batch dim"]:
    """The state at the last real slot; lengths: (batch,) at least 1."""
    return states[torch.arange(len(states), device=states.device), lengths - 1]
