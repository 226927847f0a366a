"""The generated dataset has the signal it promises, measured with plain counts."""

from __future__ import annotations

import numpy as np
import pytest

from diffrec.data.splits import leave_one_out
from diffrec.data.synthetic import synthetic


def hit_rate(scores: np.ndarray, dataset, k: int) -> float:
    """Share of users whose last item is among the k best unseen ones; scores: (users, items)."""
    cases = leave_one_out(dataset).test
    scores = scores.astype(float)
    scores[cases.seen.row_of_entry, cases.seen.values - 1] = -np.inf
    truth = scores[np.arange(len(cases)), cases.target.values - 1]
    return float(((scores > truth[:, None]).sum(axis=1) < k).mean())


@pytest.fixture(scope="module")
def counts():
    """(train matrix, test history matrix, successor counts, last items) of the default dataset."""
    split = leave_one_out(synthetic())
    train = split.train.to_csr(100).toarray()
    successors = np.zeros((100, 100))
    for row in range(len(split.train)):
        items = split.train[row] - 1
        np.add.at(successors, (items[:-1], items[1:]), 1)
    return train, split.test.history.to_csr(100).toarray(), successors, split.test.history.last(1).values - 1


def test_co_occurrence_knows_more_than_popularity(counts):
    train, history, _, _ = counts
    popularity = np.tile(train.sum(axis=0), (len(train), 1))
    together = train.T @ train
    np.fill_diagonal(together, 0)
    norm = np.sqrt(np.maximum(train.sum(axis=0), 1))
    cosine = history @ (together / norm[:, None] / norm)
    assert hit_rate(cosine, synthetic(), 10) > 2 * hit_rate(popularity, synthetic(), 10)


def test_the_last_item_tells_the_next(counts):
    _, _, successors, last = counts
    chance = np.random.default_rng(0).random((200, 100))
    found = hit_rate(successors[last] + 1e-9 * chance, synthetic(), 1)
    assert found > 0.3
    assert found > 8 * hit_rate(chance, synthetic(), 1)


def test_rows_hold_each_item_once_in_rising_time():
    dataset = synthetic(num_users=300, num_items=60, seed=4)
    part = dataset.parts["all"]
    assert part.timestamps is not None
    for row in range(len(part.items)):
        assert len(np.unique(part.items[row])) == len(part.items[row]) >= 5
        assert (np.diff(part.timestamps[row]) > 0).all()
    assert part.items.values.min() == 1
    assert part.items.values.max() == 60


def test_the_seed_decides():
    assert synthetic(seed=3).sha256 == synthetic(seed=3).sha256
    assert synthetic(seed=3).sha256 != synthetic(seed=4).sha256


def test_without_successors_the_last_item_tells_little():
    dataset = synthetic(successor=0.0)
    split = leave_one_out(dataset)
    successors = np.zeros((100, 100))
    flat, same_row = split.train.values - 1, np.diff(split.train.row_of_entry) == 0
    np.add.at(successors, (flat[:-1][same_row], flat[1:][same_row]), 1)
    assert hit_rate(successors[split.test.history.last(1).values - 1], dataset, 1) < 0.15
