"""GiffCF: its filter, the condition that training sees, the loss and the lists of a small dense reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffrec.data.batch import Batch
from diffrec.data.ragged import Ragged
from diffrec.diffusion.timesteps import TimestepDraw
from diffrec.errors import UsageError
from diffrec.models.giffcf import GiffCF

ITEMS, T, ALPHA, DECAY, WEIGHT, RANK = 12, 3, 1.5, 0.5, 0.2, 4
ROWS = [[1, 2, 3], [2, 3, 4, 5, 2], [5, 6, 7], [7, 8, 9, 1], [10, 11, 3], [4], [6, 9, 10, 11, 12]]


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = GiffCF(
        ITEMS, embedding_size=5, num_train_timesteps=T, alpha=ALPHA, decay=DECAY, ideal_weight=WEIGHT, ideal_rank=RANK
    )
    model.prepare(Ragged.from_rows(ROWS))
    return model


@pytest.fixture
def history():
    """A user of training, one who is new, and one without any item."""
    return torch.tensor([[2, 3, 4, 5, 2], [12, 1, 0, 0, 0], [0, 0, 0, 0, 0]])


@pytest.fixture
def filter():
    """S (N, N) float64."""
    seen = np.zeros((len(ROWS), ITEMS))
    for user, items in enumerate(ROWS):
        seen[user, np.array(items) - 1] = 1
    users, items = np.diag(seen.sum(1)), np.diag(seen.sum(0) ** -0.5)
    a = items @ seen.T @ np.sqrt(np.linalg.inv(users)) @ seen @ items
    a /= np.linalg.eigvalsh(a)[-1]
    _, _, right = np.linalg.svd(np.diag(seen.sum(1) ** -0.25) @ seen @ items)
    return (a + WEIGHT * right[:RANK].T @ right[:RANK]) / (1 + WEIGHT)


def vectors(history):
    x = np.zeros((len(history), ITEMS + 1))
    x[np.arange(len(history))[:, None], history.numpy()] = 1
    return x[:, 1:]


def f(x, filter, time):
    return x + ALPHA * time / T * (x @ filter - x)


def network(model, z, time, condition):
    """The denoiser, which has a test of its own, in its own float32."""
    z, condition = (torch.from_numpy(part).float() for part in (z, condition))
    return model.denoiser(z, torch.tensor([time - 1]), condition).detach().double().numpy()


def test_scores_refine_the_smoothed_history(model, history, filter):
    x = vectors(history)
    condition = np.stack([x, x @ filter], axis=1)
    z = f(x, filter, T)
    for time in (3, 2, 1):
        estimate = network(model, z, time, condition)
        z = f(estimate, filter, time - 1) + DECAY * (z - f(estimate, filter, time))
    np.testing.assert_allclose(model.eval().score(history).detach(), z, rtol=1e-4, atol=1e-5)
    assert model.denoiser_calls == T


def test_the_loss_is_told_a_dropped_history_and_asked_for_the_whole(model, history, filter, monkeypatch):
    model.timesteps.draw = lambda size, device: TimestepDraw(torch.tensor([0, 2, 1]), torch.ones(3))
    x, kept = vectors(history), 2 * (np.random.default_rng(3).random((3, ITEMS)) < 0.5)
    monkeypatch.setattr(model.conditioner.dropout, "forward", lambda c: c * torch.from_numpy(kept).float())
    c = x * kept
    condition = np.stack([c, c @ filter], axis=1)
    each = []
    for row, time in enumerate((1, 3, 2)):
        here = slice(row, row + 1)
        output = network(model, f(x[here], filter, time), time, condition[here])
        each.append(((x[here] - output) ** 2).sum())
    loss = model.train().training_loss(Batch(history, history[:, :0]))
    np.testing.assert_allclose(loss.item(), np.mean(each), rtol=1e-5)


def test_dropping_doubles_what_it_keeps(model, history):
    model.train()
    told = model.conditioner.dropped(history.repeat(200, 1), model.space.encode)[:, 0]
    assert {*told.unique().tolist()} == {0.0, 2.0}
    assert 0.4 < (told[::3] > 0).float().sum() / (200 * 4) < 0.6


def test_a_checkpoint_has_the_graph_once(model):
    names = [name for name in model.state_dict() if name.endswith("graph.table")]
    assert names == ["process.filter.graph.table"]


def test_without_weight_no_ideal_filter_is_computed():
    model = GiffCF(ITEMS, ideal_weight=0.0)
    model.prepare(Ragged.from_rows(ROWS))
    assert model.process.filter.graph.vectors.shape == (ITEMS, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": -1.0}, "alpha must be a finite number from 0"),
        ({"dropout": 1.0}, "dropout must be a finite number from 0 to below 1"),
        ({"ideal_weight": -0.1}, "ideal_weight must be a finite number from 0"),
        ({"num_train_timesteps": 0}, "num_train_timesteps must be a whole number from 1"),
        ({"num_inference_steps": 4}, r"num_inference_steps must be a whole number in 1\.\.3"),
        ({"time_embedding_size": 1}, "time_embedding_size must be a whole number from 2"),
    ],
)
def test_what_is_not_allowed_is_named(arguments, message):
    with pytest.raises(UsageError, match=message):
        GiffCF(ITEMS, **arguments)
