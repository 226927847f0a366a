"""Recent popularity against its definition, and only where times are on one clock."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diffrec.baselines import RecentPopularity
from diffrec.data.datamodule import InteractionDataModule
from diffrec.data.ragged import Ragged
from diffrec.data.splits import Cases, Split
from diffrec.errors import UsageError

DAY = 86_400
ITEMS = [[1, 2, 1], [3], [2, 3]]
DAYS = [[0, 4, 10], [7], [9, 10]]


@pytest.fixture
def split():
    items, times = Ragged.from_rows(ITEMS), Ragged.from_rows([[DAY * d for d in row] for row in DAYS], np.int64)
    cases = Cases(items, items.last(1), items, np.arange(3))
    return Split(items, cases, cases, times, dated=True)


@pytest.mark.parametrize("tau", [2.0, 30.0])
def test_an_interaction_counts_less_the_longer_ago_it_was(split, tau):
    model = RecentPopularity(4, tau)
    model.prepare_on(split)
    expected = [0.0] * 4
    for items, days in zip(ITEMS, DAYS, strict=True):
        for item, day in zip(items, days, strict=True):
            expected[item - 1] += math.exp(-(10 - day) / tau)
    expected = torch.tensor(expected) / max(expected)
    torch.testing.assert_close(model.score(torch.tensor([[1], [0]])), expected.expand(2, -1), rtol=1e-6, atol=0)


def test_a_short_tau_and_a_long_one_rank_differently():
    """Item 1 was met often long ago, item 2 once today: years at a tau of days do not overflow or vanish."""
    items, times = Ragged.from_rows([[1, 1, 1, 2]]), Ragged.from_rows([[0, 1, 2, 9_000 * DAY]], np.int64)
    for tau, best in ((1.0, 2), (1e6, 1)):
        model = RecentPopularity(3, tau)
        model.solve_dated(items, times)
        assert model.recommend(torch.tensor([[3]]), k=1).items.tolist() == [[best]]
        assert torch.isfinite(model.recent).all()


@pytest.mark.parametrize("times", [None, "of rows"])
def test_without_times_on_one_clock_it_says_so(split, times):
    apart = Split(split.train, split.valid, split.test, split.times if times else None)
    with pytest.raises(UsageError, match="needs the times of interactions, which this dataset does not have"):
        RecentPopularity(4).prepare_on(apart)
    with pytest.raises(UsageError, match=r"solve_dated\(sequences, times\)"):
        RecentPopularity(4).solve(split.train)


def test_no_interactions_no_preference():
    model = RecentPopularity(4)
    model.solve_dated(Ragged.empty(2), Ragged.empty(2))
    assert not model.score(torch.tensor([[1]])).any()


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan")])
def test_tau_is_a_number_of_days(tau):
    with pytest.raises(UsageError, match="tau_days"):
        RecentPopularity(4, tau)


def test_a_split_in_time_hands_it_the_times_of_training():
    data = InteractionDataModule("synthetic", "gts-last@1")
    assert data.split.timestamps is not None
    assert data.split.timestamps.offsets.tolist() == data.split.train.offsets.tolist()
    model = RecentPopularity(data.num_items, 1e9)
    model.prepare_on(data.split)
    counts = np.bincount(data.split.train.values - 1, minlength=data.num_items)
    np.testing.assert_allclose(model.recent, counts / counts.max(), rtol=1e-5)
