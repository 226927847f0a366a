"""`Ragged` against lists of lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffrec.data.ragged import Ragged

lists = st.lists(st.lists(st.integers(1, 9), max_size=6), max_size=7)
some_lists = st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=7)
quick = settings(deadline=None, max_examples=60)


def rows_of(ragged: Ragged) -> list[list[int]]:
    return [ragged[row].tolist() for row in range(len(ragged))]


@st.composite
def lists_and_choice(draw: st.DrawFn) -> tuple[list[list[int]], list[int]]:
    """Rows, and row numbers with repeats in any order."""
    rows = draw(some_lists)
    return rows, draw(st.lists(st.integers(0, len(rows) - 1), max_size=9))


@st.composite
def two_lists(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]]]:
    """Two lists of as many rows."""
    row = st.lists(st.integers(0, 9), max_size=6)
    first = draw(st.lists(row, max_size=7))
    return first, draw(st.lists(row, min_size=len(first), max_size=len(first)))


@quick
@given(lists)
def test_rows_come_back(rows):
    ragged = Ragged.from_rows(rows)
    assert rows_of(ragged) == rows
    assert len(ragged) == len(rows)
    assert ragged.values.dtype == np.int32
    assert ragged.offsets.dtype == np.int64
    assert ragged.lengths.tolist() == [len(row) for row in rows]


@quick
@given(lists)
def test_every_entry_knows_its_row_and_position(rows):
    ragged = Ragged.from_rows(rows)
    assert ragged.row_of_entry.tolist() == [r for r, row in enumerate(rows) for _ in row]
    assert ragged.position_of_entry.tolist() == [p for row in rows for p in range(len(row))]


@quick
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9)), max_size=20))
def test_groups_keep_the_order_inside(pairs):
    groups, values = (np.array([pair[i] for pair in pairs], dtype=np.int64) for i in range(2))
    ragged = Ragged.from_groups(groups, values, 6)
    assert rows_of(ragged) == [[value for group, value in pairs if group == wanted] for wanted in range(6)]


def test_empty_rows():
    assert rows_of(Ragged.empty(3)) == [[], [], []]
    assert len(Ragged.empty(0)) == 0


@pytest.mark.parametrize("offsets", [[0, 2, 4], [0, 2], [1, 2, 3], [0, 3, 2, 3], [0, 4, 3]])
def test_offsets_that_do_not_fit_are_refused(offsets):
    with pytest.raises(ValueError, match="rise from 0 to 3"):
        Ragged(np.array([5, 6, 7]), np.array(offsets))


@quick
@given(lists_and_choice(), st.data())
def test_slices(chosen, data):
    rows, picked = chosen
    bounds = [(data.draw(st.integers(0, len(rows[r]))), data.draw(st.integers(0, len(rows[r])))) for r in picked]
    starts, stops = (np.array([bound[i] for bound in bounds], dtype=np.int64) for i in range(2))
    ragged = Ragged.from_rows(rows)
    got = ragged.slices(starts, stops, np.array(picked, dtype=np.int64))
    assert rows_of(got) == [rows[r][start:stop] for r, (start, stop) in zip(picked, bounds, strict=True)]


@quick
@given(lists, st.integers(0, 4))
def test_slices_of_every_row(rows, start):
    ragged = Ragged.from_rows(rows)
    starts = np.minimum(start, ragged.lengths)
    assert rows_of(ragged.slices(starts, ragged.lengths)) == [row[start:] for row in rows]


@quick
@given(lists_and_choice())
def test_take(chosen):
    rows, picked = chosen
    assert rows_of(Ragged.from_rows(rows).take(np.array(picked, dtype=np.int64))) == [rows[r] for r in picked]


@quick
@given(lists, st.integers(0, 8), st.integers(0, 8))
def test_both_ends(rows, count, skip):
    ragged = Ragged.from_rows(rows)
    assert rows_of(ragged.drop_last(count)) == [row[: max(len(row) - count, 0)] for row in rows]
    kept = [row[: max(len(row) - skip, 0)] for row in rows]
    assert rows_of(ragged.last(count, skip)) == [row[max(len(row) - count, 0) :] for row in kept]


@quick
@given(two_lists())
def test_joined(pair):
    first, second = pair
    joined = Ragged.from_rows(first).joined(Ragged.from_rows(second))
    assert rows_of(joined) == [a + b for a, b in zip(first, second, strict=True)]


@quick
@given(two_lists())
def test_contains_looks_into_the_same_row_only(pair):
    mine, asked = pair
    found = Ragged.from_rows(mine).contains(Ragged.from_rows(asked))
    assert found.tolist() == [value in row for row, other in zip(mine, asked, strict=True) for value in other]


@quick
@given(lists_and_choice(), st.none() | st.integers(1, 5))
def test_padding_stands_behind_the_last_items(chosen, max_length):
    rows, picked = chosen
    got = Ragged.from_rows(rows).padded(np.array(picked, dtype=np.int64), max_length)
    kept = [rows[r] if max_length is None else rows[r][-max_length:] for r in picked]
    width = max(map(len, kept), default=0)
    assert got.shape == (len(picked), width)
    assert got.dtype == np.int64
    assert got.tolist() == [row + [0] * (width - len(row)) for row in kept]


@quick
@given(lists, st.booleans())
def test_a_matrix_counts_and_leaves_the_rows_alone(rows, weighted):
    ragged = Ragged.from_rows(rows)
    weights = np.arange(1, len(ragged.values) + 1, dtype=np.float64) if weighted else None
    expected = np.zeros((len(rows), 9))
    for entry, (row, item) in enumerate(zip(ragged.row_of_entry, ragged.values, strict=True)):
        expected[row, item - 1] += entry + 1 if weighted else 1
    matrix = ragged.to_csr(9, weights)
    assert matrix.toarray().tolist() == expected.tolist()
    assert matrix.nnz == (expected > 0).sum()
    assert rows_of(ragged) == rows
    assert weights is None or weights.tolist() == list(range(1, len(weights) + 1))
