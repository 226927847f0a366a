"""Lloyd's rounds beside official arrays and a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

from diffrec.errors import UsageError
from diffrec.tokenizers.k_means import k_means, lloyd


def test_rounds_from_given_points(golden):
    arrays = golden("rqvae")
    points = arrays["kmeans.points"].double().numpy()
    centres, labels = lloyd(points, points[arrays["kmeans.start_rows"].numpy()], 100)
    np.testing.assert_allclose(centres, arrays["kmeans.centroids"].numpy(), atol=1e-6)
    assert labels.tolist() == arrays["kmeans.assignment"].tolist()


def test_one_round_beside_a_loop():
    rng = np.random.default_rng(0)
    points, centres = rng.normal(size=(40, 3)), rng.normal(size=(4, 3))
    got, _ = lloyd(points, centres, 1)
    nearest = [min(range(4), key=lambda c: ((p - centres[c]) ** 2).sum()) for p in points]
    for centre in range(4):
        members = [p for p, label in zip(points, nearest, strict=True) if label == centre]
        np.testing.assert_allclose(got[centre], np.mean(members, axis=0))


def test_a_centre_without_points_gets_the_furthest():
    points = np.array([[0.0], [0.1], [0.2], [9.0]])
    centres, labels = lloyd(points, np.array([[0.1], [500.0]]), 1)  # more rounds would mend a wrong choice
    assert centres[1].tolist() == [9.0]
    assert labels.tolist() == [0, 0, 0, 1]


def test_as_many_centres_as_points_lose_nothing():
    points = np.random.default_rng(1).normal(size=(12, 4))
    centres, labels = k_means(points, 12, 5, seed=0)
    np.testing.assert_allclose(centres[labels], points, atol=1e-12)


def test_the_seed_decides():
    points = np.random.default_rng(2).normal(size=(60, 4))
    first, again, other = (k_means(points, 5, 10, seed)[0] for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_more_codes_than_items_are_refused():
    with pytest.raises(UsageError, match="9 codes need at least as many items, got 3"):
        k_means(np.zeros((3, 2)), 9, 5, 0)
