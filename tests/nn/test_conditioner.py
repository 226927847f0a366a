"""Conditions of histories, and how often training hides them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffrec.nn.conditioner import NullableConditioner, SlotConditioner

DIM = 4


class MeanOfReal(nn.Module):
    def forward(self, embedded, real):
        return (embedded * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)


def conditioner(drop: float) -> tuple[NullableConditioner, nn.Embedding]:
    torch.manual_seed(0)
    return NullableConditioner(MeanOfReal(), DIM, drop), nn.Embedding(10, DIM)


def test_the_encoder_is_given_embeddings_and_real_slots():
    model, table = conditioner(0.5)
    got = model(torch.tensor([[3, 7, 0], [5, 0, 0]]), table)
    torch.testing.assert_close(got, torch.stack([(table.weight[3] + table.weight[7]) / 2, table.weight[5]]))


def test_null_stands_where_the_draw_is_below_the_share():
    model, _ = conditioner(0.3)
    condition = torch.randn(4, DIM)
    got = model.drop_where(condition, torch.tensor([0.0, 0.3, 0.29, 0.9]))
    assert torch.equal(got, torch.stack([model.null[0], condition[1], model.null[0], condition[3]]))


@pytest.mark.parametrize("drop", [0.0, 0.1, 0.6, 1.0])
def test_the_share_of_dropped_conditions(drop):
    model, table = conditioner(drop)
    history = torch.randint(1, 10, (20_000, 3))
    got, kept = model.dropped(history, table), model(history, table)
    hidden = (got == model.null).all(1)
    assert hidden.float().mean().item() == pytest.approx(drop, abs=0.015 if 0 < drop < 1 else 0)
    assert torch.equal(got[~hidden], kept[~hidden])


def test_gradients_go_to_null_or_to_the_history():
    model, table = conditioner(0.5)
    condition = model(torch.tensor([[1], [2], [3]]), table)
    model.drop_where(condition, torch.tensor([0.1, 0.9, 0.1])).sum().backward()
    assert torch.equal(model.null.grad, torch.full((1, DIM), 2.0))
    assert table.weight.grad.abs().sum(1).nonzero()[:, 0].tolist() == [2]


def test_asking_hides_nothing():
    model, table = conditioner(1.0)
    history = torch.tensor([[1, 2]])
    assert torch.equal(model.train()(history, table), model.eval()(history, table))
    assert not torch.equal(model(history, table), model.null)


@pytest.mark.parametrize("pad_to", [None, 5])
def test_every_slot_and_whether_it_is_real(pad_to):
    torch.manual_seed(0)
    model, table = SlotConditioner(DIM, 0.5, pad_to).eval(), nn.Embedding(10, DIM)
    got = model(torch.tensor([[3, 7, 0], [5, 0, 0]]), table)
    slots = pad_to or 3
    assert got.shape == (2, slots, DIM + 1)
    assert got[..., -1].tolist() == [[1.0, 1.0] + [0.0] * (slots - 2), [1.0] + [0.0] * (slots - 1)]
    torch.testing.assert_close(got[0, 1, :-1], nn.functional.layer_norm(table.weight[7], (DIM,), eps=1e-12))
    torch.testing.assert_close(got[:, -1, :-1], nn.functional.layer_norm(table.weight[[0, 0]], (DIM,), eps=1e-12))


def test_slots_are_dropped_out_in_training_only():
    model, table = SlotConditioner(DIM, 0.5), nn.Embedding(10, DIM)
    history = torch.tensor([[1, 2, 3, 4]])
    assert not torch.equal(model.train().dropped(history, table), model.dropped(history, table))
    assert torch.equal(model.eval().dropped(history, table), model(history, table))
