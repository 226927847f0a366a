"""A vector for every training user, found by the user's history: `score` is told of nobody's number."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import embedding_bag

from diffrec.nn.fitted_shape import FittedShape
from diffrec.nn.item_sets import first_occurrences
from diffrec.typing import Float, History, Int, Tensor, Vectors

_GOLDEN = -7046029254386353131  # 2^64 / golden ratio, as a signed 64-bit integer
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
        sums = torch.zeros(num_users, dtype=torch.int64).index_add_(0, users, _hash(items))
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
        sums, sizes = (_hash(history) * counted).cumsum(1), counted.cumsum(1)
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


def folded_in(history: History, table: Float[Tensor, "rows dim"], ridge: float) -> Vectors:
    """Vectors for users without a row of their own: (Q^T Q + r)^-1 times the sum of the vectors of their items.

    That is the ridge regression of what they have on the table Q of the items, whose row 0 is padding and left out; r
    is `ridge` in units of the mean eigenvalue of Q^T Q.
    """
    gram = table[1:].T @ table[1:]
    strength = ridge * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
    counted = first_occurrences(history).to(table.dtype)
    sums = embedding_bag(history, table, mode="sum", per_sample_weights=counted)
    return torch.linalg.solve(gram + strength, sums.T).T


def _hash(items: Int[Tensor, ...]) -> Int[Tensor, ...]:
    """SplitMix64 (Steele et al., 2014) of every number; products and sums wrap."""
    x = items * _GOLDEN
    x = (x ^ _logical_shift(x, 30)) * -4658895280553007687
    x = (x ^ _logical_shift(x, 27)) * -7723592293110705685
    return x ^ _logical_shift(x, 31)


def _logical_shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)
