"""GRU4Rec: its recurrence step by step, and its losses by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from diffrec.data.batch import Batch
from diffrec.data.ragged import Ragged
from diffrec.models.gru4rec import GRU4Rec

HISTORY, TARGET = torch.tensor([[4, 9, 2], [7, 0, 0]]), torch.tensor([[9, 2, 5], [1, 0, 0]])
BATCH = Batch(HISTORY, TARGET)


def model(**arguments) -> GRU4Rec:
    torch.manual_seed(0)
    made = GRU4Rec(9, embedding_size=4, max_history_length=5, **arguments).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    made.prepare(Ragged.from_rows([[1, 2, 7, 2], [2, 3], [5, 2, 3, 9]]))
    return made


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_state_remembers_what_its_gates_let_through(num_layers):
    made = model(num_layers=num_layers)
    states = made.states(HISTORY)
    for row, length in ((0, 3), (1, 1)):
        inputs = [made.items.table.weight[item] for item in HISTORY[row, :length].tolist()]
        for layer in range(num_layers):
            w, u = getattr(made.gru, f"weight_ih_l{layer}"), getattr(made.gru, f"weight_hh_l{layer}")
            b, c = getattr(made.gru, f"bias_ih_l{layer}"), getattr(made.gru, f"bias_hh_l{layer}")
            h, outputs = torch.zeros(4), []
            for x in inputs:
                (xr, xz, xn), (hr, hz, hn) = (w @ x + b).chunk(3), (u @ h + c).chunk(3)
                reset, update = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
                h = (1 - update) * torch.tanh(xn + reset * hn) + update * h
                outputs.append(h)
            inputs = outputs
        torch.testing.assert_close(states[row, :length], torch.stack(inputs), rtol=1e-5, atol=1e-6)


def logits_of(made: GRU4Rec) -> tuple[torch.Tensor, torch.Tensor]:
    """Of all items at the four real positions, and the columns of their targets."""
    states = made.states(HISTORY)[HISTORY > 0]
    return states @ made.candidates.table.weight[1:].T + made.bias, TARGET[TARGET > 0] - 1


@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_over_all_items_counts_their_bias(tied):
    made = model(tied=tied)
    logits, column = logits_of(made)
    torch.testing.assert_close(made.training_loss(BATCH), cross_entropy(logits, column))
    torch.testing.assert_close(made.score(HISTORY), logits[[2, 3]])


@pytest.mark.parametrize("logq", [0.0, 0.7])
def test_the_softmax_over_negatives_is_corrected_for_how_often_they_are_drawn(monkeypatch, logq):
    made = model(num_negatives=3, sample_power=0.5, logq=logq)
    drawn = torch.tensor([1, 8, 1])  # the items 2 and 9, of which training has four and one
    monkeypatch.setattr(made.popular, "draw", lambda count: drawn)
    logits, column = logits_of(made)
    counts, losses = [1, 4, 2, 1, 1, 1, 1, 1, 1], []
    for row, at in zip(logits.tolist(), column.tolist(), strict=True):
        own = math.exp(row[at] - logq * math.log(counts[at]))
        others = sum(math.exp(row[j] - 0.5 * logq * math.log(counts[j])) for j in drawn.tolist() if j != at)
        losses.append(-math.log(own / (own + others)))
    assert made.training_loss(BATCH).item() == pytest.approx(sum(losses) / 4, rel=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_bpr_max_bends_scores(monkeypatch, alpha):
    made = model(num_negatives=3, loss="bpr-max", penalty=0.4, elu_alpha=alpha)
    drawn = torch.tensor([1, 8, 5])
    monkeypatch.setattr(made.popular, "draw", lambda count: drawn)
    logits, column = logits_of(made)

    def bent(x: float) -> float:
        return x if x > 0 or not alpha else alpha * (math.exp(x) - 1)

    losses = []
    for row, at in zip(logits.tolist(), column.tolist(), strict=True):
        scores = [bent(row[j]) for j in drawn.tolist() if j != at]
        weights = [math.exp(s) / sum(map(math.exp, scores)) for s in scores]
        ranked = sum(w / (1 + math.exp(s - bent(row[at]))) for w, s in zip(weights, scores, strict=True))
        losses.append(-math.log(ranked) + 0.4 * sum(w * s * s for w, s in zip(weights, scores, strict=True)))
    loss = made.training_loss(BATCH)
    assert loss.item() == pytest.approx(sum(losses) / 4, rel=1e-4)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in made.parameters())


def test_negatives_come_by_popularity():
    made = model(num_negatives=2000, sample_power=1.0)
    torch.manual_seed(0)
    counts = made.popular.draw(10_000).bincount(minlength=9)
    assert counts[[3, 5, 7]].tolist() == [0, 0, 0], "items that training does not have"
    assert counts[1] / counts.sum() == pytest.approx(0.4, abs=0.02)


def test_weights_start_in_their_bounds():
    torch.manual_seed(0)
    made = GRU4Rec(500, embedding_size=24, tied=False)
    table, gates = math.sqrt(6 / (501 + 24)), math.sqrt(6 / 48)
    for space in (made.items, made.candidates):
        assert space.table.weight.abs().max().item() == pytest.approx(table, rel=0.01)
    for weight in (made.gru.weight_ih_l0, made.gru.weight_hh_l0):
        assert weight.abs().max().item() == pytest.approx(gates, rel=0.01)
    assert (made.gru.bias_ih_l0 == 0).all()
    assert (made.gru.bias_hh_l0 == 0).all()


def test_tables_are_drawn_in_the_same_order_in_every_process(monkeypatch):
    """The hashes of modules, and so the order of a set of them, differ from process to process."""
    drawn = []
    monkeypatch.setattr(torch.nn.init, "xavier_uniform_", drawn.append)
    for _ in range(20):
        drawn.clear()
        made = GRU4Rec(9, embedding_size=4, tied=False)
        assert [id(weight) for weight in drawn[:2]] == [id(s.table.weight) for s in (made.items, made.candidates)]


def test_it_learns_what_follows_what(ndcg, walks, popular):
    data = walks(64)
    torch.manual_seed(0)
    assert ndcg(GRU4Rec(data.num_items, embedding_size=32, lr=1e-2), data, 12) > 3 * popular > 0.15
