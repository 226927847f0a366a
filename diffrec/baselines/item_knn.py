"""Item-based nearest neighbours with cosine similarity."""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.sparse as sp

from diffrec.baselines.history import ItemToItem, seen_matrix
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
        similarity = cosine(sequences, self.num_items, self.shrink)
        if self.neighbours is not None:
            similarity = strongest_per_row(similarity, self.neighbours)  # symmetric before, so columns are transposed
            similarity = similarity if self.neighbours_of == "history" else similarity.T.tocsr()
        self.keep_sparse(similarity)


def cosine(sequences: Ragged, num_items: int, shrink: float) -> sp.csr_array:
    """s (N, N) float64, symmetric, with an empty diagonal."""
    seen = seen_matrix(sequences, num_items).astype(np.float64)
    users = seen.sum(axis=0)
    similarity = seen.T.tocsr() @ seen
    row_of_entry = np.repeat(np.arange(num_items, dtype=np.int32), np.diff(similarity.indptr))
    similarity.data /= np.sqrt(users[row_of_entry] * users[similarity.indices]) + shrink
    similarity.data[row_of_entry == similarity.indices] = 0
    similarity.eliminate_zeros()
    similarity.sort_indices()
    return similarity


def strongest_per_row(matrix: sp.csr_array, count: int) -> sp.csr_array:
    """The `count` largest entries of each row; of equal ones those with the smaller column."""
    entries = matrix.tocoo()
    rows, columns = entries.coords
    order = np.lexsort((columns, -entries.data.astype(np.float64), rows))
    place = np.arange(len(order)) - matrix.indptr[rows[order]]
    kept = order[place < count]
    return sp.csr_array((entries.data[kept], (rows[kept], columns[kept])), shape=matrix.shape)
