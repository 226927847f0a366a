"""Item-based nearest neighbours with cosine similarity."""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.sparse as sp

from diffrec.baselines.history import ItemToItem, seen_matrix
from diffrec.data.neighbours import bound_of_products, item_products
from diffrec.data.ragged import Ragged
from diffrec.errors import UsageError, choose


class ItemKNN(ItemToItem):
    """score_j = sum_{i in history} w_i s_ij with s_ij = C_ij / (sqrt(C_ii C_jj) + shrink), s_ii = 0, C = X^T X.

    X is the binary users x items matrix; w_i = decay^(number of events after the most recent one of i).

    shrink: pulls down similarities that few users support; neighbours: how many are kept, None for all;
    neighbours_of: whether each item of the history votes for its nearest items (Deshpande & Karypis), or
    each candidate listens to its nearest items; decay: in (0, 1], 1 reads the history as a set.
    Sources: Sarwar et al., "Item-based collaborative filtering recommendation algorithms" (2001);
    Deshpande & Karypis, "Item-based top-N recommendation algorithms" (2004).
    """

    def __init__(
        self,
        num_items: int,
        shrink: float = 50.0,
        neighbours: int | None = None,
        neighbours_of: Literal["history", "candidate"] = "history",
        decay: float = 1.0,
    ) -> None:
        super().__init__(num_items, decay)
        if shrink < 0 or (neighbours is not None and neighbours < 1):
            raise UsageError(f"shrink must not be negative and neighbours at least 1, got {shrink} and {neighbours}")
        choose("kind of neighbours_of", neighbours_of, ("history", "candidate"))
        self.shrink, self.neighbours, self.neighbours_of = shrink, neighbours, neighbours_of

    def solve(self, sequences: Ragged) -> None:
        seen = sp.csr_array(seen_matrix(sequences, self.num_items), dtype=np.float64)
        bounds = bound_of_products(seen.T.tocsr(), seen, self.neighbours)
        self.refuse_without_memory_for(*bounds, "keep fewer neighbours, or use fewer items")
        similarity = cosine(sequences, self.num_items, self.shrink, self.neighbours)
        if self.neighbours is not None and self.neighbours_of == "candidate":
            similarity = similarity.T.tocsr()  # symmetric before entries of its rows were dropped
        self.keep_sparse(similarity)


def cosine(sequences: Ragged, num_items: int, shrink: float, neighbours: int | None = None) -> sp.csr_array:
    """s (N, N) float64 with an empty diagonal, and of each row the `neighbours` largest entries; symmetric with all."""
    seen = sp.csr_array(seen_matrix(sequences, num_items), dtype=np.float64)
    users = seen.sum(axis=0)

    def similarity(rows: np.ndarray, columns: np.ndarray, together: np.ndarray) -> np.ndarray:
        return together / (np.sqrt(users[rows] * users[columns]) + shrink)

    return item_products(seen.T.tocsr(), seen, neighbours, similarity)
