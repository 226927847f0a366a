"""The embedding space: rows of the table one way, inner products the other."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch.nn.functional import cosine_similarity

from diffrec.errors import UsageError
from diffrec.spaces.embedding import EmbeddingSpace, Readout


@pytest.fixture
def space():
    torch.manual_seed(0)
    return EmbeddingSpace(6, 4)


def test_items_become_rows_of_the_table_in_any_shape(space):
    rows = space.table.weight.tolist()
    assert len(rows) == 7
    assert space.shape == (len(rows[0]),) == (4,)
    items = torch.tensor([[1, 6, 0], [3, 3, 2]])
    assert space.encode(items).tolist() == [[rows[item] for item in row] for row in items.tolist()]
    assert space.encode(items[:, 1]).tolist() == [rows[6], rows[3]]


def test_scores_are_inner_products_without_padding(space):
    x0 = torch.randn(3, 4)
    expected = [[sum(a * b for a, b in zip(x, row, strict=True)) for row in space.table.weight.tolist()[1:]]
                for x in x0.tolist()]  # fmt: skip
    torch.testing.assert_close(space.score(x0), torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_padding_has_no_column(space):
    x0 = torch.randn(3, 4)
    before = space.score(x0)
    with torch.no_grad():
        space.table.weight[0] = 1e6
    assert torch.equal(space.score(x0), before)
    assert before.shape == (3, 6)


def test_an_orthonormal_table_finds_every_item_again():
    space = EmbeddingSpace(5, 6)
    with torch.no_grad():
        space.table.weight.copy_(torch.eye(6))
    items = torch.arange(1, 6)
    assert (space.score(space.encode(items)).argmax(1) + 1).tolist() == items.tolist()


@pytest.mark.parametrize("init_std", [1.0, 0.02])
def test_the_table_starts_with_the_given_spread(init_std):
    torch.manual_seed(0)
    table = EmbeddingSpace(2000, 32, init_std).table.weight
    assert table.std().item() == pytest.approx(init_std, rel=0.02)
    assert table.mean().item() == pytest.approx(0, abs=0.02 * init_std)


def test_both_ways_train_the_table(space):
    space.encode(torch.tensor([2, 0])).sum().backward()
    assert space.table.weight.grad.abs().sum(1).gt(0).tolist() == [True, False, True, False, False, False, False]
    space.table.weight.grad = None
    space.score(torch.ones(1, 4)).sum().backward()
    assert space.table.weight.grad.abs().sum(1).gt(0).tolist() == [False, *[True] * 6]


@pytest.mark.parametrize("unit_norm", [False, True])
@pytest.mark.parametrize("readout", get_args(Readout))
def test_readouts(readout, unit_norm):
    torch.manual_seed(0)
    space = EmbeddingSpace(6, 4, unit_norm=unit_norm, readout=readout)
    x0, items = torch.randn(3, 4), space.encode(torch.arange(1, 7))
    if unit_norm:
        torch.testing.assert_close(items.norm(dim=1), torch.ones(6))
        torch.testing.assert_close(items.sum(1) > 0, space.table.weight[1:].sum(1) > 0)
    expected = {
        "inner_product": x0 @ items.T,
        "cosine": cosine_similarity(x0[:, None], items[None], dim=2),
        "euclidean": (x0.square().sum(1, keepdim=True) - torch.cdist(x0, items).square()) / 2,
    }[readout]
    torch.testing.assert_close(space.score(x0), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(space.query(x0) @ space.keys.T, expected, rtol=1e-4, atol=1e-5)


def test_a_frozen_table_keeps_the_widest_directions_of_its_vectors():
    torch.manual_seed(0)
    vectors = torch.randn(200, 5) * torch.tensor([9.0, 1.0, 6.0, 0.1, 3.0]) + 4
    space = EmbeddingSpace(200, 3, frozen=True)
    space.fill(vectors)
    table = space.table.weight[1:]
    assert not table.requires_grad
    torch.testing.assert_close(table.T.cov(), torch.eye(3), rtol=1e-4, atol=1e-4)
    strongest = torch.stack([table.T, vectors[:, [0, 2, 4]].T.flip(0)]).flatten(0, 1).corrcoef()[:3, 3:].abs()
    assert (strongest.max(1).values > 0.95).all()


def test_what_is_learned_beside_a_frozen_table_is_added_to_it():
    torch.manual_seed(0)
    space = EmbeddingSpace(9, 3, frozen=True, learn_ids=True)
    space.fill(torch.randn(9, 4))
    items = torch.arange(10)
    assert torch.equal(space.encode(items), space.table(items))  # nothing is learned yet
    assert [name for name, p in space.named_parameters() if p.requires_grad] == ["ids.weight"]
    with torch.no_grad():
        space.ids.weight += torch.randn(10, 3)
    torch.testing.assert_close(space.encode(items), space.table.weight + space.ids.weight)
    torch.testing.assert_close(space.vectors, space.encode(items[1:]))
    space.encode(items).sum().backward()
    assert space.ids.weight.grad.abs().sum() > 0
    assert space.table.weight.grad is None


def test_there_is_nothing_to_add_to_a_table_that_is_learned():
    with pytest.raises(UsageError, match="learn_ids adds to a frozen table, so item_vectors are needed"):
        EmbeddingSpace(9, 3, learn_ids=True)
