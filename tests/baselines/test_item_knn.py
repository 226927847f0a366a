"""ItemKNN against golden similarities and scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffrec.baselines.item_knn import ItemKNN, cosine
from diffrec.data.neighbours import strongest_per_row
from diffrec.errors import UsageError

GOLDEN = [("s0kall", 0.0, None), ("s50kall", 50.0, None), ("s10k4", 10.0, 4), ("s0k3", 0.0, 3)]


@pytest.fixture(params=GOLDEN, ids=[name for name, *_ in GOLDEN])
def case(request, closed_forms):
    """(prefix of the golden arrays, a solved model): there each candidate keeps its nearest items."""
    name, shrink, neighbours = request.param
    model = ItemKNN(closed_forms.num_items, shrink, neighbours, neighbours_of="candidate")
    model.solve(closed_forms.sequences)
    return f"itemknn.{name}", model


def test_similarities_are_golden(closed_forms, case):
    prefix, model = case
    kept = model.table if model.table.numel() else torch.from_numpy(model.sparse().toarray())
    torch.testing.assert_close(kept, closed_forms.arrays[f"{prefix}.sim"].float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("decay", "scores"), [(1.0, "scores"), (0.7, "decay_scores")])
def test_scores_are_golden(closed_forms, case, decay, scores):
    prefix, model = case
    model.decay = decay
    expected = closed_forms.arrays[f"{prefix}.{scores}"].float()
    torch.testing.assert_close(model.score(closed_forms.history), expected, rtol=1e-5, atol=1e-6)


def test_all_neighbours_in_double_precision(closed_forms):
    similarity = cosine(closed_forms.sequences, 13, 50.0).toarray()
    np.testing.assert_allclose(similarity, closed_forms.arrays["itemknn.s50kall.sim"].numpy(), rtol=1e-14)


def test_each_item_of_the_history_keeps_its_nearest(closed_forms):
    full = closed_forms.arrays["itemknn.s0kall.sim"].numpy()
    expected = np.zeros_like(full)
    for i in range(13):
        nearest = sorted(range(13), key=lambda j: (-full[i, j], j))[:3]
        expected[i, nearest] = full[i, nearest]
    assert not np.allclose(expected, closed_forms.arrays["itemknn.s0k3.sim"].numpy())
    model = ItemKNN(13, shrink=0.0, neighbours=3)
    model.solve(closed_forms.sequences)
    kept = model.table.numpy() if model.table.numel() else model.sparse().toarray()
    np.testing.assert_allclose(kept, expected, rtol=1e-6)


def test_more_neighbours_than_items_keep_everything(closed_forms):
    full = cosine(closed_forms.sequences, 13, 0.0)
    np.testing.assert_array_equal(strongest_per_row(full, 13, 100).toarray(), full.toarray())


@pytest.mark.parametrize("wrong", [{"shrink": -1.0}, {"neighbours": 0}])
def test_arguments_outside_their_range_are_refused(wrong):
    with pytest.raises(UsageError, match="shrink must not be negative and neighbours at least 1"):
        ItemKNN(5, **wrong)
