"""The one causal transformer of the sequence models, on scaled_dot_product_attention."""

from __future__ import annotations

import torch
from torch import nn

from diffrec.nn.dropout import Dropout
from diffrec.typing import Float, History, Int, Tensor


class TransformerBlock(nn.Module):
    """Pre-norm: x + Drop(Attn(LN x)), then x + Drop(FFN(LN x)) with a GELU layer of 4 d."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.attention_dropout = num_heads, dropout
        self.norm_attention, self.norm_feed = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.feed = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.dropout = Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm_attention(x)).chunk(3, dim=-1)
        )
        dropout = self.attention_dropout if self.training else 0.0
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        x = x + self.dropout(self.out(attended.transpose(1, 2).flatten(-2)))
        return x + self.dropout(self.feed(self.norm_feed(x)))


class CausalTransformer(nn.Module):
    """Blocks over right-padded sequences: padding lies behind every real slot, so the causal mask is
    the only mask. Weights start as N(0, init_std^2), biases at 0."""

    def __init__(self, dim: int, num_blocks: int, num_heads: int, dropout: float, init_std: float = 0.02) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[TransformerBlock(dim, num_heads, dropout) for _ in range(num_blocks)])
        self.norm = nn.LayerNorm(dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=init_std)
                nn.init.zeros_(module.bias)

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        return self.norm(self.blocks(x))


def last_state(states: Float[Tensor, "batch length dim"], lengths: torch.Tensor) -> Float[Tensor, "batch dim"]:
    """The state at the last real slot; lengths: (batch,) at least 1."""
    return states[torch.arange(len(states), device=states.device), lengths - 1]


def places_from_end(history: History, window: int) -> Int[Tensor, "batch length"]:
    """Slots of a window whose last one, window - 1, holds the last item; padding has that slot too."""
    sizes = (history > 0).sum(1, keepdim=True)
    return (window - sizes + torch.arange(history.shape[1], device=history.device)).clamp(max=window - 1)
