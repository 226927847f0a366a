"""gSASRec: many negatives, and a target whose probability is corrected for how few of the items they are.

Petrov and Macdonald, "gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with Negative Sampling",
RecSys 2023, arXiv 2308.07192; official code github.com/asash/gSASRec-pytorch (commit 7e35028, no licence is stated;
nothing is taken from it).

Differs from the original in:
- an epoch meets every sequence once; the original's are 100 batches drawn anew;
- a negative that is the target itself adds nothing;
- sequences are batched by length and padded on the right, and positions count from the end of the window, which gives
  every item the position it has in the original's left-padded window;
- weights start as N(0, .02^2).
"""

from __future__ import annotations

from diffrec.errors import check_numbers, check_sizes
from diffrec.next_item import NextItemRecommender
from diffrec.nn.dropout import Dropout
from diffrec.nn.positions import PositionsFromEnd
from diffrec.nn.sampled_losses import generalised_binary_cross_entropy, uniform_negatives
from diffrec.nn.transformer import PublishedTransformer, check_blocks
from diffrec.spaces.embedding import EmbeddingSpace
from diffrec.typing import Float, History, Int, Tensor


class GSASRec(NextItemRecommender):
    """The blocks of SASRec as published, trained by gBCE against `num_negatives` items of each position's own.

    calibration: t, from 0 (plain binary cross-entropy) to 1 (the probabilities of a softmax over all items);
    tied: whether states are compared with the table that is read; False gives them one of their own.
    """

    def __init__(
        self,
        num_items: int,
        embedding_size: int = 128,
        num_blocks: int = 2,
        num_heads: int = 1,
        max_history_length: int = 200,
        num_negatives: int = 256,
        calibration: float = 0.75,
        tied: bool = False,
        dropout: float = 0.5,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(num_items, max_history_length, lr, weight_decay)
        check_blocks(embedding_size, num_blocks, num_heads, dropout)
        check_sizes(num_negatives=num_negatives)
        check_numbers(low=0.0, most=1.0, calibration=calibration)
        self.items = EmbeddingSpace(num_items, embedding_size, init_std=0.02)
        self.outputs = None if tied else EmbeddingSpace(num_items, embedding_size, init_std=0.02)
        self.position = PositionsFromEnd(max_history_length, embedding_size)
        self.transformer = PublishedTransformer(embedding_size, num_blocks, num_heads, dropout)
        self.dropout = Dropout(dropout)
        self.num_negatives, self.calibration = num_negatives, calibration

    def states(self, history: History) -> Float[Tensor, "batch length dim"]:
        """The state after every item."""
        return self.transformer(self.dropout(self.items.encode(history) + self.position(history > 0)))

    def loss_of(self, states: Float[Tensor, "positions dim"], target: Int[Tensor, " positions"]) -> Float[Tensor, ""]:
        """gBCE of the target and of negatives of each position's own."""
        logits = uniform_negatives(*self.compared(states), target - 1, self.num_negatives)
        return generalised_binary_cross_entropy(*logits, self.num_items, self.calibration).to(states.dtype)
