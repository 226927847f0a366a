"""Products of sparse matrices in blocks, against the whole product."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from diffrec.data import neighbours
from diffrec.data.neighbours import item_products, strongest_per_row


@pytest.fixture(params=[(1 << 24, 0), (50, 0), (50, 2)], ids=["one block", "ten blocks", "entries sorted"])
def left_and_right(request, monkeypatch):
    """(20, 30) and (30, 20), of few different values so that products tie."""
    for name, value in zip(("_CELLS", "_SORTED_BELOW"), request.param, strict=True):
        monkeypatch.setattr(neighbours, name, value)
    rng = np.random.default_rng(0)
    return tuple(sp.csr_array(rng.integers(0, 3, shape) * (rng.random(shape) < 0.3)) for shape in ((20, 30), (30, 20)))


def strongest(matrix: np.ndarray, count: int) -> np.ndarray:
    """By a loop over rows."""
    out = np.zeros_like(matrix)
    for i, row in enumerate(matrix):
        nearest = sorted(np.flatnonzero(row), key=lambda j: (-row[j], j))[:count]
        out[i, nearest] = row[nearest]
    return out


@pytest.mark.parametrize("count", [None, 1, 4, 100])
def test_the_strongest_of_the_whole_product(left_and_right, count):
    left, right = left_and_right
    whole = (left @ right).toarray()
    np.fill_diagonal(whole, 0)
    got = item_products(left, right, count)
    assert got.has_sorted_indices
    np.testing.assert_array_equal(got.toarray(), whole if count is None else strongest(whole, count))


def test_what_is_weighed_is_compared(left_and_right):
    left, right = left_and_right
    factor = np.random.default_rng(1).random((20, 20))
    whole = (left @ right).toarray() * factor
    np.fill_diagonal(whole, 0)
    got = item_products(left, right, 3, lambda row, column, value: value * factor[row, column])
    np.testing.assert_array_equal(got.toarray(), strongest(whole, 3))


@pytest.mark.parametrize("below", [0, 2])
def test_of_equal_entries_those_with_the_smaller_column(monkeypatch, below):
    monkeypatch.setattr(neighbours, "_SORTED_BELOW", below)
    matrix = sp.csr_array([[2.0, 1.0, 2.0, 2.0], [0.0, 0.0, 1.0, 0.0]])
    assert strongest_per_row(matrix, 4, 2).toarray().tolist() == [[2.0, 0.0, 2.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
