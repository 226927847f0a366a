"""Which codes go together, beside sets of tuples."""

from __future__ import annotations

import itertools

import pytest
import torch

from diffrec.errors import UsageError
from diffrec.nn.code_sets import CodeSets, projected, without_repeats

CODES = torch.randint(0, 4, (12, 3), generator=torch.Generator().manual_seed(0))
TUPLES = [tuple(row) for row in CODES.tolist()]


def test_what_can_follow_any_part():
    sets = CodeSets(CODES, 4)
    for known in itertools.product(range(-1, 4), repeat=3):
        fitting = [t for t in TUPLES if all(k in (-1, c) for k, c in zip(known, t, strict=True))]
        if -1 not in known:
            assert bool(sets.are_items(torch.tensor([known]))) == (known in TUPLES)
        for level in (level for level in range(3) if known[level] == -1):
            got = sets.can_follow(torch.tensor([known]), torch.tensor([level]))[0]
            assert got.nonzero()[:, 0].tolist() == sorted({t[level] for t in fitting})


def test_the_nearest_tuple_is_the_equal_one_where_there_is_one(monkeypatch):
    every = torch.tensor(list(itertools.product(range(4), repeat=3))).view(8, 8, 3)
    catalogue = CODES.unique(dim=0).flip(0)
    expected = projected(every, catalogue)
    monkeypatch.setattr("diffrec.nn.code_sets._COMPARED_AT_ONCE", 3 * len(catalogue))
    assert torch.equal(CodeSets(CODES, 4).nearest(every, catalogue), expected)
    assert torch.equal(projected(every, catalogue), expected)
    for found, asked in zip(expected.flatten(), every.flatten(0, 1), strict=True):
        equal = (catalogue == asked).sum(1)
        assert equal[found] == equal.max()
        assert (equal[:found] < equal.max()).all()
    assert CodeSets(CODES, 4).nearest(every[:0], catalogue).shape == (0, 8)


def test_too_many_codes_are_refused():
    with pytest.raises(UsageError, match="8 levels of 256 codes are too many"):
        CodeSets(torch.zeros(2, 8, dtype=torch.int64), 256)


def test_only_the_best_of_equal_numbers_is_kept():
    numbers = torch.tensor([[5, 2, 5, 9, 2, 5]])
    scores = torch.tensor([[0.1, 0.3, 0.7, 0.2, 0.4, 0.7]])
    kept = without_repeats(numbers, scores)
    low = -torch.inf
    assert kept.tolist() == [[low, low, pytest.approx(0.7), pytest.approx(0.2), pytest.approx(0.4), low]]
    assert without_repeats(numbers[:0], scores[:0]).shape == (0, 6)
