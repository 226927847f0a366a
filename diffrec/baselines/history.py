"""How a history is scored by an item x item matrix: score_j = sum over events k of w_k S[h_k, j]."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch.nn.functional import embedding_bag

from diffrec.data.ragged import Ragged
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import check_numbers
from diffrec.nn.memory import refuse_without_memory
from diffrec.recommender import ClosedFormRecommender
from diffrec.typing import Bool, Float, History, Scores

# Adding up dense rows costs N per event, sparse rows their filled cells but ten times more for each.
_DENSE_FROM = 1 / 8
# Bytes of an entry of S in float64, with twice as much where parts are put together, and of what is kept for an item.
_ENTRY, _ITEM = 3 * 12, 128


def event_weights(history: History, decay: float) -> Float[torch.Tensor, "batch length"]:
    """decay^(number of later events) for every event, repeats included; the last has 1, padding 0."""
    there = history > 0
    later = there.sum(1, keepdim=True) - 1 - torch.arange(history.shape[1], device=history.device)
    return torch.where(there, decay ** later.clamp(min=0).float(), 0.0)


def last_occurrences(history: History) -> Bool[torch.Tensor, "batch length"]:
    """Which events are the most recent one of their item; False on padding."""
    ordered, order = history.sort(dim=1, stable=True)
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:, :-1] = ordered[:, :-1] != ordered[:, 1:]
    return torch.zeros_like(last).scatter(1, order, last) & (history > 0)


def item_weights(history: History, decay: float) -> Float[torch.Tensor, "batch length"]:
    """`event_weights` of each item's most recent event, 0 for its earlier ones: a set of items at decay 1."""
    return event_weights(history, decay) * last_occurrences(history)


def seen_matrix(sequences: Ragged, num_items: int) -> sp.csr_array:
    """X (rows, N) float32: 1 where the sequence holds the item, however often."""
    matrix = sequences.to_csr(num_items)
    matrix.data[:] = 1
    return matrix


class ItemToItem(ClosedFormRecommender):
    """score_j = sum_k w_k S[h_k, j], with S learned by a subclass and w its `weights(history)`.

    S is kept as `table` (N, N), or as the CSR parts `indptr`, `indices`, `values` where few cells are
    filled; the other form is empty. All are float32, indices int32.

    decay: in (0, 1], how much less an event counts than the one after it.
    """

    asked_with = ("decay",)
    table: torch.Tensor
    indptr: torch.Tensor
    indices: torch.Tensor
    values: torch.Tensor

    def __init__(self, num_items: int, decay: float) -> None:
        super().__init__(num_items)
        check_numbers(above=0.0, most=1.0, decay=decay)
        self.decay = decay
        self.register_buffer("table", torch.empty(0, 0))
        self.register_buffer("indptr", torch.zeros(num_items + 1, dtype=torch.int32))
        self.register_buffer("indices", torch.empty(0, dtype=torch.int32))
        self.register_buffer("values", torch.empty(0))

    def weights(self, history: History) -> Float[torch.Tensor, "batch length"]:
        """The weight of every event, 0 on padding; here for histories read as sets of items."""
        return item_weights(history, self.decay)

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        weights = self.weights(history)
        counted = weights > 0
        rows, values = history[counted] - 1, weights[counted]
        offsets = torch.nn.functional.pad(counted.sum(1).cumsum(0), (1, 0))
        if self.table.numel():
            return embedding_bag(
                rows, self.table, offsets, mode="sum", per_sample_weights=values, include_last_offset=True
            )
        shape = (len(history), self.num_items)
        chosen = sp.csr_array(tuple(part.cpu().numpy() for part in (values, rows, offsets)), shape=shape)
        return torch.from_numpy(sp.csr_array(chosen @ self.sparse()).toarray()).to(history.device)

    def sparse(self) -> sp.csr_array:
        """A view of the CSR parts as they are now."""
        parts = tuple(part.cpu().numpy() for part in (self.values, self.indices, self.indptr))
        return sp.csr_array(parts, shape=(self.num_items, self.num_items))

    def refuse_without_memory_for(self, entries: int, working: int, instead: str) -> None:
        """UsageError, before S is worked out for `keep_sparse`, where it does not fit into the memory that is free.

        entries: how many cells of S are filled at most; working: bytes needed besides; instead: what is advised.
        """
        cells = self.num_items**2
        table = 4 * cells if entries > _DENSE_FROM * cells else 0
        name = f"{type(self).__name__} on {self.num_items:,} items"
        refuse_without_memory(name, _ENTRY * entries + _ITEM * self.num_items + table + working, instead)

    def keep_sparse(self, matrix: sp.csr_array) -> None:
        """Store S, as a table where more than an eighth of its cells are filled."""
        if matrix.nnz > _DENSE_FROM * self.num_items**2:
            self.keep_table(matrix.astype(np.float32).toarray())
        else:
            self._keep(np.empty((0, 0)), matrix.indptr, matrix.indices, matrix.data)

    def keep_table(self, matrix: np.ndarray | torch.Tensor) -> None:
        """Store S (N, N), without a copy where it is float32 and on the device of the model."""
        self._keep(matrix, np.zeros(self.num_items + 1), np.empty(0), np.empty(0))

    def _keep(
        self, table: np.ndarray | torch.Tensor, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray
    ) -> None:
        self.table = torch.as_tensor(table, dtype=torch.float32, device=self.device)
        self.indptr = torch.as_tensor(indptr, dtype=torch.int32, device=self.device)
        self.indices = torch.as_tensor(indices, dtype=torch.int32, device=self.device)
        self.values = torch.as_tensor(values, dtype=torch.float32, device=self.device)
