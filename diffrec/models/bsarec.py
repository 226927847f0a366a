"""BSARec: self-attention that cannot see detail beside a filter that passes it.

Shin et al., "An Attentive Inductive Bias for Sequential Recommendation beyond the Self-Attention", AAAI 2024, arXiv
2312.10325; official code github.com/yehjin-shin/BSARec (nothing is taken from it).

Differs from the original in:
- empty slots of the window are zeros to the filter; in the original they hold states of their own;
- sequences are padded on the right, and positions count from the end of the window, as in the original's left-padded
  one; batches hold examples of similar length;
- weight decay is decoupled (AdamW).

Kept: one example for every prefix, of which the last state is read. The filter mixes the future into every other.
"""

from __future__ import annotations

from torch import nn

from diffrec.data.batch import Batch
from diffrec.errors import check_numbers, check_sizes
from diffrec.next_item import NextItemRecommender
from diffrec.nn.dropout import Dropout
from diffrec.nn.frequency import FrequencyBlock
from diffrec.nn.positions import PositionsFromEnd
from diffrec.nn.transformer import Transformer, check_blocks, last_state
from diffrec.spaces.embedding import EmbeddingSpace
from diffrec.typing import Float, History, Tensor


class BSARec(NextItemRecommender):
    """Blocks of a frequency filter and causal attention, trained by cross-entropy over all items.

    filter_share: alpha, the weight of the filter against the attention; frequencies: how many coefficients of the
    Fourier transform count as low, c // 2 + 1 for the published c; attention_dropout: of the attention weights.
    """

    examples = "prefix"
    similar_lengths = True

    def __init__(
        self,
        num_items: int,
        embedding_size: int = 64,
        num_blocks: int = 2,
        num_heads: int = 1,
        max_history_length: int = 50,
        filter_share: float = 0.7,
        frequencies: int = 3,
        dropout: float = 0.5,
        attention_dropout: float = 0.5,
        lr: float = 5e-4,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(num_items, max_history_length, lr, weight_decay)
        check_blocks(embedding_size, num_blocks, num_heads, dropout)
        check_sizes(frequencies=frequencies)
        check_numbers(low=0.0, high=1.0, attention_dropout=attention_dropout)
        check_numbers(low=0.0, most=1.0, filter_share=filter_share)
        self.items = EmbeddingSpace(num_items, embedding_size, init_std=0.02)
        self.position = PositionsFromEnd(max_history_length, embedding_size)
        self.norm, self.dropout = nn.LayerNorm(embedding_size), Dropout(dropout)
        shape = (embedding_size, num_heads, dropout, attention_dropout, filter_share, max_history_length, frequencies)
        self.transformer = Transformer([FrequencyBlock(*shape) for _ in range(num_blocks)], nn.Identity())

    def states(self, history: History) -> Float[Tensor, "batch length dim"]:
        """Only the state after the last item knows nothing of what comes after it."""
        real = history > 0
        x = self.norm(self.items.encode(history) + self.position(real))
        return self.transformer(self.dropout(x), real)

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Cross-entropy of the item behind each prefix."""
        return self.loss_of(last_state(self.states(batch.history), (batch.history > 0).sum(1)), batch.target[:, 0])
