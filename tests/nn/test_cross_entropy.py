"""Chunked cross-entropy against torch's own, in values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from diffrec.nn import cross_entropy as module
from diffrec.nn.cross_entropy import cross_entropy_over_items

POSITIONS, ITEMS, DIM = 23, 11, 5


def inputs(scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    states, table = (
        (scale * torch.randn(rows, DIM, generator=generator, dtype=torch.float64)).requires_grad_()
        for rows in (POSITIONS, ITEMS)
    )
    return states, table, torch.randint(ITEMS, (POSITIONS,), generator=generator)


@pytest.mark.parametrize("positions_at_once", [1, 2, 7, 22, 23, 24, 1000])
def test_values_and_gradients_for_every_chunk_size(positions_at_once, monkeypatch):
    monkeypatch.setattr(module, "_LOGITS_AT_ONCE", positions_at_once * ITEMS + ITEMS // 2)
    states, table, target = inputs()
    loss = cross_entropy_over_items(states, table, target)
    grads = torch.autograd.grad(loss, (states, table))
    expected = cross_entropy(states @ table.T, target)
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    for got, wanted in zip(grads, torch.autograd.grad(expected, (states, table)), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-15)


def test_a_catalogue_wider_than_a_chunk(monkeypatch):
    monkeypatch.setattr(module, "_LOGITS_AT_ONCE", ITEMS - 1)
    states, table, target = inputs()
    torch.testing.assert_close(cross_entropy_over_items(states, table, target), cross_entropy(states @ table.T, target))


def test_the_gradient_follows_what_comes_after():
    states, table, target = inputs()
    grads = torch.autograd.grad((3 * cross_entropy_over_items(states, table, target)).exp(), (states, table))
    expected = torch.autograd.grad((3 * cross_entropy(states @ table.T, target)).exp(), (states, table))
    for got, wanted in zip(grads, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_large_logits_do_not_overflow():
    states, table, target = inputs(scale=100.0)
    loss = cross_entropy_over_items(states, table, target)
    grads = torch.autograd.grad(loss, (states, table))
    expected = cross_entropy(states @ table.T, target)
    assert expected > 1000
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    for got, wanted in zip(grads, torch.autograd.grad(expected, (states, table)), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


def test_inputs_are_left_alone():
    states, table, target = inputs()
    before = [part.detach().clone() for part in (states, table, target)]
    cross_entropy_over_items(states, table, target).backward()
    assert all(torch.equal(part, old) for part, old in zip((states, table, target), before, strict=True))


@pytest.mark.parametrize("positions_at_once", [1, 7, 1000])
def test_known_logits_with_a_learned_weight(positions_at_once, monkeypatch):
    monkeypatch.setattr(module, "_LOGITS_AT_ONCE", positions_at_once * ITEMS)
    states, table, target = inputs()
    known = torch.rand(POSITIONS, ITEMS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    loss = cross_entropy_over_items(states, table, target, lambda part: known[part], weight)
    expected = cross_entropy(states @ table.T + weight * known, target)
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    ours, theirs = (torch.autograd.grad(2 * value, (states, table, weight)) for value in (loss, expected))
    for got, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-14)
