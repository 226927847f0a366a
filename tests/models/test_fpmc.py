"""FPMC: its loss and scores by hand, and that it learns who comes after whom."""

from __future__ import annotations

import pytest
import torch

from diffrec.data.batch import Batch
from diffrec.data.ragged import Ragged
from diffrec.models.fpmc import FPMC

ROWS = [[1, 2, 7], [2, 3], [5, 2, 3]]


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = FPMC(8, embedding_size=5, init_std=1.0, weight_decay=0.3)
    model.prepare(Ragged.from_rows(ROWS))
    return model


def affinity(model: FPMC, user: torch.Tensor, last: int, item: int) -> torch.Tensor:
    to_user, to_previous = model.items.table.weight[item].split(5)
    return user @ to_user + model.previous.table.weight[last] @ to_previous


def test_the_loss_of_transitions(model, monkeypatch):
    drawn = torch.tensor([4, 8, 3])
    monkeypatch.setattr(torch, "randint", lambda low, high, shape, device: drawn)
    history, target = torch.tensor([[1, 2], [2, 0]]), torch.tensor([[2, 7], [3, 0]])
    expected = torch.zeros(())
    for u, last, i, j in ((0, 1, 2, 4), (0, 2, 7, 8), (2, 2, 3, 3)):
        user = model.users.weight[u]
        margin = affinity(model, user, last, i) - affinity(model, user, last, j)
        expected = expected - torch.sigmoid(margin).log() / 3
        used = (user, model.previous.table.weight[last], model.items.table.weight[i], model.items.table.weight[j])
        expected = expected + 0.3 * sum(v.square().sum() for v in used) / 2 / 3
    torch.testing.assert_close(model.training_loss(Batch(history, target, key=torch.tensor([0, 2]))), expected)


def test_known_users_have_a_row_and_others_are_folded_in(model):
    histories = torch.tensor([[1, 2, 7, 0], [5, 2, 3, 4], [8, 1, 8, 0]])
    to_user = model.items.table.weight[1:, :5]
    gram = to_user.T @ to_user
    ridge = gram.trace() / 5 * model.folded_in.ridge
    folded = torch.linalg.inv(gram + ridge * torch.eye(5)) @ (to_user[7] + to_user[0])
    users = [model.users.weight[0], model.users.weight[2], folded]
    for row, user, last in zip(model.score(histories), users, (7, 4, 8), strict=True):
        expected = torch.stack([affinity(model, user, last, item) for item in range(1, 9)])
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-5)


def test_without_a_history_nothing_is_known(model):
    assert (model.score(torch.zeros(1, 2, dtype=torch.int64)) == 0).all()


def test_it_learns_what_follows_what(ndcg, walks, popular):
    data = walks(64)
    torch.manual_seed(0)
    assert ndcg(FPMC(data.num_items, embedding_size=32, lr=1e-2), data, 20) > 2 * popular > 0.05
