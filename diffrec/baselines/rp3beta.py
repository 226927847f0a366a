"""RP3beta: random walks of three steps, which popular items are less likely to end."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from diffrec.baselines.history import ItemToItem, seen_matrix
from diffrec.data.neighbours import bound_of_products, item_products
from diffrec.data.ragged import Ragged
from diffrec.errors import check_numbers, check_sizes


class RP3beta(ItemToItem):
    """score = x W with W_ij = sum_u (1 / n_i)^alpha (1 / n_u)^alpha / n_j^beta over users u of both i and j, W_ii = 0.

    n_i users have item i and n_u items user u has; x is the history as a row of users x items. At alpha 1 the sum is
    the probability of a walk from i over a user to j.

    neighbours: how many entries of each row are kept, None for all; decay: in (0, 1], weighs x by
    decay^(number of events after the item's most recent one), 1 reads the history as a set.
    Sources: Paudel et al., "Updatable, accurate, diverse, and scalable recommendations for interactive
    applications" (2017); the power alpha is of Cooper et al., "Random walks in recommender systems" (2014).
    """

    def __init__(
        self,
        num_items: int,
        alpha: float = 1.0,
        beta: float = 0.5,
        neighbours: int | None = 100,
        decay: float = 1.0,
    ) -> None:
        super().__init__(num_items, decay)
        check_numbers(low=0.0, alpha=alpha, beta=beta)
        check_sizes(neighbours=1 if neighbours is None else neighbours)
        self.alpha, self.beta, self.neighbours = alpha, beta, neighbours

    def solve(self, sequences: Ragged) -> None:
        to_item = sp.csr_array(seen_matrix(sequences, self.num_items), dtype=np.float64)
        to_user = to_item.T.tocsr()
        items, users = np.diff(to_item.indptr), np.diff(to_user.indptr)  # of each user, of each item
        to_user.data = np.repeat(np.maximum(users, 1.0) ** -self.alpha, users)
        to_item.data = (
            np.repeat(np.maximum(items, 1.0) ** -self.alpha, items) * (1.0 * users[to_item.indices]) ** -self.beta
        )
        bounds = bound_of_products(to_user, to_item, self.neighbours)
        self.refuse_without_memory_for(*bounds, "keep fewer neighbours, or use fewer items")
        self.keep_sparse(item_products(to_user, to_item, self.neighbours))
