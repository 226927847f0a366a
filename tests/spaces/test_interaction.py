"""The interaction space against vectors filled item by item."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffrec.errors import UsageError
from diffrec.spaces.interaction import InteractionSpace

NUM_ITEMS = 9
histories = st.lists(st.lists(st.integers(1, NUM_ITEMS), max_size=7), min_size=1, max_size=5)
quick = settings(deadline=None, max_examples=60)


def padded(rows: list[list[int]], extra: int = 0) -> torch.Tensor:
    width = max(map(len, rows)) + extra
    return torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=torch.int64).view(len(rows), width)


def filled(row: list[int], low: float = 1.0, high: float = 1.0) -> list[float]:
    """A later mention of an item overwrites an earlier one."""
    vector = [0.0] * NUM_ITEMS
    for place, item in enumerate(row):
        vector[item - 1] = low + (high - low) * place / max(len(row) - 1, 1)
    return vector


@quick
@given(histories, st.integers(0, 3))
def test_multi_hot_vectors(rows, extra):
    vectors = InteractionSpace(NUM_ITEMS).encode(padded(rows, extra))
    assert vectors.dtype == torch.float32
    assert vectors.tolist() == [filled(row) for row in rows]


@quick
@given(histories, st.integers(0, 3), st.sampled_from([(0.1, 1.0), (0.5, 0.5), (0.0, 2.0)]))
def test_recency_is_a_ramp_from_the_oldest_to_the_newest(rows, extra, recency):
    vectors = InteractionSpace(NUM_ITEMS, recency).encode(padded(rows, extra))
    torch.testing.assert_close(vectors, torch.tensor([filled(row, *recency) for row in rows]), rtol=1e-6, atol=1e-7)


def test_the_ends_of_the_ramp():
    vectors = InteractionSpace(5, recency=(0.2, 1.0)).encode(torch.tensor([[4, 2, 5, 0], [3, 0, 0, 0]]))
    torch.testing.assert_close(vectors, torch.tensor([[0, 0.6, 0, 0.2, 1.0], [0, 0, 0.2, 0, 0]]))


@pytest.mark.parametrize("recency", [None, (0.1, 1.0)])
def test_an_empty_history_is_the_zero_vector(recency):
    space = InteractionSpace(4, recency)
    assert space.encode(torch.zeros(2, 3, dtype=torch.int64)).tolist() == [[0.0] * 4] * 2
    assert space.encode(torch.zeros(2, 0, dtype=torch.int64)).tolist() == [[0.0] * 4] * 2


def test_the_vector_is_the_score():
    space, x0 = InteractionSpace(4), torch.randn(3, 4)
    assert torch.equal(space.score(x0), x0)
    assert space.shape == (4,)
    assert not list(space.parameters())


@pytest.mark.parametrize("recency", [(0.5, 0.2), (-0.1, 1.0)])
def test_a_ramp_that_falls_or_starts_below_nothing_is_refused(recency):
    with pytest.raises(UsageError, match=r"0 <= w_min <= w_max, got \("):
        InteractionSpace(4, recency)
