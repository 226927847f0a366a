"""BPR-MF: matrix factorisation that ranks what a user has above what the user does not have.

Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009, arXiv 1205.2618; official code
in MyMediaLite (github.com/zenogantner/MyMediaLite, GPL-3.0; nothing is taken from it).

Differs from the original in:
- Adam on batches instead of stochastic gradient descent on single triples; every interaction is met once an epoch;
- no item bias, and one strength of regularisation for users and items, as in the comparisons that BPR-MF appears in;
- `score` is given a history, not a user: the user's row is found by its items (`nn/known_users.py`), and users
  unknown to training are folded in.
"""

from __future__ import annotations

import torch
from torch.nn.functional import embedding

from diffrec.data.batch import Batch
from diffrec.data.datamodule import distinct_pairs
from diffrec.data.ragged import Ragged
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import check_numbers, check_sizes
from diffrec.nn.bpr import bpr_loss, half_squares
from diffrec.nn.known_users import FoldIn, KnownUsers
from diffrec.nn.unseen_items import UnseenItems
from diffrec.recommender import Recommender
from diffrec.spaces.embedding import EmbeddingSpace
from diffrec.typing import Float, History, Scores, Tensor


class BPRMF(Recommender):
    """A vector for every user and item; the score is their inner product.

    weight_decay: times |v|^2 / 2 of the vectors that a triple uses; fold_in: the ridge of `FoldIn`, in units of
    the mean eigenvalue of Q^T Q.
    """

    examples = "pairs"

    def __init__(
        self,
        num_items: int,
        embedding_size: int = 64,
        init_std: float = 0.1,
        fold_in: float = 10.0,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(num_items)
        check_sizes(embedding_size=embedding_size)
        check_numbers(low=0.0, init_std=init_std, fold_in=fold_in, lr=lr, weight_decay=weight_decay)
        self.users = KnownUsers(embedding_size, init_std)
        self.items = EmbeddingSpace(num_items, embedding_size, init_std)
        self.unseen = UnseenItems(num_items)
        self.folded_in = FoldIn(fold_in)
        self.lr, self.weight_decay = lr, weight_decay

    def prepare(self, sequences: Ragged) -> None:
        """Learns who there is: the rows of the user table, and what each of them has."""
        users, items = map(torch.from_numpy, distinct_pairs(sequences))
        self.users.fit(users, items, len(sequences))
        self.unseen.fit(users, items)

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """One item of each user against one that the user does not have."""
        assert batch.key is not None
        self.folded_in.forget()  # the weights are about to change
        user = embedding(batch.key, self.users.weight)
        positive, negative = self.items.encode(batch.target[:, 0]), self.items.encode(self.unseen.draw(batch.key))
        return bpr_loss(user, positive, negative) + self.weight_decay * half_squares(user, positive, negative)

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        """Inner products with every item; nothing is sampled, `noise` is not used."""
        unknown = self.folded_in(history, self.items.table.weight)
        return self.items.score(self.users.choose(history, self.users.weight, unknown))

    @property
    def item_embeddings(self) -> Float[Tensor, "items dim"]:
        """The table of the items."""
        return self.items.vectors

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr, fused=True)
