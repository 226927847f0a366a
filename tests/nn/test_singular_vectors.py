"""Singular vectors of sparse matrices against a dense decomposition, by either solver."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from diffrec.errors import UsageError
from diffrec.nn import memory, singular_vectors
from diffrec.nn.singular_vectors import leading


@pytest.fixture(params=[0, 512], ids=["ARPACK", "LAPACK"])
def solver(request, monkeypatch):
    """Half of all vectors or more are always LAPACK's."""
    monkeypatch.setattr(singular_vectors, "_DENSE_UP_TO", request.param)


@pytest.mark.usefixtures("solver")
@pytest.mark.parametrize("shape", [(30, 13), (13, 30)])
@pytest.mark.parametrize("count", [4, 11])
def test_singular_vectors_of_wide_and_of_tall_matrices(shape, count):
    matrix = np.random.default_rng(2).normal(size=shape)
    values, vectors = leading(sp.csr_array(matrix), count)
    _, expected, rows = np.linalg.svd(matrix, full_matrices=False)
    np.testing.assert_allclose(values, expected[:count], rtol=1e-5)
    np.testing.assert_allclose(np.abs((vectors * rows[:count].T).sum(0)), 1, rtol=1e-5)
    assert (vectors.max(0) == np.abs(vectors).max(0)).all(), "the sign is fixed"


@pytest.mark.usefixtures("solver")
def test_the_same_bytes_whatever_was_drawn_before():
    matrix = sp.csr_array(np.random.default_rng(2).normal(size=(30, 13)))
    first = leading(matrix, 3)
    np.random.seed(np.random.default_rng().integers(1 << 30))
    again = leading(matrix, 3)
    assert all(here.tobytes() == there.tobytes() for here, there in zip(first, again, strict=True))


def test_too_little_memory_is_found_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr(singular_vectors, "_DENSE_UP_TO", 0)
    matrix, needed = sp.csr_array(np.ones((30, 13))), 4 * 3 * (4 * 13 + 3 * 30)
    monkeypatch.setattr(memory, "available_memory", lambda: needed - 1)
    with pytest.raises(UsageError, match=r"3 singular vectors of 30 users and 13 items needs .* use fewer"):
        leading(matrix, 3)
    monkeypatch.setattr(memory, "available_memory", lambda: needed)
    leading(matrix, 3)


def test_nothing_has_no_direction():
    with pytest.raises(UsageError, match="need interactions, got none of 5 users and 4 items"):
        leading(sp.csr_array((5, 4)), 2)
