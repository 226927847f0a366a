"""Explanations: the nearest by vectors, and what the score loses without an item."""

from __future__ import annotations

import pytest
import torch

from diffrec.baselines import EASE, ItemKNN
from diffrec.data.synthetic import synthetic
from diffrec.errors import UsageError
from diffrec.inference.explain import explain
from diffrec.models import DreamRec, SASRec


def test_vectors_name_the_item_that_points_the_same_way():
    model = SASRec(6, embedding_size=4, num_heads=1)
    with torch.no_grad():
        model.items.table.weight[1:] = torch.tensor(
            [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [5, 1, 0, 0], [0, 3, 1, 0], [0, 0, 0, 1]]
        )
    told = explain(model, torch.tensor([1, 2, 3, 2]), torch.tensor([4, 5]), nearest=2)
    assert told.method == "vectors"
    assert told.items.tolist() == [[1, 2], [2, 3]]
    assert told.values[0].tolist() == pytest.approx([5 / 26**0.5, 1 / 26**0.5])


def test_leaving_an_item_out_of_a_sum_takes_its_share_away():
    """EASE adds up a row for each item of the history, so the fall of a score is one cell of its table."""
    data = synthetic()
    model = EASE(data.num_items)
    model.solve(data.parts["all"].items)
    told = explain(model, torch.tensor([3, 9, 41]), torch.tensor([5, 7]), nearest=3)
    assert told.method == "leave-one-out"
    for row, item in enumerate((5, 7)):
        shares = {number: float(model.table[number - 1, item - 1]) for number in (3, 9, 41)}
        assert told.items[row].tolist() == sorted(shares, key=lambda number: -shares[number])
        assert told.values[row].tolist() == pytest.approx(sorted(shares.values(), reverse=True), abs=1e-6)


def test_a_repeated_item_is_left_out_whole():
    model = ItemKNN(5)
    model.solve(synthetic(num_users=80, num_items=5).parts["all"].items)
    told = explain(model, torch.tensor([2, 3, 2]), torch.tensor([1]), nearest=5)
    assert sorted(told.items[0].tolist()) == [2, 3]
    assert told.values.sum() == pytest.approx(float(model.checked_scores(torch.tensor([[2, 3, 2]]), None)[0, 0]))


def test_the_noise_stays_while_an_item_is_left_out():
    """Without that, the fall would be the luck of another draw."""
    torch.manual_seed(0)
    model = DreamRec(9, num_train_timesteps=8).eval()
    with torch.no_grad():
        for parameter in model.conditioner.encoder.parameters():
            parameter.zero_()
    told = explain(model, torch.tensor([2, 3]), torch.tensor([5, 6]), method="leave-one-out")
    assert told.values.abs().max() < 1e-5


@pytest.mark.parametrize("method", ["vectors", "leave-one-out"])
def test_an_empty_history_explains_nothing(method):
    told = explain(SASRec(9, embedding_size=4).eval(), torch.tensor([0, 0]), torch.tensor([2, 3]), method=method)
    assert told.items.shape == told.values.shape == (2, 0)


def test_methods_that_there_are():
    with pytest.raises(UsageError, match="ItemKNN has no vectors of items to compare; use leave-one-out"):
        explain(ItemKNN(5), torch.tensor([1]), torch.tensor([2]), method="vectors")
