"""Conditions of histories, and how often training hides them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffrec.nn.conditioner import NullableConditioner

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
