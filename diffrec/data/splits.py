"""How a dataset becomes training sequences and evaluation cases. Nothing here loops over users."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from diffrec.data.dataset import Dataset, Interactions
from diffrec.data.ragged import Ragged
from diffrec.errors import UsageError

_FEWEST = 3  # items of a user: one each to train, to validate and to test on
_HASHED = ("history", "target", "seen", "key", "unavailable", "times")  # of cases
_LONGEST_HISTORY = 10  # items, of the protocols that keep whole users out


@dataclass(frozen=True, eq=False)
class Cases:
    """Requests with their answers: row r asks with `history[r]`, the truth is `target[r]`.

    seen: items that the protocol takes out of the candidates; key: (rows,) number of the user;
    users: (rows,) id of the user in the source as str, None where there is none;
    times: the second of every item of the history, where the dataset knows it;
    unavailable: numbers of the items that are candidates in no row. A target may be one: it counts as a miss.
    """

    history: Ragged
    target: Ragged
    seen: Ragged
    key: np.ndarray
    users: np.ndarray | None = None
    unavailable: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    times: Ragged | None = None

    def __len__(self) -> int:
        return len(self.history)

    def take(self, rows: np.ndarray) -> Cases:
        """The given rows, in the given order."""
        history, target, seen = (part.take(rows) for part in (self.history, self.target, self.seen))
        users = None if self.users is None else self.users[rows]
        times = None if self.times is None else self.times.take(rows)
        return Cases(history, target, seen, self.key[rows], users, self.unavailable, times)


@dataclass(frozen=True)
class TrainingPart:
    """Which interactions something was learnt from: those that `protocol` (an id) trains on of the named dataset."""

    dataset: str
    protocol: str


@dataclass(frozen=True, eq=False)
class Split:
    """Training sequences (one row a user or published sequence) and the cases of both evaluations.

    times: the second of every training item, where the dataset knows more than the order: since 1970 if `dated`, else
    since some time of the row's own; part: what `train` is, where a protocol made it; too_short: how many users are in
    no part, for having fewer than three items.
    """

    train: Ragged
    valid: Cases
    test: Cases
    times: Ragged | None = None
    dated: bool = False
    part: TrainingPart | None = None
    too_short: int = 0

    @property
    def timestamps(self) -> Ragged | None:
        """`times` where they can be compared between rows."""
        return self.times if self.dated else None

    @cached_property
    def sha256(self) -> str:
        """Hash of every number of the training sequences and of both evaluations, in their order, by part."""
        parts: dict[str, Ragged | np.ndarray | None] = {"train": self.train, "times": self.times}
        for name, cases in (("valid", self.valid), ("test", self.test)):
            parts |= {f"{name} {field}": getattr(cases, field) for field in _HASHED}
        digest = hashlib.sha256()
        for name, part in parts.items():
            arrays = () if part is None else (part.offsets, part.values) if isinstance(part, Ragged) else (part,)
            for array in arrays:
                digest.update(f"{name} {len(array)}\n".encode())
                digest.update(array.astype("<f8" if array.dtype.kind == "f" else "<i8").data)
        return digest.hexdigest()


def whole(dataset: Dataset, minimum: int) -> Interactions:
    """All users with at least `minimum` items; refuses datasets whose split is fixed by files."""
    if "all" not in dataset.parts:
        raise UsageError(f"{dataset.name} is split by its files ({', '.join(dataset.parts)}), not by this protocol")
    everybody = dataset.parts["all"]
    kept = everybody.take(np.flatnonzero(everybody.items.lengths >= minimum))
    if not len(kept):
        raise UsageError(f"{dataset.name} has no user with at least {minimum} interactions")
    return kept


def leave_one_out(dataset: Dataset) -> Split:
    """Last item for test, last but one for validation, the rest for training (users with 3 or more)."""
    kept = whole(dataset, _FEWEST)
    sequences, users, key = kept.items, kept.user_ids, np.arange(len(kept))
    train, test_history = sequences.drop_last(2), sequences.drop_last(1)
    valid = Cases(train, sequences.last(1, skip=1), train, key, users)
    test = Cases(test_history, sequences.last(1), test_history, key, users)
    return Split(train, valid, test, too_short=dataset.num_users - len(kept))


def temporal_ratio(dataset: Dataset, valid: float = 0.1, test: float = 0.1) -> Split:
    """The last `test` share of each user's items for test, the `valid` share before it for validation.

    Every part of a kept user (3 or more items) holds at least one item.
    """
    kept = whole(dataset, _FEWEST)
    sequences, lengths = kept.items, kept.items.lengths
    num_test = np.maximum((lengths * test).astype(np.int64), 1)
    num_valid = np.maximum((lengths * valid).astype(np.int64), 1)
    if (short := lengths - num_test - num_valid < 1).any():
        raise UsageError(f"shares {valid} and {test} leave {short.sum()} users without a training item")
    stop_train, stop_valid, start = lengths - num_test - num_valid, lengths - num_test, np.zeros_like(lengths)
    history = sequences.slices(start, stop_train)
    before_test = sequences.slices(start, stop_valid)
    key = np.arange(len(kept))
    return Split(
        history,
        Cases(history, sequences.slices(stop_train, stop_valid), history, key, kept.user_ids),
        Cases(before_test, sequences.slices(stop_valid, lengths), before_test, key, kept.user_ids),
        too_short=dataset.num_users - len(kept),
    )


def global_time(dataset: Dataset, valid: float = 0.8, test: float = 0.9) -> Split:
    """Train on what everybody did before one point in time, validate up to a second one, test from there on.

    The points are the `valid` and `test` quantiles of all time stamps. Each user is asked once in a part, for
    the last item there, with everything before that item; users with nothing before it are not asked. Items
    that nobody had met when the part begins are `unavailable` in it, so that the catalogue is that of the time.
    """
    everybody = whole(dataset, minimum=1)
    if everybody.timestamps is None:
        raise UsageError(f"{dataset.name} has no time stamps; leave-one-out needs none, such as loo-full-masked@1")
    cuts = np.quantile(everybody.timestamps.values, (valid, test), method="higher")
    train, before_test = (_before(everybody, int(cut)) for cut in cuts)
    split = Split(
        train.take(np.flatnonzero(train.lengths)),
        _last_since(everybody, train, before_test, dataset.num_items),
        _last_since(everybody, before_test, everybody.items, dataset.num_items),
    )
    if not (len(split.train) and len(split.valid) and len(split.test)):
        raise UsageError(
            f"{dataset.name} cannot be split in time: {len(split.train.values)} interactions to train on, "
            f"{len(split.valid)} users for validation, {len(split.test)} for test"
        )
    return split


def _before(part: Interactions, time: int) -> Ragged:
    """What every user did before `time`."""
    assert part.timestamps is not None
    stops = np.bincount(part.items.row_of_entry[part.timestamps.values < time], minlength=len(part))
    return part.items.slices(np.zeros_like(stops), stops)


def _last_since(part: Interactions, before: Ragged, until: Ragged, num_items: int) -> Cases:
    """The last item of each user who did more in `until` than in `before`, and not that alone."""
    rows = np.flatnonzero((until.lengths > before.lengths) & (until.lengths > 1))
    asked = until.take(rows)
    history, unavailable = asked.drop_last(1), np.setdiff1d(np.arange(1, num_items + 1), before.values)
    return Cases(history, asked.last(1), history, rows, part.user_ids[rows], unavailable)


def by_user(dataset: Dataset, valid: float = 0.1, test: float = 0.1, seed: int = 0) -> Split:
    """Whole users for training, others for validation and test: predict the last item of each.

    Published `train` / `valid` / `test` files of different users are used where the dataset has them; otherwise
    users with 3 or more items are drawn by `seed`. Histories are cut to the last ten items.
    """
    if "all" in dataset.parts:
        kept = whole(dataset, _FEWEST)
        order = np.random.default_rng(seed).permutation(len(kept))
        bounds = np.cumsum([len(order) - int(len(order) * valid) - int(len(order) * test), int(len(order) * valid)])
        parts, too_short = [kept.take(rows) for rows in np.split(order, bounds)], dataset.num_users - len(kept)
    else:
        parts, too_short = _published(dataset), 0
        if dataset.aligned:
            raise UsageError(f"{dataset.name} has the same users in its files train, valid, test; none is kept out")
        if alone := sum(int((part.items.lengths < 2).sum()) for part in parts[1:]):
            raise UsageError(
                f"{dataset.name} has {alone} rows in valid and test without a history, as prefixes of sequences have; "
                f"use prefix-811@1"
            )
    return replace(_asked_for_the_last_item(parts), too_short=too_short)


def every_prefix(dataset: Dataset) -> Split:
    """Whole sequences for training; each row of the published `valid` and `test` is a prefix and the item after it.

    The empty prefixes are asked too. Histories are cut to the last ten items.
    """
    parts = _published(dataset)
    if dataset.aligned or not all((part.items.lengths == 1).any() for part in parts[1:]):
        raise UsageError(f"{dataset.name} does not hold the prefixes of sequences: no empty history is asked")
    return _asked_for_the_last_item(parts)


def _asked_for_the_last_item(parts: Sequence[Interactions]) -> Split:
    """Train on the first part; the last item of every row of the other two is asked."""
    train, valid, test = parts
    first_test = len(train) + len(valid)
    return Split(train.items, _last_items(valid, len(train)), _last_items(test, first_test))


def _last_items(part: Interactions, first_key: int) -> Cases:
    history = part.items.drop_last(1).last(_LONGEST_HISTORY)
    return Cases(history, part.items.last(1), history, np.arange(len(part)) + first_key, part.user_ids)


def _published(dataset: Dataset, needed: Sequence[str] = ("train", "valid", "test")) -> list[Interactions]:
    """The parts of a dataset that its publisher has split."""
    if missing := [name for name in needed if name not in dataset.parts]:
        raise UsageError(f"{dataset.name} has no part {', '.join(missing)}; its parts: {', '.join(dataset.parts)}")
    return [dataset.parts[name] for name in needed]


def fixed_files(dataset: Dataset, history_with_valid: bool = False, train_on_valid: bool = False) -> Split:
    """The publisher's aligned train, validation and test items of each user.

    While testing, train and validation items are masked; the history is the training part, or both
    with `history_with_valid`. Users without a target in a part are not asked there. train_on_valid: training
    sequences are both; what is then asked for validation has been trained on, and chooses nothing.
    """
    parts = _published(dataset)
    if not dataset.aligned:
        raise UsageError(f"{dataset.name} has files train, valid, test, but their rows are not the same users")
    train, valid, test = (part.items for part in parts)
    both = train.joined(valid)
    key, users = np.arange(len(train)), parts[0].user_ids
    valid_cases = Cases(train, valid, train, key, users)
    test_cases = Cases(both if history_with_valid else train, test, both, key, users)
    return Split(
        both if train_on_valid else train,
        valid_cases.take(np.flatnonzero(valid.lengths)),
        test_cases.take(np.flatnonzero(test.lengths)),
    )


def random_files(dataset: Dataset, seed: int = 0, train_on_valid: bool = False) -> Split:
    """The publisher's aligned random train and test items of each user: all of train is the history at test.

    Validation is the published hold-out where the dataset has one. Those of LightGCN++ for Gowalla and Yelp2018
    are a part of the published train: a tenth of all items of a user, test included, rounded down (for 99.97
    and 99.64 % of the users). Without one, a tenth of every training row is drawn by `seed`, rounded up or down
    by lot, but never all of it. Either way a model trains without the hold-out, which is masked at test, unless
    `train_on_valid`.
    """
    if "valid" in dataset.parts:
        return fixed_files(dataset, history_with_valid=True, train_on_valid=train_on_valid)
    train, _ = _published(dataset, ("train", "test"))
    rng, lengths = np.random.default_rng(seed), train.items.lengths
    sizes = np.minimum((lengths * 0.1 + rng.random(len(lengths))).astype(np.int64), np.maximum(lengths - 1, 0))
    held_out = _drawn(train.items, sizes, rng)
    parts = {"train": _filtered(train, ~held_out), "valid": _filtered(train, held_out)}
    whole = replace(dataset, parts={**dataset.parts, **parts})
    return fixed_files(whole, history_with_valid=True, train_on_valid=train_on_valid)


def _drawn(items: Ragged, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(entries,) bool: `sizes` (rows,) random entries of each row."""
    drawn = np.empty(len(items.values), dtype=bool)
    shuffled = np.lexsort((rng.random(len(items.values)), items.row_of_entry))
    drawn[shuffled] = items.position_of_entry < sizes[items.row_of_entry]
    return drawn


def _filtered(part: Interactions, keep: np.ndarray) -> Interactions:
    """The entries for which `keep` (entries,) is true, all rows."""
    items = part.items
    return Interactions(Ragged.from_groups(items.row_of_entry[keep], items.values[keep], len(items)), part.user_ids)
