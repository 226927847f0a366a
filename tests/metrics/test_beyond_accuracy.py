"""Coverage, inequality and popularity of lists against numbers worked out by hand and slow loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from diffrec.metrics.beyond_accuracy import coverage, gini, mean_popularity, novelty, times_shown

LISTS = np.array([[1, 2, 3], [1, 2, 0], [1, 0, 0], [0, 0, 0]], dtype=np.int32)
COUNTS = np.array([7, 3, 1, 0])


def test_by_hand():
    assert times_shown(LISTS, 4).tolist() == [3, 2, 1, 0]
    assert coverage(LISTS, 4) == 0.75
    # shares 0, 1/6, 2/6, 3/6 in rising order, weights -3, -1, 1, 3
    assert gini(LISTS, 4) == pytest.approx((-1 / 6 + 2 / 6 + 9 / 6) / 3)
    assert mean_popularity(LISTS, COUNTS) == pytest.approx((11 / 3 + 10 / 2 + 7) / 3)
    bits = [-math.log2((count + 1) / 15) for count in COUNTS]
    assert novelty(LISTS, COUNTS) == pytest.approx((sum(bits[:3]) / 3 + sum(bits[:2]) / 2 + bits[0]) / 3)


def test_extremes():
    assert gini(np.full((5, 1), 2), 10) == pytest.approx(1)
    assert gini(np.arange(1, 11)[None], 10) == pytest.approx(0)
    assert coverage(np.arange(1, 11)[None], 10) == 1
    equally_popular = np.full(8, 4)
    assert novelty(np.array([[3, 5]]), equally_popular) == pytest.approx(3)
    assert math.isfinite(novelty(np.array([[1]]), np.array([0, 10])))


def test_gini_is_half_the_relative_mean_difference():
    rng = np.random.default_rng(0)
    for _ in range(50):
        num_items = int(rng.integers(2, 30))
        lists = rng.integers(1, num_items + 1, (int(rng.integers(1, 9)), 4))
        shown = times_shown(lists, num_items)
        differences = sum(abs(a - b) for a in shown.tolist() for b in shown.tolist())
        expected = differences / (2 * num_items**2 * shown.mean()) * num_items / (num_items - 1)
        assert gini(lists, num_items) == pytest.approx(expected)


def test_popular_lists_are_less_novel():
    popular, rare = np.array([[1, 2]]), np.array([[3, 4]])
    assert novelty(popular, COUNTS) < novelty(rare, COUNTS)
    assert mean_popularity(popular, COUNTS) > mean_popularity(rare, COUNTS)
