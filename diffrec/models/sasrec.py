"""SASRec with full cross-entropy: the autoregressive baseline that the diffusion models must meet.

Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, arXiv 1808.09781; official
code github.com/kang205/SASRec (Apache-2.0; nothing is taken from it).

Differs from the original in:
- the loss is the softmax over all items at every position, not binary cross-entropy with one negative
  (the row is named SASRec-CE for that: Klenitskiy and Vasilev, RecSys 2023, show what it is worth);
- pre-norm blocks with a GELU layer of 4 d, no scaling of embeddings by sqrt(d), weights from N(0, .02^2);
- sequences are batched by length and padded on the right, and positions count from the end of the
  window, which gives every item the position it has in the original's left-padded window.

`SASRecSS` is the same with a softmax over the target and some negatives. `SASRecBCE` has the loss and the blocks of
the original, which old tables show; of the above it differs in the last point and the initial weights only, and a
negative may be an item of the user's own.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from diffrec.errors import check_sizes
from diffrec.next_item import NextItemRecommender
from diffrec.nn.dropout import Dropout
from diffrec.nn.positions import PositionsFromEnd
from diffrec.nn.sampled_losses import binary_cross_entropy, sampled_softmax, uniform_negatives
from diffrec.nn.transformer import CausalTransformer, PublishedTransformer, check_blocks
from diffrec.spaces.embedding import EmbeddingSpace
from diffrec.typing import Float, History, Int, Tensor


class SASRec(NextItemRecommender):
    """A causal transformer over the history; the score is the inner product with the item table."""

    blocks: ClassVar[type[CausalTransformer | PublishedTransformer]] = CausalTransformer

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
        super().__init__(num_items, max_history_length, lr, weight_decay)
        check_blocks(embedding_size, num_blocks, num_heads, dropout)
        self.items = EmbeddingSpace(num_items, embedding_size, init_std=0.02)
        self.position = PositionsFromEnd(max_history_length, embedding_size)
        self.transformer = self.blocks(embedding_size, num_blocks, num_heads, dropout)
        self.dropout = Dropout(dropout)

    def states(self, history: History) -> Float[Tensor, "batch length dim"]:
        """The state after every item."""
        return self.transformer(self.dropout(self.items.encode(history) + self.position(history > 0)))


class SASRecSS(SASRec):
    """SASRec with a softmax over the target and `num_negatives` items drawn uniformly for every position."""

    def __init__(
        self,
        num_items: int,
        embedding_size: int = 64,
        num_blocks: int = 1,
        num_heads: int = 1,
        max_history_length: int = 50,
        num_negatives: int = 256,
        dropout: float = 0.2,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            num_items, embedding_size, num_blocks, num_heads, max_history_length, dropout, lr, weight_decay
        )
        check_sizes(num_negatives=num_negatives)
        self.num_negatives = num_negatives

    def loss_of(self, states: Float[Tensor, "positions dim"], target: Int[Tensor, " positions"]) -> Float[Tensor, ""]:
        """Softmax against negatives of each position's own."""
        return sampled_softmax(*uniform_negatives(*self.compared(states), target - 1, self.num_negatives))


class SASRecBCE(SASRec):
    """SASRec as published: blocks of its own form, each target against one negative."""

    blocks = PublishedTransformer

    def __init__(
        self,
        num_items: int,
        embedding_size: int = 50,
        num_blocks: int = 2,
        num_heads: int = 1,
        max_history_length: int = 50,
        dropout: float = 0.5,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            num_items, embedding_size, num_blocks, num_heads, max_history_length, dropout, lr, weight_decay
        )

    def states(self, history: History) -> Float[Tensor, "batch length dim"]:
        """The state after every item."""
        items = self.items.encode(history)
        return self.transformer(self.dropout(items * items.shape[-1] ** 0.5 + self.position(history > 0)))

    def loss_of(self, states: Float[Tensor, "positions dim"], target: Int[Tensor, " positions"]) -> Float[Tensor, ""]:
        """Binary cross-entropy of the target and of one negative."""
        return binary_cross_entropy(*uniform_negatives(*self.compared(states), target - 1, 1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.parameters(), lr=self.lr, betas=(0.9, 0.98), weight_decay=self.weight_decay, fused=True
        )
