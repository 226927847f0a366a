"""Rows of different lengths in one flat array: the shape of every interaction table here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp


@dataclass(frozen=True, eq=False)
class Ragged:
    """Row r is `values[offsets[r]:offsets[r + 1]]`.

    values: (entries,) any dtype; offsets: (rows + 1,) int64, non-decreasing, from 0 to entries.
    """

    values: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.values) or (np.diff(self.offsets) < 0).any():
            seen = f"{self.offsets[:3]}..{self.offsets[-1]}"
            raise ValueError(f"offsets must rise from 0 to {len(self.values)}, got {seen}")

    @classmethod
    def from_lengths(cls, values: np.ndarray, lengths: np.ndarray) -> Ragged:
        """Cut `values` (entries,) into consecutive rows of the given lengths (rows,)."""
        return cls(np.asarray(values), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int | float]], dtype: type = np.int32) -> Ragged:
        """Join a short list of lists; for tests and requests, not for whole datasets."""
        flat = np.fromiter((value for row in rows for value in row), dtype=dtype)
        return cls.from_lengths(flat, np.array([len(row) for row in rows], dtype=np.int64))

    @classmethod
    def from_groups(cls, groups: np.ndarray, values: np.ndarray, num_groups: int) -> Ragged:
        """Gather `values` by group number 0..num_groups-1, keeping the order inside each group."""
        order = np.argsort(groups, kind="stable")
        return cls.from_lengths(values[order], np.bincount(groups, minlength=num_groups))

    @classmethod
    def empty(cls, num_rows: int) -> Ragged:
        """`num_rows` rows without entries."""
        return cls(np.empty(0, dtype=np.int32), np.zeros(num_rows + 1, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @cached_property
    def lengths(self) -> np.ndarray:
        """(rows,) int64."""
        return np.diff(self.offsets)

    @cached_property
    def row_of_entry(self) -> np.ndarray:
        """(entries,) the row each entry belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @cached_property
    def position_of_entry(self) -> np.ndarray:
        """(entries,) the place of each entry inside its row, 0 is the first."""
        return np.arange(len(self.values)) - np.repeat(self.offsets[:-1], self.lengths)

    def slices(self, starts: np.ndarray, stops: np.ndarray, rows: np.ndarray | None = None) -> Ragged:
        """Row i of the result is `self[rows[i]][starts[i]:stops[i]]`; bounds lie inside the row."""
        first = self.offsets[:-1] if rows is None else self.offsets[rows]
        lengths = np.maximum(stops - starts, 0)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        index = np.arange(offsets[-1]) + np.repeat(first + starts - offsets[:-1], lengths)
        return Ragged(self.values[index], offsets)

    def take(self, rows: np.ndarray) -> Ragged:
        """The given rows, in the given order; repeats allowed."""
        return self.slices(np.zeros(len(rows), dtype=np.int64), self.lengths[rows], rows)

    def drop_last(self, count: int) -> Ragged:
        """Every row without its last `count` entries."""
        return self.slices(np.zeros(len(self), dtype=np.int64), np.maximum(self.lengths - count, 0))

    def last(self, count: int, skip: int = 0) -> Ragged:
        """At most `count` entries of every row, counted from the end after leaving out `skip`."""
        stops = np.maximum(self.lengths - skip, 0)
        return self.slices(np.maximum(stops - count, 0), stops)

    def running_total(self) -> Ragged:
        """The sum of each row up to and including each entry."""
        total = np.cumsum(self.values, dtype=np.int64)
        before = np.concatenate([[0], total])[self.offsets[:-1]]
        return Ragged(total - np.repeat(before, self.lengths), self.offsets)

    def joined(self, other: Ragged) -> Ragged:
        """Row r of `self` followed by row r of `other`."""
        rows = np.concatenate([self.row_of_entry, other.row_of_entry])
        return Ragged.from_groups(rows, np.concatenate([self.values, other.values]), len(self))

    def padded(self, rows: np.ndarray, max_length: int | None = None) -> np.ndarray:
        """(len(rows), longest) int64: the last `max_length` entries of each row, 0 behind the end."""
        lengths = self.lengths[rows]
        keep = lengths if max_length is None else np.minimum(lengths, max_length)
        chosen = self.slices(lengths - keep, lengths, rows)
        out = np.zeros((len(rows), int(keep.max(initial=0))), dtype=np.int64)
        out[chosen.row_of_entry, chosen.position_of_entry] = chosen.values
        return out

    def contains(self, other: Ragged) -> np.ndarray:
        """(other entries,) bool: does row r of `self` hold that entry of row r of `other`?"""
        span = int(max(self.values.max(initial=0), other.values.max(initial=0))) + 1
        mine = np.sort(self.row_of_entry * span + self.values)
        asked = other.row_of_entry * span + other.values
        if not len(mine):
            return np.zeros(len(asked), dtype=bool)
        return mine[np.searchsorted(mine, asked).clip(max=len(mine) - 1)] == asked

    def to_csr(self, num_items: int, weights: np.ndarray | None = None) -> sp.csr_array:
        """(rows, num_items) sparse matrix; item number j goes to column j - 1, repeats are summed."""
        data = np.ones(len(self.values), dtype=np.float32) if weights is None else weights
        parts = (data, self.values.astype(np.int64) - 1, self.offsets)
        matrix = sp.csr_array(parts, shape=(len(self), num_items), copy=True)  # summing changes the parts in place
        matrix.sum_duplicates()
        return matrix
