"""BSARec: the last state of a prefix answers, and nothing else is trained."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from diffrec.data.batch import Batch
from diffrec.models.bsarec import BSARec


def test_the_loss_is_the_cross_entropy_of_the_item_behind_the_prefix():
    torch.manual_seed(0)
    model = BSARec(20, embedding_size=8, max_history_length=6).eval()
    torch.nn.init.normal_(model.items.table.weight)
    history, target = torch.tensor([[4, 9, 2], [7, 0, 0]]), torch.tensor([[5], [1]])
    expected = cross_entropy(model.score(history), target[:, 0] - 1)
    torch.testing.assert_close(model.training_loss(Batch(history, target)), expected)


def test_earlier_states_know_what_comes_later():
    """So a loss at every position would give the answer away."""
    torch.manual_seed(0)
    model = BSARec(20, embedding_size=8, max_history_length=6).eval()
    first, second = model.states(torch.tensor([[4, 9, 2], [4, 9, 3]]))
    assert (first - second).abs().amax(1).min() > 1e-3
