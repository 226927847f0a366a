"""The strongest directions of a users x items matrix, and how such a matrix is normalised."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import scipy.sparse as sp
from scipy.linalg import eigh
from scipy.sparse.linalg import svds

from diffrec.errors import UsageError
from diffrec.nn.memory import refuse_without_memory

_DENSE_UP_TO = 512  # users or items, whichever is fewer: there a decomposition of all takes no time


def normalised(interactions: sp.csr_array, user_power: float) -> sp.csr_array:
    """R~ = D_U^-p R D_I^-1/2 (users, items) float64; empty rows and columns stay empty."""
    links = sp.csr_array(interactions, dtype=np.float64, copy=True)
    links.data[:] = 1
    users, items = (np.maximum(links.sum(axis=axis), 1) for axis in (1, 0))
    return sp.csr_array(sp.diags_array(users**-user_power) @ links @ sp.diags_array(items**-0.5))


def leading(matrix: sp.csr_array, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` largest singular values (count,), falling, and right singular vectors (columns, count).

    Fewer where the rank is less. The same on every run: the start is fixed, and the largest entry of each vector is
    positive. Works on the shorter side: in float32 with ARPACK, whose cost is that of reading its basis, or in float64
    with LAPACK where that side is short, or half of all vectors or more are asked for. Raises UsageError where memory
    does not suffice, or nothing is filled.
    """
    users, items = cast("tuple[int, int]", matrix.shape)
    if not matrix.nnz:
        raise UsageError(f"singular vectors need interactions, got none of {users} users and {items} items")
    shorter, longer = min(users, items), max(users, items)
    few = 2 * count < shorter > _DENSE_UP_TO
    needed = 4 * count * (4 * shorter + 3 * longer) if few else 8 * (3 * shorter + 2 * longer) * shorter
    refuse_without_memory(f"{count} singular vectors of {users:,} users and {items:,} items", needed, "use fewer")
    values, vectors = (_by_arpack if few else _by_lapack)(matrix, count, users < items)
    there = values**2 > values[0] ** 2 * shorter * np.finfo(np.float64).eps
    values, vectors = values[there], vectors[:, there]
    return values, vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(values))])


def _by_arpack(matrix: sp.csr_array, count: int, wide: bool) -> tuple[np.ndarray, np.ndarray]:
    users, items = cast("tuple[int, int]", matrix.shape)
    start = np.random.default_rng(0).normal(size=users if wide else items).astype(np.float32)
    found: Any = svds(matrix.astype(np.float32), k=count, v0=start, rng=np.random.default_rng(0))
    _, values, vectors = found
    return values[::-1], vectors[::-1].T


def _by_lapack(matrix: sp.csr_array, count: int, wide: bool) -> tuple[np.ndarray, np.ndarray]:
    matrix = sp.csr_array(matrix, dtype=np.float64)
    gram = (matrix @ matrix.T if wide else matrix.T @ matrix).toarray()
    size = len(gram)
    squares, vectors = eigh(gram, subset_by_index=[max(size - count, 0), size - 1], overwrite_a=True)
    values = np.sqrt(squares.clip(min=0))[::-1]
    vectors = vectors[:, ::-1]
    if wide:
        vectors = matrix.T @ vectors / np.maximum(values, np.finfo(np.float64).tiny)
    return values, vectors
