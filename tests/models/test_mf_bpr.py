"""BPR-MF: its loss, whom it scores by which vector, and that it learns."""

from __future__ import annotations

import pytest
import torch

from diffrec.data.batch import Batch
from diffrec.data.ragged import Ragged
from diffrec.models.mf_bpr import BPRMF

ROWS = [[1, 2, 7], [2, 3], [5, 2, 3]]


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = BPRMF(8, embedding_size=5, weight_decay=0.3)
    model.prepare(Ragged.from_rows(ROWS))
    return model


def test_the_loss_of_triples(model, monkeypatch):
    negatives = torch.tensor([4, 8])
    monkeypatch.setattr(model.unseen, "draw", lambda asked: negatives)
    batch = Batch(torch.zeros(2, 0, dtype=torch.int64), torch.tensor([[7], [3]]), key=torch.tensor([0, 2]))
    users, items = model.users.weight, model.items.table.weight
    expected = torch.zeros(())
    for u, i, j in ((0, 7, 4), (2, 3, 8)):
        expected = expected - torch.sigmoid(users[u] @ items[i] - users[u] @ items[j]).log() / 2
        expected = expected + 0.3 * (users[u].square() + items[i].square() + items[j].square()).sum() / 2 / 2
    torch.testing.assert_close(model.training_loss(batch), expected)


def test_known_users_have_a_row_and_others_are_folded_in(model):
    histories = torch.tensor([[7, 2, 1, 0], [3, 2, 0, 0], [8, 1, 8, 0]])
    items = model.items.table.weight[1:]
    scores = model.score(histories)
    torch.testing.assert_close(scores[:2], model.users.weight[:2] @ items.T)
    gram = items.T @ items
    ridge = gram.trace() / 5 * model.folded_in.ridge
    vector = torch.linalg.inv(gram + ridge * torch.eye(5)) @ (items[7] + items[0])
    torch.testing.assert_close(scores[2], items @ vector, rtol=1e-4, atol=1e-5)


def test_it_learns_more_than_popularity(ndcg, walks, popular):
    data = walks(256)
    torch.manual_seed(0)
    assert ndcg(BPRMF(data.num_items, embedding_size=32, lr=1e-2), data, 12) > 1.5 * popular > 0.05
