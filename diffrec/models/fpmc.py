"""FPMC: a factorised Markov chain of each user: what the user likes, and what comes after the item before.

Rendle, Freudenthaler and Schmidt-Thieme, "Factorizing Personalized Markov Chains for Next-Basket Recommendation", WWW
2010; there is no official code.

Differs from the original in:
- a basket is a single item;
- Adam on batches instead of stochastic gradient descent on single triples; every transition is met once an epoch;
- one strength of regularisation for all vectors;
- `score` is given a history, not a user: the user's row is found by its items (`nn/known_users.py`), and users unknown
  to training are folded in.
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
from diffrec.recommender import Recommender
from diffrec.spaces.embedding import EmbeddingSpace
from diffrec.typing import Float, History, Scores, Tensor


class FPMC(Recommender):
    """Score of item i for user u behind item l: <user_u, to_user_i> + <previous_l, to_previous_i>.

    The two vectors of an item stand side by side in one table, so that it is one inner product. weight_decay: times
    |v|^2 / 2 of the vectors that a triple uses; fold_in: the ridge of users unknown to training, see `FoldIn`.
    """

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
        self.previous = EmbeddingSpace(num_items, embedding_size, init_std)
        self.items = EmbeddingSpace(num_items, 2 * embedding_size, init_std)
        self.embedding_size, self.folded_in = embedding_size, FoldIn(fold_in)
        self.lr, self.weight_decay = lr, weight_decay

    def prepare(self, sequences: Ragged) -> None:
        """Learns who there is: the rows of the user table."""
        users, items = map(torch.from_numpy, distinct_pairs(sequences))
        self.users.fit(users, items, len(sequences))

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Each next item against one drawn from all; where that is the next item itself, nothing is learnt of it."""
        assert batch.key is not None
        self.folded_in.forget()  # the weights are about to change
        real = batch.target > 0
        user = embedding(batch.key[:, None].expand_as(real)[real], self.users.weight)
        state = torch.cat([user, self.previous.encode(batch.history[real])], dim=1)
        target = batch.target[real]
        drawn = torch.randint(1, self.num_items + 1, target.shape, device=target.device)
        positive, negative = self.items.encode(target), self.items.encode(drawn)
        return bpr_loss(state, positive, negative) + self.weight_decay * half_squares(state, positive, negative)

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        """Inner products with every item; nothing is sampled, `noise` is not used."""
        unknown = self.folded_in(history, self.items.table.weight[:, : self.embedding_size])
        user = self.users.choose(history, self.users.weight, unknown)
        last = history.gather(1, (history > 0).sum(1, keepdim=True).clamp(min=1) - 1)[:, 0]
        before = self.previous.encode(last) * (last > 0)[:, None]  # nothing before: the user alone
        return self.items.score(torch.cat([user, before], dim=1))

    @property
    def item_embeddings(self) -> Float[Tensor, "items dim"]:
        """The table of the items."""
        return self.items.vectors

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr, fused=True)
