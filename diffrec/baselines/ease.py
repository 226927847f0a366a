"""EASE: the best linear item-to-item model, in closed form."""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import get_lapack_funcs

from diffrec.baselines.history import ItemToItem, seen_matrix
from diffrec.data.ragged import Ragged
from diffrec.errors import DiffrecError, check_numbers
from diffrec.nn.memory import refuse_without_memory
from diffrec.typing import Float

_BLOCK = 2048  # rows worked on at a time
_IN_PLACE_UP_TO = 30_000  # items; from 32,700 on, OpenBLAS ended the process in a factorisation with two threads


class EASE(ItemToItem):
    """score = x B with B_ij = -P_ij / P_jj, B_jj = 0, P = (X^T X + lambda I)^-1.

    X is the binary users x items matrix, x the history as a row of it; B minimises |X - X B|^2 + lambda |B|^2
    with an empty diagonal. Solved in float32 in the memory of one items x items table.

    regularization: lambda; decay: in (0, 1], weighs x by decay^(number of events after the item's most
    recent one), B stays as it is; 1 reads the history as a set.
    Source: Steck, "Embarrassingly shallow autoencoders for sparse data" (WWW 2019).
    """

    def __init__(self, num_items: int, regularization: float = 300.0, decay: float = 1.0) -> None:
        super().__init__(num_items, decay)
        check_numbers(above=0.0, regularization=regularization)
        self.regularization = regularization

    def solve(self, sequences: Ragged) -> None:
        in_place = solved_in_place(self.num_items, self.device)
        tables = (2 if in_place else 3) * 4 * self.num_items**2  # one to work in and room around it, or three
        instead = "use item-knn, whose matrix is sparse, or fewer items"
        refuse_without_memory(f"EASE on {self.num_items:,} items", tables, instead)
        table = torch.from_numpy(count_together(sequences, self.num_items)).to(self.device)
        self.keep_table(without_diagonal(table, self.regularization))


def without_diagonal(
    products: Float[torch.Tensor, "items items"], regularization: float
) -> Float[torch.Tensor, "items items"]:
    """-P_ij / P_jj with an empty diagonal, P = (products + regularization I)^-1; `products` is changed.

    Raises DiffrecError where float32 finds the matrix not positive definite.
    """
    products.diagonal().add_(regularization)
    table = inverse(products)
    table /= -table.diagonal()
    return table.fill_diagonal_(0.0)


def count_together(sequences: Ragged, num_items: int) -> np.ndarray:
    """X^T X (N, N) float32: in how many sequences two items are both met."""
    seen = seen_matrix(sequences, num_items)
    seen_by_item = seen.T.tocsr()
    table = np.empty((num_items, num_items), dtype=np.float32)
    for start in range(0, num_items, _BLOCK):  # the sparse product of dense data is larger than the table
        table[start : start + _BLOCK] = (seen_by_item[start : start + _BLOCK] @ seen).toarray()
    return table


def inverse(table: Float[torch.Tensor, "items items"]) -> Float[torch.Tensor, "items items"]:
    """Of a symmetric positive definite matrix (float32), by Cholesky; the table is changed.

    Raises DiffrecError where float32 finds it not positive definite.
    """
    return (inverted_in_place if solved_in_place(len(table), table.device) else inverted_by_torch)(table)


def solved_in_place(num_items: int, device: torch.device) -> bool:
    """Whether the inverse takes the place of its table, or two more of its size."""
    return device.type == "cpu" and num_items <= _IN_PLACE_UP_TO


def inverted_in_place(table: Float[torch.Tensor, "items items"]) -> Float[torch.Tensor, "items items"]:
    """The same memory, for large tables in main memory (C order)."""
    rows = table.numpy()
    columns_first = rows.T  # LAPACK writes into Fortran order without a copy; its lower triangle is our upper one
    factorise, invert = get_lapack_funcs(("potrf", "potri"), (columns_first,))
    _, failed = factorise(columns_first, lower=1, clean=0, overwrite_a=1)
    _refuse_indefinite(failed)
    invert(columns_first, lower=1, overwrite_c=1)
    for start in range(0, len(rows), _BLOCK):
        stop = start + _BLOCK
        square = rows[start:stop, start:stop]
        square[:] = np.triu(square) + np.triu(square, 1).T
        rows[stop:, start:stop] = rows[start:stop, stop:].T
    return table


def inverted_by_torch(table: Float[torch.Tensor, "items items"]) -> Float[torch.Tensor, "items items"]:
    """On any device, in three times the memory."""
    factor, failed = torch.linalg.cholesky_ex(table)
    _refuse_indefinite(int(failed))
    return torch.cholesky_inverse(factor)


def _refuse_indefinite(failed: int) -> None:
    if failed:
        raise DiffrecError("the item matrix is not positive definite in float32; use a larger regularization")
