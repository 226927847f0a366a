"""LightGCN against its equations over dense matrices, and users whom training did not meet."""

from __future__ import annotations

import pytest
import torch

from diffrec.data.batch import Batch
from diffrec.data.ragged import Ragged
from diffrec.models.lightgcn import LightGCN

ROWS = [[1, 2, 7], [2, 3], [5, 2, 3, 5], [4, 1], [], [6, 7, 1, 2]]
ITEMS, LAYERS = 8, 3


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = LightGCN(ITEMS, embedding_size=5, num_layers=LAYERS, weight_decay=0.3)
    model.prepare(Ragged.from_rows(ROWS))
    return model


def written_out(model: LightGCN) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Layer 0 and the layers above it, by the normalised adjacency matrix."""
    x = torch.zeros(len(ROWS), ITEMS)
    for user, row in enumerate(ROWS):
        x[user, [item - 1 for item in row]] = 1
    normed = x / x.sum(1, keepdim=True).clamp(min=1).sqrt() / x.sum(0).clamp(min=1).sqrt()
    users, items = model.users.weight, model.items.table.weight[1:]
    layers = [torch.cat([users, items])]
    for _ in range(LAYERS):
        users, items = normed @ items, normed.T @ users
        layers.append(torch.cat([users, items]))
    return layers[0], layers


def test_loss_and_gradients(model, monkeypatch):
    """Negatives are given; L2 acts on the vectors of layer 0 that the batch uses, halved, divided by the batch."""
    users, positives, negatives = torch.tensor([0, 2, 2, 5]), torch.tensor([7, 5, 3, 1]), torch.tensor([4, 8, 1, 5])
    monkeypatch.setattr(model.unseen, "draw", lambda asked: negatives)
    loss = model.training_loss(Batch(torch.zeros(4, 0, dtype=torch.int64), positives[:, None], key=users))
    first, layers = written_out(model)
    final = sum(layers) / (LAYERS + 1)
    expected = torch.zeros(())
    for u, i, j in zip(users.tolist(), positives.tolist(), negatives.tolist(), strict=True):
        nodes = [u, len(ROWS) + i - 1, len(ROWS) + j - 1]
        user, positive, negative = final[nodes]
        expected = expected - torch.sigmoid(user @ positive - user @ negative).log() / 4
        expected = expected + 0.3 * first[nodes].square().sum() / 2 / 4
    torch.testing.assert_close(loss, expected)
    weights = [model.users.weight, model.items.table.weight]
    for ours, plain in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(ours, plain)


def test_item_vectors_are_the_means_of_the_layers_of_the_items(model):
    final = sum(written_out(model)[1]) / (LAYERS + 1)
    torch.testing.assert_close(model.item_embeddings, final[len(ROWS) :])


def test_a_known_user_is_scored_by_the_mean_of_the_layers(model):
    final = sum(written_out(model)[1]) / (LAYERS + 1)
    users, items = final.split([len(ROWS), ITEMS])
    histories = torch.tensor([[2, 7, 1, 0], [3, 5, 2, 0], [1, 4, 0, 0]])
    torch.testing.assert_close(model.eval().score(histories), users[[0, 2, 3]] @ items.T)


def test_an_unknown_user_has_the_layers_of_its_items(model):
    """All but layer 0 follow from the items as they do for a known user; layer 0 is that of the regression."""
    _, layers = written_out(model)
    sizes = [len(ROWS), ITEMS]
    above = torch.cat([layer.split(sizes)[0] for layer in layers[1:]], dim=1).detach()
    tables = model.eval()._propagated()
    first = above @ tables.estimate[:-1] + tables.estimate[-1]
    expected = (first + above.view(len(ROWS), LAYERS, -1).sum(1)) / (LAYERS + 1)
    histories = torch.tensor([row + [0] * (4 - len(row)) for row in ROWS])
    torch.testing.assert_close(tables.unknown(histories), expected, rtol=1e-4, atol=1e-5)


def test_the_regression_finds_layer_0_where_it_follows_from_the_others():
    torch.manual_seed(1)
    model = LightGCN(30, embedding_size=3, num_layers=2)
    rows = [torch.randperm(30)[: 3 + user % 5].add(1).tolist() for user in range(200)]
    model.prepare(Ragged.from_rows(rows))
    degrees = model.graph.degrees.sqrt()
    mixing, constant = torch.randn(3, 3), torch.randn(3)
    with torch.no_grad():
        items = torch.cat([model.users.weight, model.items.table.weight[1:]])
        above = model.graph.layers(items, 1)[1] * degrees
        model.users.weight.copy_(above[:200] @ mixing + constant)  # layer 1 of the users is of the items alone
    tables = model.eval()._propagated()
    assert (tables.estimate[-1] - constant).abs().max() < 0.2 * constant.abs().max()
    histories = torch.tensor([row + [0] * (7 - len(row)) for row in rows])
    assert (tables.unknown(histories) - tables.users).square().mean() < 0.01 * tables.users.square().mean()


def test_a_history_that_goes_on_keeps_its_user(model):
    known, gone_on = model.score(torch.tensor([[1, 2, 7, 0], [1, 2, 7, 3]]))
    torch.testing.assert_close(known, gone_on)
    assert not torch.allclose(model.score(torch.tensor([[1, 2, 3, 7]])), known), "nobody is known by these"


def test_what_is_kept_for_scoring_follows_the_weights(model):
    histories = torch.tensor([[1, 2, 7], [8, 0, 0]])
    before = model.score(histories)
    with torch.no_grad():
        model.items.table.weight.mul_(2)
    assert not torch.allclose(model.score(histories), before)
    kept = model._propagated()
    assert model._propagated() is kept
    model.training_loss(Batch(histories[:1, :0], histories[:1, :1], key=torch.tensor([0])))
    assert model._propagated() is not kept
