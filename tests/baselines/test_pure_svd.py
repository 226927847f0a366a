"""PureSVD against the dense singular value decomposition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffrec.baselines.pure_svd import PureSVD
from diffrec.data.ragged import Ragged
from diffrec.errors import UsageError


@pytest.mark.parametrize("normalisation", ["raw", "symmetric"])
def test_scores_are_projections_onto_the_strongest_vectors(closed_forms, normalisation):
    seen = closed_forms.arrays["data.X"].double().numpy()
    degrees = np.outer(seen.sum(1), np.maximum(seen.sum(0), 1))  # there is an item of nobody
    matrix = seen / np.sqrt(degrees) if normalisation == "symmetric" else seen
    vectors = np.linalg.svd(matrix)[2][:4]
    model = PureSVD(closed_forms.num_items, rank=4, normalisation=normalisation)
    model.solve(closed_forms.sequences)
    np.testing.assert_allclose(model.score(closed_forms.history), seen @ vectors.T @ vectors, atol=1e-6)


def test_recent_items_count_more(closed_forms):
    model = PureSVD(closed_forms.num_items, rank=4, decay=0.5)
    model.solve(closed_forms.sequences)
    projection = (model.vectors @ model.vectors.T).numpy()
    expected = 0.25 * projection[2] + projection[4]  # the first of the two events of item 5 does not count
    np.testing.assert_allclose(model.score(torch.tensor([[5, 3, 5, 5]]))[0], expected, atol=1e-6)


def test_vectors_have_the_same_bytes_at_every_run(closed_forms):
    first, second = (PureSVD(closed_forms.num_items, rank=6) for _ in range(2))
    first.solve(closed_forms.sequences)
    np.random.default_rng().random(3)
    second.solve(closed_forms.sequences)
    assert first.vectors.numpy().tobytes() == second.vectors.numpy().tobytes()
    assert (first.vectors.abs().max(0).values == first.vectors.max(0).values).all()


def test_there_are_as_many_vectors_as_the_rank_of_the_matrix(closed_forms):
    seen = closed_forms.arrays["data.X"].numpy()
    for users in (len(seen), 6):
        model = PureSVD(closed_forms.num_items, rank=100)
        model.solve(closed_forms.sequences.take(np.arange(users)))
        assert model.vectors.shape == (13, np.linalg.matrix_rank(seen[:users]))


def test_users_of_nothing_change_nothing(closed_forms):
    with_empty = Ragged.from_lengths(
        closed_forms.sequences.values, np.concatenate([closed_forms.sequences.lengths, [0, 0]])
    )
    alone, beside = (PureSVD(closed_forms.num_items + 1, 4, "symmetric") for _ in range(2))
    alone.solve(closed_forms.sequences)
    beside.solve(with_empty)
    torch.testing.assert_close(beside.vectors @ beside.vectors.T, alone.vectors @ alone.vectors.T)


def test_no_event_at_all_is_an_error():
    with pytest.raises(UsageError, match="singular vectors need interactions, got none of 5 users and 4 items"):
        PureSVD(4).solve(Ragged.empty(5))


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"decay": 1.5}])
def test_arguments_outside_their_range_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        PureSVD(5, **wrong)
