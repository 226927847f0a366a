"""RP3beta against dense matrices written as in its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffrec.baselines.rp3beta import RP3beta
from diffrec.errors import UsageError


def dense(model: RP3beta) -> np.ndarray:
    return model.table.numpy() if model.table.numel() else model.sparse().toarray()


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.4, 0.7), (1.7, 1.2), (0.0, 0.0)])
def test_weights_are_those_of_the_definition(closed_forms, alpha, beta):
    seen = closed_forms.arrays["data.X"].double().numpy()
    to_item = np.where(seen > 0, (seen / seen.sum(1, keepdims=True)) ** alpha, 0)
    users = np.maximum(seen.sum(0), 1)  # there is an item of nobody
    to_user = np.where(seen.T > 0, (seen.T / users[:, None]) ** alpha, 0)
    expected = to_user @ to_item / users**beta
    np.fill_diagonal(expected, 0)
    model = RP3beta(closed_forms.num_items, alpha, beta, neighbours=None)
    model.solve(closed_forms.sequences)
    np.testing.assert_allclose(dense(model), expected, rtol=1e-6)


def test_at_alpha_one_a_row_holds_probabilities(closed_forms):
    model = RP3beta(closed_forms.num_items, alpha=1.0, beta=0.0, neighbours=None)
    model.solve(closed_forms.sequences)
    seen = closed_forms.arrays["data.X"].double().numpy()
    met = seen.sum(0) > 0
    back = (seen.T[met] / seen.sum(0)[met, None] / seen.sum(1)).sum(1)  # of a walk that ends where it began
    np.testing.assert_allclose(dense(model)[met].sum(1), 1 - back, rtol=1e-6)
    assert not dense(model)[~met].any()


def test_each_item_keeps_its_strongest_after_popularity_is_divided_out(closed_forms):
    full, few = (RP3beta(closed_forms.num_items, 0.8, 0.9, neighbours=n) for n in (None, 3))
    full.solve(closed_forms.sequences)
    few.solve(closed_forms.sequences)
    rows = np.sort(dense(full), axis=1)[:, -3:]
    np.testing.assert_array_equal(np.sort(dense(few), axis=1)[:, -3:], rows)
    there = np.count_nonzero(dense(full), axis=1)
    assert there.max() > 3
    np.testing.assert_array_equal(np.count_nonzero(dense(few), axis=1), there.clip(max=3))


def test_items_and_users_of_nothing_have_no_weights(closed_forms):
    model = RP3beta(closed_forms.num_items + 2)
    with np.errstate(all="raise"):
        model.solve(closed_forms.sequences.drop_last(6))
    assert np.isfinite(dense(model)).all()
    assert not model.score(torch.tensor([[14, 15]])).any()


@pytest.mark.parametrize("wrong", [{"alpha": -0.1}, {"beta": float("nan")}, {"neighbours": 0}, {"decay": 0.0}])
def test_arguments_outside_their_range_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        RP3beta(5, **wrong)
