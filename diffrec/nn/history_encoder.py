"""The history encoder of DreamRec, PreferDiff and PreferGrow."""

from __future__ import annotations

import torch
from torch import nn

from diffrec.nn.dropout import Dropout
from diffrec.typing import Bool, Float, Int, Tensor


class SelfAttentionEncoder(nn.Module):
    """One causal attention layer over right-padded item embeddings; the state at the last item.

    In: (batch, length, dim) embeddings and the (batch, length) mask of real slots; out: (batch, dim).
    Queries come from the normalised sequence, keys and values from the sequence as it is, scores are
    divided by the square root of the full width, and the residual goes to the normalised sequence.
    Only the last item asks, for nothing else is read: the original computes every state and drops all but one.
    double_residual: the item itself is added behind the attention, and what comes in behind the feed-forward layer,
    as in PreferDiff. rotary: instead of learned positions, embeddings are rotated by their place in a window whose last
    item is at its end, and norms have no bias, as in PreferGrow.
    """

    def __init__(
        self,
        dim: int,
        max_length: int,
        num_heads: int = 1,
        dropout: float = 0.1,
        double_residual: bool = False,
        rotary: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.num_heads, self.double_residual = dim, num_heads, double_residual
        self.position = None if rotary else nn.Embedding(max_length, dim)
        self.max_length, bias = max_length, not rotary
        self.norm_in, self.norm_mid, self.norm_out = (nn.LayerNorm(dim, bias=bias) for _ in range(3))
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.feed_in, self.feed_out, self.norm_feed = (
            nn.Linear(dim, dim),
            nn.Linear(dim, dim),
            nn.LayerNorm(dim, bias=bias),
        )
        self.dropout, self.attention_dropout = Dropout(dropout), dropout

    def forward(
        self, embedded: Float[Tensor, "batch length dim"], real: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch dim"]:
        if self.position is None:
            placed = rotated(embedded, self.max_length - real.sum(1, keepdim=True))
        else:
            placed = embedded + self.position.weight[: embedded.shape[1]]
        sequence = self.dropout(placed) * real[..., None]
        rows, last = torch.arange(len(real), device=real.device), (real.sum(1) - 1).clamp(min=0)
        item = sequence[rows, last]
        query = self.norm_in(item)
        visible = torch.arange(real.shape[1], device=real.device) <= last[:, None]
        state = self._attend(query, sequence, visible) + query
        if self.double_residual:
            state = state + item
            return self.norm_out(state + self._feed_forward(self.norm_mid(state)) * real[:, :1])
        return self.norm_out(self._feed_forward(self.norm_mid(state)) * real[:, :1])  # 0 for an empty history

    def _attend(self, query: Tensor, sequence: Tensor, visible: Tensor) -> Float[Tensor, "batch dim"]:
        """What the last item (batch, dim) sees of the visible slots (batch, length)."""
        q, k, v = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, query[:, None]), (self.key, sequence), (self.value, sequence))
        )
        dropout = self.attention_dropout if self.training else 0.0
        attended = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=visible[:, None, None], scale=self.dim**-0.5, dropout_p=dropout
        )
        return attended.flatten(1)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.norm_feed(self.dropout(self.feed_out(torch.relu(self.feed_in(x)))) + x)


def rotated(x: Float[Tensor, "batch length dim"], first: Int[Tensor, "batch one"]) -> Float[Tensor, "batch length dim"]:
    """Rotary positions over the whole width: the pair (x_k, x_{k + dim / 2}) is turned by place / 10000^(2 k / dim).

    first: the place of the first slot. Source: Su et al., "RoFormer" (2021).
    """
    half = x.shape[-1] // 2
    places = first + torch.arange(x.shape[1], device=x.device)
    angles = places[..., None] / 10_000 ** (torch.arange(half, device=x.device) / half)
    left, right = x.chunk(2, dim=-1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)
