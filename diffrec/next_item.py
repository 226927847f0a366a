"""What the sequence models share: a state after every item, compared with all items."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import pad

from diffrec.data.batch import Batch
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import check_numbers
from diffrec.nn.cross_entropy import cross_entropy_over_items
from diffrec.nn.transformer import last_state
from diffrec.recommender import Recommender
from diffrec.spaces.embedding import EmbeddingSpace
from diffrec.typing import Float, History, Int, Scores, Targets, Tensor, Vectors


class NextItemRecommender(Recommender):
    """A network reads the history; the score compares its last state with the table of the items.

    A subclass makes `items` and gives `states`; also `outputs`, where states are compared with another table, `bias`
    (items,), where the score has one, and `loss_of`, where the loss is not the cross-entropy over all items.
    """

    items: EmbeddingSpace
    outputs: EmbeddingSpace | None
    bias: nn.Parameter | None

    def __init__(self, num_items: int, max_history_length: int, lr: float, weight_decay: float) -> None:
        super().__init__(num_items, max_history_length)
        check_numbers(low=0.0, lr=lr, weight_decay=weight_decay)
        self.lr, self.weight_decay = lr, weight_decay
        self.outputs = self.bias = None

    def states(self, history: History) -> Float[Tensor, "batch length dim"]:
        """The state after every item."""
        raise NotImplementedError

    @property
    def candidates(self) -> EmbeddingSpace:
        """The table that states are compared with."""
        return self.items if self.outputs is None else self.outputs

    @property
    def item_embeddings(self) -> Float[Tensor, "items dim"]:
        """The table that states are compared with."""
        return self.candidates.vectors

    def compared(
        self, states: Float[Tensor, "positions dim"]
    ) -> tuple[Float[Tensor, "positions wide"], Float[Tensor, "items wide"]]:
        """States and the table whose products with them are the logits; a bias is one more coordinate of both."""
        table = self.candidates.table.weight[1:]
        if self.bias is None:
            return states, table
        return pad(states, (0, 1), value=1.0), torch.cat([table, self.bias[:, None]], dim=1)

    def loss_of(self, states: Float[Tensor, "positions dim"], target: Int[Tensor, " positions"]) -> Float[Tensor, ""]:
        """Cross-entropy over all items; target: item numbers."""
        return cross_entropy_over_items(*self.compared(states), target - 1)

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """The loss at all real positions of the batch."""
        return self.loss_at_all(self.states(batch.history), batch.target)

    def loss_at_all(self, states: Float[Tensor, "batch length dim"], target: Targets) -> Float[Tensor, ""]:
        """`loss_of` the states behind which an item follows."""
        real = target > 0
        return self.loss_of(states[real], target[real])

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        """The last state compared with every item; nothing is sampled, `noise` is not used."""
        scores = self.candidates.score(self.asking(history))
        return scores if self.bias is None else scores + self.bias

    def query(self, history: History, *, noise: RequestNoise | None = None) -> Float[Tensor, "batch wide"]:
        """The same state, with one more coordinate for a bias."""
        state = self.candidates.query(self.asking(history))
        return state if self.bias is None else pad(state, (0, 1), value=1.0)

    @property
    def keys(self) -> Float[Tensor, "items wide"]:
        """The table that states are compared with, with the bias as one more coordinate."""
        table = self.candidates.keys
        return table if self.bias is None else torch.cat([table, self.bias[:, None]], dim=1)

    def asking(self, history: History) -> Vectors:
        """The state that is compared with every item: that of the last one."""
        return self.at_last(self.states(history), history)

    def at_last(self, states: Float[Tensor, "batch length dim"], history: History) -> Vectors:
        """The state at the last item; an empty history has that of its first, empty slot."""
        return last_state(states, (history > 0).sum(1).clamp(min=1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
