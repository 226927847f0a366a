"""SASRec: positions, padding, the loss, and what it learns on the synthetic dataset."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from diffrec.data.batch import Batch
from diffrec.models.sasrec import SASRec, SASRecBCE, SASRecSS

WINDOW = 6


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = SASRec(20, embedding_size=8, num_blocks=2, num_heads=2, max_history_length=WINDOW).eval()
    nn.init.normal_(model.position.weight)
    nn.init.normal_(model.items.table.weight)
    return model


def test_positions_count_from_the_end(model):
    """The last of n items has the last position, the first has P - n."""
    model.transformer = nn.Identity()
    rows = [[3], [5, 1, 7], [1, 2, 3, 4, 5, 6]]
    history = torch.tensor([row + [0] * (WINDOW - len(row)) for row in rows])
    states = model.states(history)
    for got, row in zip(states, rows, strict=True):
        for slot, item in enumerate(row):
            expected = model.items.table.weight[item] + model.position.weight[WINDOW - len(row) + slot]
            torch.testing.assert_close(got[slot], expected)


def test_padding_changes_nothing(model):
    short = torch.tensor([[4, 9, 2], [7, 0, 0]])
    longer = nn.functional.pad(short, (0, 3))
    torch.testing.assert_close(model.score(longer), model.score(short), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        model.items.table.weight[0] = 50.0
    torch.testing.assert_close(model.score(longer), model.score(short), rtol=1e-5, atol=1e-5)


def test_a_row_does_not_depend_on_its_neighbours(model):
    together = model.score(torch.tensor([[4, 9, 2, 11], [7, 0, 0, 0]]))
    torch.testing.assert_close(model.score(torch.tensor([[7]])), together[1:], rtol=1e-5, atol=1e-5)


def test_a_later_item_changes_no_earlier_state(model):
    """Both sequences are as long, so every item keeps its position."""
    first, second = model.states(torch.tensor([[4, 9, 2, 11], [4, 9, 3, 11]]))
    torch.testing.assert_close(first[:2], second[:2], rtol=0, atol=1e-6)
    assert ((first - second).abs().amax(1)[2:] > 1e-5).all()


def test_the_loss_is_the_cross_entropy_at_every_real_position(model):
    batch = Batch(torch.tensor([[4, 9, 2], [7, 0, 0]]), torch.tensor([[9, 2, 5], [1, 0, 0]]))
    logits = model.states(batch.history) @ model.items.table.weight[1:].T
    picked = [(0, 0, 9), (0, 1, 2), (0, 2, 5), (1, 0, 1)]
    losses = [cross_entropy(logits[row, slot], torch.tensor(item - 1)) for row, slot, item in picked]
    torch.testing.assert_close(model.training_loss(batch), torch.stack(losses).mean())


def test_the_score_is_the_logit_after_the_last_item(model):
    history = torch.tensor([[4, 9, 2], [7, 0, 0]])
    states = model.states(history)
    last = torch.stack([states[0, 2], states[1, 0]])
    torch.testing.assert_close(model.score(history), last @ model.items.table.weight[1:].T)


@pytest.mark.parametrize("kind", [SASRec, SASRecSS])
def test_ss_is_the_same_network_with_another_loss(kind):
    torch.manual_seed(3)
    model = kind(20, embedding_size=8, num_blocks=2, num_heads=2, max_history_length=WINDOW, dropout=0.0)
    history = torch.tensor([[4, 9, 2], [7, 0, 0]])
    torch.manual_seed(3)
    reference = SASRec(20, embedding_size=8, num_blocks=2, num_heads=2, max_history_length=WINDOW, dropout=0.0)
    assert torch.equal(model.score(history), reference.score(history))


def test_the_softmax_over_many_negatives_tends_to_the_one_over_all():
    """With n draws from N items, the negatives stand for n / N times the catalogue."""
    torch.manual_seed(0)
    model = SASRecSS(20, embedding_size=8, max_history_length=WINDOW, num_negatives=20_000).eval()
    nn.init.normal_(model.items.table.weight)
    batch = Batch(torch.tensor([[4, 9, 2], [7, 0, 0]]), torch.tensor([[9, 2, 5], [1, 0, 0]]))
    logits = (model.states(batch.history) @ model.items.table.weight[1:].T)[batch.target > 0]
    target = batch.target[batch.target > 0][:, None] - 1
    others = logits.exp().sum(1, keepdim=True) - logits.gather(1, target).exp()
    expected = torch.log1p(1000 * others / logits.gather(1, target).exp()).mean()
    torch.testing.assert_close(model.training_loss(batch), expected, rtol=2e-3, atol=0)


def test_bce_scales_the_items_and_wants_one_negative():
    torch.manual_seed(0)
    model = SASRecBCE(2, embedding_size=4, max_history_length=WINDOW).eval()
    nn.init.normal_(model.items.table.weight)
    history = torch.tensor([[1, 2]])
    states = model.states(history)
    model.transformer = nn.Identity()
    expected = 2 * model.items.table.weight[[1, 2]] + model.position.weight[-2:]
    torch.testing.assert_close(model.states(history)[0], expected)
    with torch.no_grad():
        torch.manual_seed(1)
        losses = {round(model.loss_of(states[0, :1], torch.tensor([2])).item(), 5) for _ in range(20)}
    positive, negative = states[0, 0] @ model.items.table.weight[2], states[0, 0] @ model.items.table.weight[1]
    alone = nn.functional.softplus(-positive)  # where the target itself was drawn
    assert losses == {round(x.item(), 5) for x in (alone, alone + nn.functional.softplus(negative))}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small gain nothing from two, which wait for one another wherever a core is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class LossPerEpoch(pl.Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


def test_it_learns_what_follows_what(ndcg, walks, popular):
    data = walks(64)
    torch.manual_seed(0)
    watched = LossPerEpoch()
    model = SASRec(data.num_items, embedding_size=32, num_blocks=1, lr=1e-2)
    assert ndcg(model, data, 12, watched) > 3 * popular > 0.15
    thirds = [sum(watched.losses[i : i + 4]) for i in (0, 4, 8)]
    assert thirds == sorted(thirds, reverse=True)
    assert watched.losses[-1] < 0.8 * watched.losses[0]
