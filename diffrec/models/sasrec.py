"""SASRec with full cross-entropy: the autoregressive baseline that the diffusion models must meet.

Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, arXiv 1808.09781; official
code github.com/kang205/SASRec (Apache-2.0; nothing is taken from it).

Differs from the original in:
- the loss is the softmax over all items at every position, not binary cross-entropy with one negative
  (the row is named SASRec-CE for that: Klenitskiy and Vasilev, RecSys 2023, show what it is worth);
- pre-norm blocks with a GELU layer of 4 d, no scaling of embeddings by sqrt(d), weights from N(0, .02^2);
- sequences are batched by length and padded on the right, and positions count from the end of the
  window, which gives every item the position it has in the original's left-padded window.
"""

from __future__ import annotations

import torch
from torch import nn

from diffrec.data.batch import Batch
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import UsageError, check_numbers, check_sizes
from diffrec.nn.cross_entropy import cross_entropy_over_items
from diffrec.nn.dropout import Dropout
from diffrec.nn.transformer import CausalTransformer, last_state, places_from_end
from diffrec.recommender import Recommender
from diffrec.spaces.embedding import EmbeddingSpace
from diffrec.typing import Float, History, Scores, Tensor


class SASRec(Recommender):
    """A causal transformer over the history; the score is the inner product with the item table."""

    examples = "next"

    def __init__(
        self,
        num_items: int,
        embedding_size: int = 64,
        num_blocks: int = 2,
        num_heads: int = 2,
        max_history_length: int = 50,
        dropout: float = 0.2,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(num_items, max_history_length)
        check_sizes(embedding_size=embedding_size, num_blocks=num_blocks, num_heads=num_heads)
        check_numbers(low=0.0, high=1.0, dropout=dropout)
        check_numbers(low=0.0, lr=lr, weight_decay=weight_decay)
        if embedding_size % num_heads:
            raise UsageError(f"embedding_size must be a multiple of num_heads, got {embedding_size} and {num_heads}")
        self.items = EmbeddingSpace(num_items, embedding_size, init_std=0.02)
        self.position = nn.Embedding(max_history_length, embedding_size)
        nn.init.normal_(self.position.weight, std=0.02)
        self.transformer = CausalTransformer(embedding_size, num_blocks, num_heads, dropout)
        self.dropout = Dropout(dropout)
        self.lr, self.weight_decay = lr, weight_decay

    def states(self, history: History) -> Float[Tensor, "batch length dim"]:
        """The state after every item."""
        positions = places_from_end(history, self.position.num_embeddings)
        return self.transformer(self.dropout(self.items.encode(history) + self.position(positions)))

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Cross-entropy over all items, averaged over all real positions of the batch."""
        real = batch.target > 0
        states = self.states(batch.history)[real]
        return cross_entropy_over_items(states, self.items.table.weight[1:], batch.target[real] - 1)

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        """Inner products of the last state with every item; nothing is sampled, `noise` is not used."""
        lengths = (history > 0).sum(1).clamp(min=1)
        return self.items.score(last_state(self.states(history), lengths))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
