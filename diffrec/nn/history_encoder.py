"""The history encoder of DreamRec, PreferDiff and PreferGrow."""

from __future__ import annotations

import torch
from torch import nn

from diffrec.nn.dropout import Dropout
from diffrec.typing import Bool, Float, Tensor


class SelfAttentionEncoder(nn.Module):
    """One causal attention layer over right-padded item embeddings; the state at the last item.

    In: (batch, length, dim) embeddings and the (batch, length) mask of real slots; out: (batch, dim).
    Queries come from the normalised sequence, keys and values from the sequence as it is, scores are
    divided by the square root of the full width, and the residual goes to the normalised sequence.
    Only the last item asks, for nothing else is read: the original computes every state and drops all but one.
    double_residual: the item itself is added behind the attention, and what comes in behind the feed-forward layer,
    as in PreferDiff.
    """

    def __init__(
        self, dim: int, max_length: int, num_heads: int = 1, dropout: float = 0.1, double_residual: bool = False
    ) -> None:
        super().__init__()
        self.dim, self.num_heads, self.double_residual = dim, num_heads, double_residual
        self.position = nn.Embedding(max_length, dim)
        self.norm_in, self.norm_mid, self.norm_out = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.feed_in, self.feed_out, self.norm_feed = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.LayerNorm(dim)
        self.dropout, self.attention_dropout = Dropout(dropout), dropout

    def forward(
        self, embedded: Float[Tensor, "batch length dim"], real: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch dim"]:
        sequence = self.dropout(embedded + self.position.weight[: embedded.shape[1]]) * real[..., None]
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
