"""Singular vectors against a dense decomposition, k-means against groups that are there."""

from __future__ import annotations

import numpy as np
import pytest

from diffrec.data.ragged import Ragged
from diffrec.errors import UsageError
from diffrec.spaces.item_clusters import far_apart, k_means, singular_vectors


def test_singular_vectors_of_the_normalised_matrix():
    """Item 2 is met twice by one user and counts once; nobody has item 9."""
    rng = np.random.default_rng(0)
    rows = [[1, 2, 2], *((rng.permutation(8)[: 2 + n % 5] + 1).tolist() for n in range(11))]
    seen = np.zeros((12, 9))
    for user, row in enumerate(rows):
        seen[user, np.array(row) - 1] = 1
    degrees = np.outer(seen.sum(1), np.maximum(seen.sum(0), 1))
    _, values, vectors = np.linalg.svd(seen / np.sqrt(degrees), full_matrices=False)
    unscaled = vectors[:4].T * values[:4]
    expected = unscaled / np.maximum(np.linalg.norm(unscaled, axis=1, keepdims=True), 1e-12)
    got = singular_vectors(Ragged.from_rows(rows), 9, dim=4)
    assert got.shape == (9, 4)
    np.testing.assert_allclose(got @ got.T, expected @ expected.T, atol=1e-10)
    assert (got[8] == 0).all()
    assert singular_vectors(Ragged.from_rows(rows), 9).shape == (9, 8)


def test_one_user_is_not_enough():
    with pytest.raises(UsageError, match="need two users and two items, got 1 and 9"):
        singular_vectors(Ragged.from_rows([[1, 2, 3]]), 9)


def groups(seed: int) -> np.ndarray:
    """60, 30 and 10 points around three corners."""
    rng = np.random.default_rng(seed)
    centres = np.repeat([[0, 0], [9, 0], [0, 9]], [60, 30, 10], axis=0)
    return centres + rng.normal(size=(100, 2))


@pytest.mark.parametrize("seed", range(5))
def test_groups_that_are_there_are_found(seed):
    labels = k_means(groups(seed), 3, seed)
    assert [len(set(part)) for part in np.split(labels, [60, 90])] == [1, 1, 1]
    assert set(labels) == {0, 1, 2}
    assert np.array_equal(labels, k_means(groups(seed), 3, seed))


def test_points_that_coincide_are_one_cluster():
    points = np.repeat([[0.0, 0.0], [1.0, 1.0]], [99, 1], axis=0)
    assert np.bincount(k_means(points, 2, 0)).min() == 1


@pytest.mark.parametrize("seed", range(10))
def test_starts_are_far_from_all_that_were_drawn_before(seed):
    points = np.repeat([[0.0], [1.0], [3.0], [7.0]], 9, axis=0)
    assert sorted(far_apart(points, 4, np.random.default_rng(seed))[:, 0]) == [0, 1, 3, 7]
