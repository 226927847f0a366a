"""BERT4Rec: items that are hidden from a sequence are guessed from both sides; the next one is guessed from the left.

Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer", CIKM
2019, arXiv 1904.06690; official code github.com/FeiSun/BERT4Rec (Apache-2.0; nothing is taken from it). How long it has
to be trained: Petrov and Macdonald, "A Systematic Review and Replicability Study of BERT4Rec for Sequential
Recommendation", RecSys 2022, arXiv 2207.07483.

Differs from the original in:
- every epoch hides other items; the original hides ten times beforehand, and once more the last item alone, which is
  what `last_share` stands for;
- training reads the last window of a sequence, the original earlier ones of long sequences too, and hides 20 items at
  most;
- sequences are batched by length and padded on the right, and positions count from the end of the window, which gives
  every item the position it has in the original's left-padded window;
- AdamW at a constant rate, without warm-up.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import pad

from diffrec.data.batch import Batch
from diffrec.errors import check_numbers, check_sizes
from diffrec.lists import last_items
from diffrec.next_item import NextItemRecommender
from diffrec.nn.dropout import Dropout
from diffrec.nn.positions import PositionsFromEnd
from diffrec.nn.transformer import Transformer, TransformerBlock, check_blocks, last_state
from diffrec.spaces.embedding import EmbeddingSpace
from diffrec.typing import Bool, Float, History, Tensor, Vectors


class BERT4Rec(NextItemRecommender):
    """A bidirectional transformer trained by cross-entropy over all items at hidden slots.

    max_history_length: slots of the window; a request fills one with the mark for what comes next, so that it is
    answered from one item less. mask_share: how much of a sequence is hidden, one item at least; last_share: of the
    sequences, those of which only the last item is hidden.
    """

    examples = "history"
    similar_lengths = True

    def __init__(
        self,
        num_items: int,
        embedding_size: int = 64,
        num_blocks: int = 3,
        num_heads: int = 2,
        max_history_length: int = 50,
        mask_share: float = 0.2,
        last_share: float = 0.1,
        dropout: float = 0.2,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(num_items, max_history_length, lr, weight_decay)
        check_sizes(2, max_history_length=max_history_length)
        check_blocks(embedding_size, num_blocks, num_heads, dropout)
        check_numbers(low=0.0, high=1.0, mask_share=mask_share)
        check_numbers(low=0.0, most=1.0, last_share=last_share)
        self.items = EmbeddingSpace(num_items, embedding_size, init_std=0.02)
        self.hidden = nn.Parameter(0.02 * torch.randn(embedding_size))
        self.position = PositionsFromEnd(max_history_length, embedding_size)
        self.norm, self.dropout = nn.LayerNorm(embedding_size), Dropout(dropout)
        blocks = [TransformerBlock(embedding_size, num_heads, dropout, post_norm=True) for _ in range(num_blocks)]
        self.transformer = Transformer(blocks, nn.Identity())
        behind = nn.Linear(embedding_size, embedding_size)
        nn.init.normal_(behind.weight, std=0.02)
        nn.init.zeros_(behind.bias)
        self.head = nn.Sequential(behind, nn.GELU(), nn.LayerNorm(embedding_size))
        self.bias = nn.Parameter(torch.zeros(num_items))
        self.mask_share, self.last_share = mask_share, last_share

    def states(
        self, history: History, hidden: Bool[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch length dim"]:
        """The states of all slots, each of which sees all others. hidden: slots that the mark stands for."""
        real, items = history > 0, self.items.encode(history)
        if hidden is not None:
            real, items = real | hidden, torch.where(hidden[..., None], self.hidden, items)
        return self.transformer(self.dropout(self.norm(items + self.position(real))), real)

    def hide(self, history: History) -> Bool[Tensor, "batch length"]:
        """Which items of each sequence are to be guessed: a share drawn at random, or the last."""
        real = history > 0
        lengths = real.sum(1, keepdim=True)
        order = torch.rand(history.shape, device=history.device).masked_fill(~real, 2.0)
        rank = order.argsort(dim=1).argsort(dim=1)
        count = (lengths * self.mask_share).round().clamp(min=1)
        last = torch.arange(history.shape[1], device=history.device) == lengths - 1
        only_last = torch.rand(len(history), 1, device=history.device) < self.last_share
        return torch.where(only_last, last, (rank < count) & real)

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Cross-entropy of what is hidden."""
        hidden = self.hide(batch.history)
        states = self.states(batch.history, hidden)
        return self.loss_of(self.head(states[hidden]), batch.history[hidden])

    def asking(self, history: History) -> Vectors:
        """The state of the slot behind the last item, which hides what comes next."""
        assert self.max_history_length is not None
        slots = pad(last_items(history, self.max_history_length - 1), (0, 1))
        lengths = (slots > 0).sum(1)
        hidden = torch.arange(slots.shape[1], device=slots.device) == lengths[:, None]
        return self.head(last_state(self.states(slots, hidden), lengths + 1))
