"""The history encoder of DreamRec (and of PreferDiff and PreferGrow, which reuse it)."""

from __future__ import annotations

import torch
from torch import nn

from diffrec.typing import Bool, Float, Tensor


class SelfAttentionEncoder(nn.Module):
    """One causal attention layer over right-padded item embeddings; the state at the last item.

    In: (batch, length, dim) embeddings and the (batch, length) mask of real slots; out: (batch, dim).
    Queries come from the normalised sequence, keys and values from the sequence as it is, scores are
    divided by the square root of the full width, and the residual goes to the normalised sequence.
    """

    def __init__(self, dim: int, max_length: int, num_heads: int = 1, dropout: float = 0.1) -> None:
        super().__init__()
        self.dim, self.num_heads = dim, num_heads
        self.position = nn.Embedding(max_length, dim)
        self.norm_in, self.norm_mid, self.norm_out = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.feed_in, self.feed_out, self.norm_feed = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.LayerNorm(dim)
        self.dropout, self.attention_dropout = nn.Dropout(dropout), dropout

    def forward(
        self, embedded: Float[Tensor, "batch length dim"], real: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch dim"]:
        mask = real[..., None].to(embedded.dtype)
        sequence = self.dropout(embedded + self.position.weight[: embedded.shape[1]]) * mask
        normed = self.norm_in(sequence)
        states = self._attend(normed, sequence) + normed
        states = self._feed_forward(self.norm_mid(states)) * mask
        last = (real.sum(1) - 1).clamp(min=0)
        return self.norm_out(states[torch.arange(len(states), device=last.device), last])

    def _attend(self, queries: Tensor, sequence: Tensor) -> Tensor:
        """Causal attention; slots are right-padded, so no real query ever meets a padded key."""
        q, k, v = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, queries), (self.key, sequence), (self.value, sequence))
        )
        attended = nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=self.dim**-0.5, dropout_p=self.attention_dropout if self.training else 0.0
        )
        return attended.transpose(1, 2).flatten(-2)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.norm_feed(self.dropout(self.feed_out(torch.relu(self.feed_in(x)))) + x)
