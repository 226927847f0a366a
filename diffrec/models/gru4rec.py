"""GRU4Rec: a recurrent network over the history, with the losses and negatives of its later version.

Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016, arXiv 1511.06939; Hidasi and
Karatzoglou, "Recurrent Neural Networks with Top-k Gains for Session-based Recommendations", CIKM 2018, arXiv
1706.03847; official code github.com/hidasib/GRU4Rec_PyTorch_Official (commit 4e7d236, for research and education;
nothing is taken from it).

Differs from the original in:
- whole histories are batched by length, and the gradient flows through all of their steps; in the original's
  session-parallel batches it ends at the step;
- negatives are drawn for the batch, the targets of other positions are none; without any, the softmax is over all;
- dropout of the hidden state acts on what is read of it, not on what the next step remembers;
- the loss is a mean over positions, and AdamW takes the place of Adagrad with momentum;
- one-hot input to the gates, without a table of embeddings, is not offered.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import nn
from torch.nn.functional import elu

from diffrec.data.ragged import Ragged
from diffrec.errors import UsageError, check_numbers, check_sizes, choose
from diffrec.next_item import NextItemRecommender
from diffrec.nn.dropout import Dropout
from diffrec.nn.popular_items import PopularItems
from diffrec.nn.sampled_losses import bpr_max, sampled_softmax, shared_negatives
from diffrec.spaces.embedding import EmbeddingSpace
from diffrec.typing import Float, History, Int, Tensor

Loss = Literal["cross-entropy", "bpr-max"]


class GRU4Rec(NextItemRecommender):
    """GRU layers as wide as the embeddings; the score is the inner product with the item's vector, plus its bias.

    loss: "cross-entropy", or "bpr-max" of the scores behind an ELU; num_negatives: shared by the positions of a batch,
    0 for the cross-entropy over all items; sample_power: they are drawn in proportion to count^power (sample_alpha in
    the original); logq: how far logits are corrected for that, 0 for not; penalty: of large negative scores in BPR-max;
    elu_alpha: of the ELU, 0 for none; tied: one table for what is read and what is scored; embedding_dropout: of the
    input; dropout: behind every layer.
    """

    def __init__(
        self,
        num_items: int,
        embedding_size: int = 128,
        num_layers: int = 1,
        max_history_length: int = 50,
        loss: Loss = "cross-entropy",
        num_negatives: int = 0,
        sample_power: float = 0.5,
        logq: float = 0.0,
        penalty: float = 1.0,
        elu_alpha: float = 0.5,
        tied: bool = True,
        embedding_dropout: float = 0.2,
        dropout: float = 0.2,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(num_items, max_history_length, lr, weight_decay)
        check_sizes(embedding_size=embedding_size, num_layers=num_layers)
        check_sizes(0, num_negatives=num_negatives)
        check_numbers(low=0.0, high=1.0, embedding_dropout=embedding_dropout, dropout=dropout)
        check_numbers(low=0.0, sample_power=sample_power, logq=logq, penalty=penalty, elu_alpha=elu_alpha)
        choose("loss", loss, get_args(Loss))
        if num_negatives == 0 and (loss == "bpr-max" or logq > 0):
            needs = "loss 'bpr-max'" if loss == "bpr-max" else f"logq = {logq:g}"
            raise UsageError(f"{needs} needs drawn negatives, got num_negatives = 0")
        self.items = EmbeddingSpace(num_items, embedding_size)
        self.outputs = None if tied else EmbeddingSpace(num_items, embedding_size)
        self.bias = nn.Parameter(torch.zeros(num_items))
        between = dropout if num_layers > 1 else 0.0
        self.gru = nn.GRU(embedding_size, embedding_size, num_layers, batch_first=True, dropout=between)
        self.embedding_dropout, self.dropout = Dropout(embedding_dropout), Dropout(dropout)
        self.popular = PopularItems(num_items, sample_power)
        self.loss, self.num_negatives, self.logq = loss, num_negatives, logq
        self.penalty, self.elu_alpha = penalty, elu_alpha
        self._initialise()

    def _initialise(self) -> None:
        """Uniform up to sqrt(6 / (fan in + fan out)), each gate by itself; biases start at 0."""
        for space in dict.fromkeys((self.items, self.candidates)):
            nn.init.xavier_uniform_(space.table.weight)
        for name, parameter in self.gru.named_parameters():
            for gate in parameter.data.chunk(3):
                nn.init.xavier_uniform_(gate) if "weight" in name else nn.init.zeros_(gate)

    def prepare(self, sequences: Ragged) -> None:
        """Counts how often each item is met, by which negatives are drawn."""
        self.popular.fit(torch.from_numpy(np.bincount(sequences.values, minlength=self.num_items + 1)[1:]))

    def states(self, history: History) -> Float[Tensor, "batch length dim"]:
        """The state after every item; padding lies behind and is read by none."""
        return self.dropout(self.gru(self.embedding_dropout(self.items.encode(history)))[0])

    def loss_of(self, states: Float[Tensor, "positions dim"], target: Int[Tensor, " positions"]) -> Float[Tensor, ""]:
        """Against all items, or against some that are drawn for the batch."""
        if self.num_negatives == 0:
            return super().loss_of(states, target)
        column = target - 1
        drawn = self.popular.draw(self.num_negatives)
        positive, negative = shared_negatives(*self.compared(states), column, drawn)
        if self.loss == "bpr-max":
            return bpr_max(self._bent(positive), self._bent(negative), self.penalty)
        if self.logq > 0:
            positive = positive - self.logq * self.popular.log_counts[column]
            negative = negative - self.logq * self.popular.log_weights(drawn)
        return sampled_softmax(positive, negative)

    def _bent(self, logits: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """Behind the ELU; -inf, the mark of a negative that is the target, stays."""
        return elu(logits, self.elu_alpha).masked_fill(logits.isneginf(), -torch.inf) if self.elu_alpha else logits
