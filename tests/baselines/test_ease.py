"""EASE against golden weights and scores, its memory check and its refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffrec.baselines import ease
from diffrec.baselines.ease import EASE
from diffrec.data.ragged import Ragged
from diffrec.errors import DiffrecError, UsageError
from diffrec.nn import memory


@pytest.fixture(params=[2048, 4], ids=["one block", "four blocks"])
def block(request, monkeypatch):
    """Both with everything in one block of rows and with a ragged last block."""
    monkeypatch.setattr(ease, "_BLOCK", request.param)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("regularization", [0.5, 10.0, 250.0])
def test_weights_and_scores_are_golden(closed_forms, regularization):
    model = EASE(closed_forms.num_items, regularization)
    model.solve(closed_forms.sequences)
    weights = closed_forms.arrays[f"ease.lam{regularization}.weights"].float()
    torch.testing.assert_close(model.table, weights, rtol=1e-4, atol=2e-6)
    scores = closed_forms.arrays[f"ease.lam{regularization}.scores"].float()
    torch.testing.assert_close(model.score(closed_forms.history), scores, rtol=1e-4, atol=5e-6)


def test_decayed_scores_are_golden(closed_forms):
    model = EASE(closed_forms.num_items, 250.0, decay=0.7)
    model.solve(closed_forms.sequences)
    expected = closed_forms.arrays["ease.decay_scores"].float()
    torch.testing.assert_close(model.score(closed_forms.history), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("inverse", [ease.inverse, ease.inverted_by_torch])
def test_inverse_of_a_random_matrix(inverse):
    factor = np.random.default_rng(0).normal(size=(11, 30))
    matrix = factor @ factor.T + 5 * np.eye(11)
    table = inverse(torch.from_numpy(matrix.astype(np.float32)))
    np.testing.assert_allclose(table, np.linalg.inv(matrix), rtol=1e-4, atol=1e-6)


def test_too_many_items_are_refused_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 799)
    monkeypatch.setattr(ease, "count_together", None)
    model = EASE(10)
    with pytest.raises(UsageError, match=r"EASE on 10 items needs 0\.00 GB of memory"):
        model.solve(Ragged.empty(3))


def test_a_large_table_is_solved_beside_itself(monkeypatch, closed_forms):
    solved = EASE(13)
    solved.solve(closed_forms.sequences)
    monkeypatch.setattr(ease, "_IN_PLACE_UP_TO", 12)
    monkeypatch.setattr(ease, "inverted_in_place", None)
    beside = EASE(13)
    beside.solve(closed_forms.sequences)
    torch.testing.assert_close(beside.table, solved.table)
    monkeypatch.setattr(memory, "available_memory", lambda: 3 * 4 * 13**2 - 1)
    with pytest.raises(UsageError, match="EASE on 13 items needs"):
        beside.solve(closed_forms.sequences)


def test_exactly_enough_memory_is_enough(monkeypatch, closed_forms):
    monkeypatch.setattr(memory, "available_memory", lambda: 2 * 4 * 13**2)
    EASE(13).solve(closed_forms.sequences)


def test_a_singular_matrix_is_an_error():
    with pytest.raises(DiffrecError, match="use a larger regularization"):
        EASE(2, 1e-30).solve(Ragged.from_rows([[1, 2]]))


def test_regularization_must_be_positive():
    with pytest.raises(UsageError, match="regularization must be a finite number above 0, got"):
        EASE(2, 0.0)
