"""A vector for every training user, found by the user's history: `score` is told of nobody's number."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import embedding_bag

from diffrec.hashing import GOLDEN, mixed
from diffrec.nn.derived import Derived
from diffrec.nn.fitted_shape import FittedShape
from diffrec.nn.item_sets import first_occurrences
from diffrec.typing import Float, History, Int, Tensor, Vectors

_LEAST_SHARE = 0.5  # of the items asked with; below it, the new items say more than the user's row


class KnownUsers(FittedShape):
    """`weight` (users, dim), one row a training user, starting as N(0, init_std^2).

    A user is known by the set of items that the row was trained on: a sum of 64-bit hashes, one an item, which does
    not depend on their order. `keys` (known,) holds the sums, sorted, `rows` (known,) the row of each; of users with
    the same items the first counts. Before `fit` there is nobody.
    """

    keys: Tensor
    rows: Tensor

    def __init__(self, dim: int, init_std: float) -> None:
        super().__init__()
        self.init_std = init_std
        self.weight = nn.Parameter(torch.empty(0, dim))
        self.register_buffer("keys", torch.empty(0, dtype=torch.int64))
        self.register_buffer("rows", torch.empty(0, dtype=torch.int64))

    def fit(self, users: Int[Tensor, " pairs"], items: Int[Tensor, " pairs"], num_users: int) -> None:
        """From all different (user, item) pairs of training; new rows replace those that there were."""
        device, dim = self.weight.device, self.weight.shape[1]
        self.weight = nn.Parameter(torch.empty(num_users, dim, device=device).normal_(std=self.init_std))
        sums = torch.zeros(num_users, dtype=torch.int64).index_add_(0, users, mixed(items * GOLDEN))
        known = users.unique()
        keys, order = sums[known].sort(stable=True)
        first = torch.ones_like(keys, dtype=torch.bool)
        first[1:] = keys[1:] != keys[:-1]
        self.keys, self.rows = keys[first].to(device), known[order][first].to(device)

    def find(self, history: History) -> Int[Tensor, " batch"]:
        """The row whose items are those of the history, or of its longest known beginning; -1 where there is none.

        A history goes on after training, by the item of the validation, say: a beginning counts from half of the
        different items on.
        """
        if not len(self.keys):
            return history.new_full((len(history),), -1)
        counted = first_occurrences(history)
        sums, sizes = (mixed(history * GOLDEN) * counted).cumsum(1), counted.cumsum(1)
        place = torch.searchsorted(self.keys, sums).clamp(max=len(self.keys) - 1)
        enough = (sizes >= _LEAST_SHARE * sizes[:, -1:]) & (history > 0)
        hits = (self.keys[place] == sums) & enough
        last = torch.where(hits, torch.arange(1, history.shape[1] + 1, device=history.device), 0).amax(1)
        rows = self.rows[place.gather(1, (last - 1).clamp(min=0)[:, None])[:, 0]]
        return torch.where(last > 0, rows, -1)

    def choose(self, history: History, known: Float[Tensor, "users dim"], unknown: Vectors) -> Vectors:
        """The row of `known` (users, dim) for each history that is found, its row of `unknown` for all others."""
        rows = self.find(history)
        found = rows >= 0
        return unknown.masked_scatter(found[:, None], known[rows[found]])


class FoldIn:
    """Vectors for users without a row of their own: (Q^T Q + r)^-1 times the sum of the vectors of their items.

    That is the ridge regression of what they have on the table Q of the items, whose row 0 is padding and left out; r
    is `ridge` in units of the mean eigenvalue of Q^T Q, which is worked out once for each state of the table.
    """

    def __init__(self, ridge: float) -> None:
        self.ridge = ridge
        self._gram: Derived[Tensor] = Derived()

    def __call__(self, history: History, table: Float[Tensor, "rows dim"]) -> Vectors:
        gram = self._gram.of((table,), lambda: self._regularised(table[1:]))
        counted = first_occurrences(history).to(table.dtype)
        sums = embedding_bag(history, table, mode="sum", per_sample_weights=counted)
        return torch.linalg.solve(gram, sums.T).T

    def forget(self) -> None:
        """The table is about to change."""
        self._gram.forget()

    def _regularised(self, table: Float[Tensor, "items dim"]) -> Float[Tensor, "dim dim"]:
        gram = table.T @ table
        return gram + self.ridge * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
