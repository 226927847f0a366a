"""Evaluation in one pass against asking the model case by case, for any batch size."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diffrec.bench.evaluate import Evaluation, evaluate, measure_one, per_user
from diffrec.data.ragged import Ragged
from diffrec.data.splits import Cases
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import DiffrecError, NotFoundError, UsageError
from diffrec.metrics.beyond_accuracy import coverage, gini, mean_popularity, novelty
from diffrec.recommender import Recommender

NUM_ITEMS, NUM_CASES = 60, 90


class Noisy(Recommender):
    """Mean of the vectors of the history times all vectors, plus noise of the request."""

    def __init__(self, num_items: int, max_history_length: int | None = None) -> None:
        super().__init__(num_items, max_history_length)
        vectors = torch.randn(num_items + 1, 8, generator=torch.Generator().manual_seed(0))
        self.register_buffer("vectors", vectors.index_fill(0, torch.tensor([0]), 0))

    def score(self, history, *, noise=None):
        mean = self.vectors[history].sum(1) / (history > 0).sum(1, keepdim=True).clamp(min=1)
        return mean @ self.vectors[1:].T + 0.5 * noise.normal(self.num_items)


class Constant(Recommender):
    """One score for everything."""

    def __init__(self, num_items: int, value: float = 0.25) -> None:
        super().__init__(num_items)
        self.value = value

    def score(self, history, *, noise=None):
        return torch.full((len(history), self.num_items), self.value)


def random_cases(rng: np.random.Generator) -> Cases:
    """Histories of 0 to 12 items, 0 to 8 targets apart from them, history and two more items masked."""
    shuffled = np.argsort(rng.random((NUM_CASES, NUM_ITEMS)), axis=1).astype(np.int32) + 1
    everything = Ragged.from_lengths(shuffled.ravel(), np.full(NUM_CASES, NUM_ITEMS))
    zeros, history = np.zeros(NUM_CASES, dtype=np.int64), rng.integers(0, 13, NUM_CASES)
    return Cases(
        history=everything.slices(zeros, history),
        target=everything.slices(zeros + 20, 20 + rng.integers(0, 9, NUM_CASES)),
        seen=everything.slices(zeros, history + 2),
        key=rng.permutation(1000)[:NUM_CASES],
    )


@pytest.fixture(scope="module")
def cases() -> Cases:
    return random_cases(np.random.default_rng(0))


@pytest.fixture(scope="module")
def evaluation(cases) -> Evaluation:
    return evaluate(Noisy(NUM_ITEMS).eval(), cases, (5, 10), seed=3, item_counts=np.arange(NUM_ITEMS))


def test_every_case_is_ranked_as_if_it_were_alone(cases, evaluation):
    model = Noisy(NUM_ITEMS)
    recalls = np.full(NUM_CASES, math.nan)
    for row in range(NUM_CASES):
        noise = RequestNoise.from_keys(torch.from_numpy(cases.key[row : row + 1]), 3)
        history = torch.from_numpy(cases.history[row].astype(np.int64))[None]
        scores = model.score(history, noise=noise)[0].numpy()
        scores[cases.seen[row] - 1] = -np.inf
        order = np.argsort(-scores) + 1
        assert evaluation.top_items[row].tolist() == order[:10].tolist()
        places = [1 + order.tolist().index(item) for item in cases.target[row]]
        assert evaluation.ranks[row].tolist() == places
        if places:
            recalls[row] = np.mean([place <= 5 for place in places])
    np.testing.assert_allclose(per_user(evaluation, "recall@5"), recalls, rtol=1e-12)
    assert evaluation.metrics["recall@5"] == pytest.approx(np.nanmean(recalls))
    assert evaluation.over_all_cases["recall@5"] == pytest.approx(np.nan_to_num(recalls).mean())
    assert 0 < np.isnan(recalls).sum() < NUM_CASES


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batch_size_changes_nothing(cases, evaluation, batch_size):
    other = evaluate(Noisy(NUM_ITEMS).eval(), cases, (5, 10), batch_size=batch_size, seed=3)
    assert np.array_equal(other.top_items, evaluation.top_items)
    assert np.array_equal(other.ranks.values, evaluation.ranks.values)
    assert other.metrics == evaluation.metrics
    assert other.batch_size == batch_size


@pytest.mark.parametrize("metric", ["ndcg@10", "recall@5"])
def test_one_metric_alone_is_the_same_number(cases, metric):
    model = Noisy(NUM_ITEMS).eval()
    whole = evaluate(model, cases, (5, 10), batch_size=7, seed=3).metrics[metric]
    assert measure_one(model, cases, metric, batch_size=7, seed=3) == pytest.approx(whole, rel=1e-12)


def test_seed_changes_the_lists(cases, evaluation):
    other = evaluate(Noisy(NUM_ITEMS).eval(), cases, (5, 10), seed=4)
    assert not np.array_equal(other.top_items, evaluation.top_items)


def test_the_order_of_the_cases_is_kept(cases, evaluation):
    rows = np.random.default_rng(1).permutation(NUM_CASES)
    other = evaluate(Noisy(NUM_ITEMS).eval(), cases.take(rows), (5, 10), seed=3)
    assert np.array_equal(other.top_items, evaluation.top_items[rows])
    assert np.array_equal(other.ranks.values, evaluation.ranks.take(rows).values)
    for name in evaluation.values:
        np.testing.assert_array_equal(per_user(other, name), per_user(evaluation, name)[rows])


def test_window_of_the_model(cases, evaluation):
    shortened = Cases(cases.history.last(4), cases.target, cases.seen, cases.key)
    windowed = evaluate(Noisy(NUM_ITEMS, max_history_length=4).eval(), cases, (5, 10), seed=3)
    assert np.array_equal(windowed.top_items, evaluate(Noisy(NUM_ITEMS).eval(), shortened, (10,), seed=3).top_items)
    assert not np.array_equal(windowed.top_items, evaluation.top_items)


def test_bounds_of_a_model_that_says_nothing(cases):
    one_target = Cases(cases.history, cases.target.take(np.arange(NUM_CASES)).last(1), cases.seen, cases.key)
    result = evaluate(Constant(NUM_ITEMS).eval(), one_target, (5, 50))
    candidates = NUM_ITEMS - cases.seen.lengths[one_target.target.lengths > 0]
    np.testing.assert_array_equal(result.ranks.values, ((candidates + 1) / 2).astype(np.float32))
    assert result.optimistic["ndcg@5"] == 1
    assert result.pessimistic["ndcg@5"] == 0
    assert result.metrics["hit_rate@50"] == 1
    assert result.metrics["recall@5"] == 0
    assert result.pessimistic["hit_rate@50"] == pytest.approx((candidates <= 50).mean())
    first_unseen = [next(i for i in range(1, NUM_ITEMS) if i not in cases.seen[row]) for row in range(NUM_CASES)]
    assert result.top_items[:, 0].tolist() == first_unseen


def test_beyond_accuracy_of_each_cutoff(cases, evaluation):
    counts, lists = np.arange(NUM_ITEMS), evaluation.top_items[:, :5]
    expected = {
        "coverage@5": coverage(lists, NUM_ITEMS),
        "gini@5": gini(lists, NUM_ITEMS),
        "novelty@5": novelty(lists, counts),
        "popularity@5": mean_popularity(lists, counts),
    }
    assert {name: evaluation.beyond_accuracy[name] for name in expected} == expected
    assert len(evaluation.beyond_accuracy) == 8
    without_counts = evaluate(Constant(NUM_ITEMS).eval(), cases, (5,)).beyond_accuracy
    assert set(without_counts) == {"coverage@5", "gini@5"}


def test_short_catalogue_leaves_empty_slots(cases):
    result = evaluate(Constant(NUM_ITEMS).eval(), cases, (NUM_ITEMS + 5,))
    assert result.top_items.shape == (NUM_CASES, NUM_ITEMS + 5)
    assert np.array_equal((result.top_items > 0).sum(1), NUM_ITEMS - cases.seen.lengths)


def test_types_and_time(evaluation):
    assert evaluation.ranks.values.dtype == np.float32
    assert evaluation.top_items.dtype == np.int32
    assert evaluation.num_users == NUM_CASES
    assert evaluation.ms_per_user == pytest.approx(1000 * evaluation.seconds / NUM_CASES)
    assert evaluation.seconds > 0


def test_refusals(cases, evaluation):
    with pytest.raises(UsageError, match=r"Constant is in training mode; call \.eval"):
        evaluate(Constant(NUM_ITEMS).train(), cases, (5,))
    with pytest.raises(UsageError, match="no cases"):
        evaluate(Constant(NUM_ITEMS).eval(), cases.take(np.arange(0)), (5,))
    with pytest.raises(DiffrecError, match="non-finite"):
        evaluate(Constant(NUM_ITEMS, math.nan).eval(), cases, (5,))
    with pytest.raises(NotFoundError, match=r"did you mean 'ndcg@10'"):
        per_user(evaluation, "NDGC@10")
