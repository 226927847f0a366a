"""HSTU: gated attention without softmax, which knows how long ago an item was.

Zhai et al., "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
Recommendations", ICML 2024, arXiv 2402.17152; official code github.com/facebookresearch/generative-recommenders
(commit 2e81fab, Apache-2.0; nothing is taken from it).

Differs from the original in:
- the time of a query is that of its last item. The original takes that of the item to be predicted, which says of a
  request when its answer will be; here `score` sees the history and nothing else;
- all happens at once for a dataset without times, and for a request that gives none;
- attention over a whole batch at a time, without kernels for jagged tensors; batches hold similar lengths;
- actions other than the items themselves are not read.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import normalize

from diffrec.data.batch import Batch
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import check_numbers, check_sizes
from diffrec.next_item import NextItemRecommender
from diffrec.nn.dropout import Dropout
from diffrec.nn.hstu import HSTUBlock, time_buckets
from diffrec.nn.sampled_losses import sampled_softmax, uniform_negatives
from diffrec.spaces.embedding import EmbeddingSpace
from diffrec.typing import Float, History, Int, Scores, Tensor


class HSTU(NextItemRecommender):
    """Blocks of pointwise attention; states and items are compared by their cosine, trained by a sampled softmax.

    head_size: of queries, keys and values; embedding_dropout: of what enters the blocks; dropout: inside of them;
    temperature: what cosines are divided by in the loss.
    """

    reads_times = True

    def __init__(
        self,
        num_items: int,
        embedding_size: int = 64,
        num_blocks: int = 4,
        num_heads: int = 2,
        head_size: int = 4,
        max_history_length: int = 50,
        num_negatives: int = 512,
        temperature: float = 0.1,
        embedding_dropout: float = 0.5,
        dropout: float = 0.1,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(num_items, max_history_length, lr, weight_decay)
        check_sizes(embedding_size=embedding_size, num_blocks=num_blocks, num_heads=num_heads, head_size=head_size)
        check_sizes(num_negatives=num_negatives)
        check_numbers(low=0.0, high=1.0, embedding_dropout=embedding_dropout, dropout=dropout)
        check_numbers(above=0.0, temperature=temperature)
        self.items = EmbeddingSpace(num_items, embedding_size, init_std=0.02, readout="cosine")
        self.position = nn.Parameter(embedding_size**-0.5 * torch.randn(max_history_length, embedding_size))
        self.dropout = Dropout(embedding_dropout)
        shape = (embedding_size, num_heads, head_size, head_size, max_history_length, dropout, True)
        self.blocks = nn.ModuleList(HSTUBlock(*shape) for _ in range(num_blocks))
        self.num_negatives, self.temperature = num_negatives, temperature

    def states(self, history: History, times: History | None = None) -> Float[Tensor, "batch length dim"]:
        """The state after every item. times: the second of every item; None: all at once."""
        items = self.items.encode(history)
        x = self.dropout(items * items.shape[-1] ** 0.5 + self.position[: history.shape[1]])
        seconds = torch.zeros_like(history) if times is None else times
        buckets = time_buckets(seconds, seconds)
        for block in self.blocks:
            x = block(x, buckets)
        return x

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """The loss at all real positions of the batch."""
        return self.loss_at_all(self.states(batch.history, batch.times), batch.target)

    def loss_of(self, states: Float[Tensor, "positions dim"], target: Int[Tensor, " positions"]) -> Float[Tensor, ""]:
        """Softmax of the cosines with the target and with negatives of each position's own."""
        table = normalize(self.items.table.weight[1:])
        return sampled_softmax(
            *uniform_negatives(normalize(states) / self.temperature, table, target - 1, self.num_negatives)
        )

    def score(self, history: History, *, noise: RequestNoise | None = None, times: History | None = None) -> Scores:
        """Cosines of the last state with every item; nothing is sampled, `noise` is not used."""
        return self.candidates.score(self.at_last(self.states(history, times), history))
