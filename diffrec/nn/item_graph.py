"""The graph of items that users link, as two filters of interaction vectors: one hop over it, and its smooth part."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch.nn.functional import embedding_bag, pad

from diffrec.errors import check_sizes
from diffrec.nn.fitted_shape import FittedShape
from diffrec.nn.singular_vectors import leading, normalised
from diffrec.nn.wide_linear import wide_linear
from diffrec.typing import Float, Int, Tensor

_DENSE_UP_TO = 1 << 24  # cells of an items x items table: 64 MiB of float32
_SPARSE = 1 / 8  # share of a batch up to which adding rows of the table beats the product (benchmarks/speed/graph.py)
_TOGETHER = 32  # requests of one sparse product on a CPU: its rows then stay in the caches (benchmarks/speed/graph.py)


class ItemGraph(FittedShape):
    """P = R~^T R~ / lambda with R~ = D_U^-p R D_I^-1/2, and V, its first `rank` eigenvectors (columns).

    R is the binary users x items matrix, D_U and D_I hold its sums over rows and columns, lambda is the largest
    eigenvalue, which is 1 for p = 1/2. Before `fit`, no item is linked: P = 0 and V is empty.

    Up to 4,096 items P is kept as `table` (N, N), which is faster there and tells nobody's interactions; above, R~ is
    kept as the CSR parts `indptr`, `indices`, `values` of its users. `vectors` (N, rank). float32, indices int32.

    user_power: p; rank: how many eigenvectors; of more than there are with an eigenvalue above 0, those.
    """

    table: Tensor
    indptr: Tensor
    indices: Tensor
    values: Tensor
    vectors: Tensor

    def __init__(self, num_items: int, user_power: float = 0.5, rank: int = 0) -> None:
        super().__init__()
        check_sizes(num_items=num_items)
        check_sizes(least=0, rank=rank)
        self.num_items, self.user_power, self.rank = num_items, user_power, rank
        self.register_buffer("table", torch.empty(0, 0))
        self.register_buffer("indptr", torch.zeros(1, dtype=torch.int32))
        self.register_buffer("indices", torch.empty(0, dtype=torch.int32))
        self.register_buffer("values", torch.empty(0))
        self.register_buffer("vectors", torch.empty(num_items, 0))

    def fit(self, interactions: sp.csr_array) -> None:
        """From a users x items matrix; whatever is filled is one interaction.

        Raises UsageError where memory does not suffice for what is computed.
        """
        links = normalised(interactions, self.user_power)
        values, vectors = leading(links, max(self.rank, 1))
        links = links / values[0]
        table, parts = np.empty((0, 0)), (np.zeros(1), np.empty(0), np.empty(0))
        if self.num_items**2 <= _DENSE_UP_TO:
            table = (links.T @ links).toarray()
        else:
            parts = (links.indptr, links.indices, links.data)
        device = self.table.device
        self.table, self.vectors = _float32(table, device), _float32(vectors[:, : self.rank], device)
        self.indptr, self.indices = (torch.from_numpy(part.astype(np.int32)).to(device) for part in parts[:2])
        self.values = _float32(parts[2], device)

    def propagate(self, x: Float[Tensor, "batch items"]) -> Float[Tensor, "batch items"]:
        """x P; nothing here is differentiable."""
        if self.table.numel():
            table = self.table.to(x.dtype)
            # Only in training: which of the two sums are taken then depends on what else is in the batch.
            if self.training and x.device.type == "cpu" and x.count_nonzero() < _SPARSE * x.numel():
                return _sums_of_rows(x, table)
            return wide_linear((x,), table, x.new_zeros(self.num_items))  # P is symmetric
        if not self.values.numel():
            return torch.zeros_like(x)
        hop = _hop_on_cpu if x.device.type == "cpu" else _hop
        return hop((self.indptr, self.indices, self.values.to(x.dtype)), x)

    def low_pass(self, x: Float[Tensor, "batch items"]) -> Float[Tensor, "batch items"]:
        """x V V^T: the ideal low-pass filter."""
        vectors = self.vectors.to(x.dtype)
        return (x @ vectors) @ vectors.T


def _sums_of_rows(x: Float[Tensor, "batch items"], table: Float[Tensor, "items dim"]) -> Float[Tensor, "batch dim"]:
    """x table, where x is mostly zeros."""
    rows, items = x.nonzero(as_tuple=True)
    starts = pad(rows.bincount(minlength=len(x)).cumsum(0), (1, 0))
    return _weighted_sums(table, items, x[rows, items], starts)


def _hop_on_cpu(links: tuple[Tensor, Tensor, Tensor], x: Float[Tensor, "batch items"]) -> Float[Tensor, "batch items"]:
    """x R~^T R~ with scipy, which adds up rows as long as the part of a batch; each number is its own sum."""
    indptr, indices, values = (part.numpy() for part in links)
    matrix = sp.csr_array((values, indices, indptr), shape=(len(indptr) - 1, x.shape[1]))
    matrix.check_format(full_check=True)  # scipy multiplies without a look at indices, which may come from a file
    transposed, rows = matrix.T, x.detach().numpy()
    hopped = np.empty_like(rows)
    for start in range(0, len(rows), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        hopped[part] = (transposed @ (matrix @ np.ascontiguousarray(rows[part].T))).T
    return torch.from_numpy(hopped)


def _hop(links: tuple[Tensor, Tensor, Tensor], x: Float[Tensor, "batch items"]) -> Float[Tensor, "batch items"]:
    """The same with torch, on any device. Sums of rows, since the sparse products of CUDA round anew on every run."""
    indptr, indices, values = links
    num_users, num_items = len(indptr) - 1, x.shape[1]
    torch.sparse_csr_tensor(*links, (num_users, num_items), check_invariants=True)  # a file may point outside
    by_user = _weighted_sums(x.T.contiguous(), indices, values, indptr)
    users = torch.arange(num_users, dtype=indptr.dtype, device=x.device).repeat_interleave(indptr.diff())
    order = indices.argsort(stable=True)
    starts = pad(indices.bincount(minlength=num_items).cumsum(0), (1, 0)).to(indptr.dtype)
    return _weighted_sums(by_user, users[order], values[order], starts).T


def _weighted_sums(
    table: Float[Tensor, "rows batch"], rows: Int[Tensor, " links"], weights: Float[Tensor, " links"], starts: Tensor
) -> Float[Tensor, "sums batch"]:
    return embedding_bag(rows, table, starts, mode="sum", per_sample_weights=weights, include_last_offset=True)


def _float32(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(device)
