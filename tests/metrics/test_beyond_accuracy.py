"""Coverage, inequality and popularity of lists against numbers worked out by hand and slow loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import jensenshannon

from diffrec.data.ragged import Ragged
from diffrec.metrics.beyond_accuracy import (
    coverage,
    gini,
    intra_list_diversity,
    mean_popularity,
    novelty,
    popularity_buckets,
    popularity_miscalibration,
    times_shown,
)

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


def test_diversity_by_hand():
    similarity = np.zeros((4, 4))
    for first, second, value in ((0, 1, 0.5), (0, 2, 0.2), (2, 3, 1.0)):
        similarity[first, second] = similarity[second, first] = value
    # items 1, 2, 3: mean of .5, .2 and 0; items 1, 2: .5; the other lists have no pair
    assert intra_list_diversity(LISTS, sp.csr_array(similarity)) == pytest.approx(1 - (0.7 / 3 + 0.5) / 2)
    assert intra_list_diversity(LISTS, sp.csr_array((4, 4))) == 1
    assert math.isnan(intra_list_diversity(LISTS[2:], sp.csr_array(similarity)))


def test_diversity_is_the_mean_over_all_pairs():
    rng = np.random.default_rng(0)
    for _ in range(20):
        dense = np.triu(rng.random((9, 9)) * (rng.random((9, 9)) < 0.5), 1)
        dense = dense + dense.T + np.diag(np.full(9, 5.0))  # the diagonal is not read
        lists = np.array([rng.permutation(9)[:5] + 1 for _ in range(4)])
        lists[0, 3:] = 0
        pairs = [
            np.mean([1 - dense[i - 1, j - 1] for a, i in enumerate(row) for j in row[a + 1 :] if j]) for row in lists
        ]
        pairs[0] = np.mean([1 - dense[i - 1, j - 1] for a, i in enumerate(lists[0, :3]) for j in lists[0, a + 1 : 3]])
        assert intra_list_diversity(lists, sp.csr_array(dense)) == pytest.approx(np.mean(pairs))
        shuffled = rng.permuted(lists[1:], axis=1)
        assert intra_list_diversity(shuffled, sp.csr_array(dense)) == pytest.approx(np.mean(pairs[1:]))


def test_buckets_by_hand():
    # laid out by count: 40 of 100 up to .4 (middle .2), 20 + 20 up to .8 (.6), 10 up to .9 (.85), ten of 1 (.95)
    counts = np.array([20, 1, 40, 0, 20, 10, *[1] * 9])
    assert popularity_buckets(counts).tolist() == [3, 4, 1, 5, 3, 4, *[4] * 9]
    assert popularity_buckets(counts, 2).tolist() == [1, 1, 0, 2, 1, 1, *[1] * 9]
    assert popularity_buckets(np.full(7, 3)).tolist() == [2] * 7
    assert popularity_buckets(np.zeros(3, dtype=np.int64)).tolist() == [5] * 3


def test_buckets_hold_equal_shares_and_do_not_know_item_numbers():
    rng = np.random.default_rng(0)
    counts = 1 + rng.lognormal(5, 1, 5000).astype(np.int64)
    bucket, order = popularity_buckets(counts), rng.permutation(5000)
    assert np.array_equal(popularity_buckets(counts[order]), bucket[order])
    shares = np.bincount(bucket, weights=counts) / counts.sum()
    largest = max(counts[counts == count].sum() for count in np.unique(counts)) / counts.sum()
    assert np.abs(shares - 0.2).max() <= largest < 0.01
    assert all(counts[bucket == number].min() > counts[bucket == number + 1].max() for number in range(4))


def test_miscalibration_is_the_divergence_of_the_mixes():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 30, 40)
    bucket = popularity_buckets(counts)
    rows = [rng.integers(1, 41, size).tolist() for size in (0, 1, 7, 30)]
    lists = np.array([[1, 2, 3, 4], [5, 6, 0, 0], [0, 0, 0, 0], rng.permutation(40)[:4] + 1])
    expected = [
        jensenshannon(*(np.bincount(bucket[np.array(part) - 1], minlength=6) for part in (rows[row], shown)), base=2)
        ** 2
        for row, shown in ((1, [5, 6]), (3, lists[3]))
    ]
    assert popularity_miscalibration(lists, Ragged.from_rows(rows), counts) == pytest.approx(np.mean(expected))
    assert math.isnan(popularity_miscalibration(lists[:1], Ragged.from_rows([[]]), counts))


def test_miscalibration_at_its_ends():
    counts = np.array([100, 1, 1, 1, 0])
    assert popularity_miscalibration(np.array([[2, 3]]), Ragged.from_rows([[4, 4, 2]]), counts) == 0
    assert popularity_miscalibration(np.array([[1, 1]]), Ragged.from_rows([[5, 5, 5]]), counts) == pytest.approx(1)
