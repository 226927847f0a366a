"""How a dataset becomes training sequences and evaluation cases. Nothing here loops over users."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffrec.data.dataset import Dataset
from diffrec.data.ragged import Ragged
from diffrec.errors import UsageError


@dataclass(frozen=True, eq=False)
class Cases:
    """Requests with their answers: row r asks with `history[r]`, the truth is `target[r]`.

    seen: items that the protocol takes out of the candidates; key: (rows,) number of the user.
    """

    history: Ragged
    target: Ragged
    seen: Ragged
    key: np.ndarray

    def __len__(self) -> int:
        return len(self.history)

    def take(self, rows: np.ndarray) -> Cases:
        """The given rows, in the given order."""
        return Cases(self.history.take(rows), self.target.take(rows), self.seen.take(rows), self.key[rows])


@dataclass(frozen=True, eq=False)
class Split:
    """Training sequences (one row a user or published sequence) and the cases of both evaluations."""

    train: Ragged
    valid: Cases
    test: Cases


def whole(dataset: Dataset, minimum: int) -> Ragged:
    """All sequences of at least `minimum` items; refuses datasets whose split is fixed by files."""
    if "all" not in dataset.parts:
        raise UsageError(f"{dataset.name} is split by its files ({', '.join(dataset.parts)}), not by this protocol")
    sequences = dataset.parts["all"].items
    kept = sequences.take(np.flatnonzero(sequences.lengths >= minimum))
    if not len(kept):
        raise UsageError(f"{dataset.name} has no user with at least {minimum} interactions")
    return kept


def leave_one_out(dataset: Dataset) -> Split:
    """Last item for test, last but one for validation, the rest for training (users with 3 or more)."""
    sequences = whole(dataset, minimum=3)
    key = np.arange(len(sequences))
    train, test_history = sequences.drop_last(2), sequences.drop_last(1)
    valid = Cases(train, sequences.last(1, skip=1), train, key)
    return Split(train, valid, Cases(test_history, sequences.last(1), test_history, key))


def temporal_ratio(dataset: Dataset, valid: float = 0.1, test: float = 0.1) -> Split:
    """The last `test` share of each user's items for test, the `valid` share before it for validation.

    Every part of a kept user (3 or more items) holds at least one item.
    """
    sequences = whole(dataset, minimum=3)
    lengths = sequences.lengths
    num_test = np.maximum((lengths * test).astype(np.int64), 1)
    num_valid = np.maximum((lengths * valid).astype(np.int64), 1)
    if (short := lengths - num_test - num_valid < 1).any():
        raise UsageError(f"shares {valid} and {test} leave {short.sum()} users without a training item")
    stop_train, stop_valid, start = lengths - num_test - num_valid, lengths - num_test, np.zeros_like(lengths)
    history = sequences.slices(start, stop_train)
    before_test = sequences.slices(start, stop_valid)
    key = np.arange(len(sequences))
    return Split(
        history,
        Cases(history, sequences.slices(stop_train, stop_valid), history, key),
        Cases(before_test, sequences.slices(stop_valid, lengths), before_test, key),
    )


def by_user(dataset: Dataset, valid: float = 0.1, test: float = 0.1, seed: int = 0, max_history: int = 10) -> Split:
    """Whole users for training, others for validation and test: predict the last item of each.

    Published `train` / `valid` / `test` files are used where the dataset has them; otherwise users
    with 3 or more items are drawn by `seed`. Histories are cut to the last `max_history` items.
    """
    if "all" in dataset.parts:
        sequences = whole(dataset, minimum=3)
        order = np.random.default_rng(seed).permutation(len(sequences))
        bounds = np.cumsum([len(order) - int(len(order) * valid) - int(len(order) * test), int(len(order) * valid)])
        parts = [sequences.take(rows) for rows in np.split(order, bounds)]
    else:
        parts = _published(dataset)
    train, *held_out = parts
    first_key = np.cumsum([len(part) for part in parts])
    cases = [
        Cases(
            (history := part.drop_last(1).last(max_history)),
            part.last(1),
            history,
            np.arange(len(part)) + first,
        )
        for part, first in zip(held_out, first_key[:-1], strict=True)
    ]
    return Split(train, *cases)


def _published(dataset: Dataset) -> list[Ragged]:
    """The parts train, valid and test of a dataset that its publisher has split."""
    needed = ("train", "valid", "test")
    if missing := [name for name in needed if name not in dataset.parts]:
        raise UsageError(f"{dataset.name} has no part {', '.join(missing)}; its parts: {', '.join(dataset.parts)}")
    return [dataset.parts[name].items for name in needed]


def fixed_files(dataset: Dataset, history_with_valid: bool = False) -> Split:
    """The publisher's aligned train, validation and test items of each user.

    While testing, train and validation items are masked; the history is the training part, or both
    with `history_with_valid`. Users without a target in a part are not asked there.
    """
    train, valid, test = _published(dataset)
    if not dataset.aligned:
        raise UsageError(f"{dataset.name} has files train, valid, test, but their rows are not the same users")
    both = train.joined(valid)
    key = np.arange(len(train))
    valid_cases = Cases(train, valid, train, key)
    test_cases = Cases(both if history_with_valid else train, test, both, key)
    return Split(
        train,
        valid_cases.take(np.flatnonzero(valid.lengths)),
        test_cases.take(np.flatnonzero(test.lengths)),
    )
