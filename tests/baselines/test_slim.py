"""SLIM by the optimality conditions of its objective."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from diffrec.baselines import slim
from diffrec.baselines.slim import SLIM
from diffrec.data.ragged import Ragged
from diffrec.errors import UsageError
from diffrec.nn import memory


@pytest.fixture(scope="module")
def sequences():
    """300 users of 70 items that come in groups, so that columns have many correlated neighbours."""
    rng = np.random.default_rng(0)
    chance = 0.1 + 0.4 * (np.arange(300)[:, None] % 5 == np.arange(70) % 5) + 0.2 * (np.arange(70) < 10)
    rows, items = np.nonzero(rng.random((300, 70)) < chance)
    return Ragged.from_groups(rows, items.astype(np.int32) + 1, 300)


@pytest.fixture(params=[(128, 64), (16, 5)], ids=["taken up at once", "a few at a time"])
def sizes(request, monkeypatch):
    monkeypatch.setattr(slim, "_COLUMNS", request.param[0])
    monkeypatch.setattr(slim, "_ENTERING", request.param[1])


def dense(model: SLIM) -> np.ndarray:
    return (model.table.numpy() if model.table.numel() else model.sparse().toarray()).astype(np.float64)


def gram(sequences: Ragged) -> np.ndarray:
    seen = sequences.to_csr(70).toarray().astype(np.float64)
    return seen.T @ seen


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize(("l1", "l2"), [(5.0, 10.0), (0.0, 0.5), (15.0, 1.0), (0.01, 300.0)])
def test_solutions_satisfy_the_conditions_of_an_optimum(sequences, l1, l2):
    """The slope is 0 where a weight is above 0, and not downhill where it is 0; the diagonal is left out."""
    model = SLIM(70, l1, l2, tolerance=1e-6)
    model.solve(sequences)
    weights, together = dense(model), gram(sequences)
    slope = together @ weights - together + l2 * weights + l1
    beside, positive = ~np.eye(70, dtype=bool), weights > 0
    assert (weights >= 0).all()
    assert not weights.diagonal().any()
    assert np.abs(slope[positive]).max() < 1e-3
    assert slope[~positive & beside].min() > -1e-3
    assert 0.02 < positive.mean() < 0.95, "both kinds are there"


def test_without_an_obstacle_a_column_is_ridge_regression():
    """Two items that meet often, a third that meets nobody."""
    model = SLIM(3, l1=0.0, l2=2.0, tolerance=1e-7)
    model.solve(Ragged.from_rows([[1, 2], [1, 2], [1], [3]]))
    np.testing.assert_allclose(dense(model), [[0, 2 / 5, 0], [2 / 4, 0, 0], [0, 0, 0]], rtol=1e-6)


def test_a_looser_tolerance_changes_little_and_few_iterations_are_reported(sequences, caplog):
    exact, loose, stopped = (
        SLIM(70, 1.0, 1.0, tolerance=t, max_iterations=n) for t, n in ((1e-6, 500), (1e-3, 500), (1e-6, 3))
    )
    with caplog.at_level(logging.WARNING, logger=slim.__name__):
        exact.solve(sequences)
        loose.solve(sequences)
    assert not caplog.messages
    assert 0 < np.abs(dense(loose) - dense(exact)).max() < 0.02
    with caplog.at_level(logging.WARNING, logger=slim.__name__):
        stopped.solve(sequences)
    assert caplog.messages == ["SLIM: 70 columns are not solved after 3 iterations"]


def test_each_column_keeps_its_largest(sequences):
    full, few = (SLIM(70, 1.0, 10.0, neighbours=n) for n in (None, 4))
    full.solve(sequences)
    few.solve(sequences)
    weights, kept = dense(full), dense(few)
    assert ((kept > 0).sum(0) == 4).all()
    np.testing.assert_array_equal(np.sort(kept, axis=0)[-4:], np.sort(weights, axis=0)[-4:])
    np.testing.assert_array_equal(kept[kept > 0], weights[kept > 0])


def test_too_many_items_are_refused_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 799)
    monkeypatch.setattr(slim, "count_together", None)
    with pytest.raises(UsageError, match=r"SLIM on 10 items needs 0\.00 GB of memory"):
        SLIM(10).solve(Ragged.empty(3))


@pytest.mark.parametrize(
    "wrong", [{"l1": -1.0}, {"l2": 0.0}, {"tolerance": 0.0}, {"max_iterations": 0}, {"neighbours": 0}]
)
def test_arguments_outside_their_range_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SLIM(5, **wrong)
