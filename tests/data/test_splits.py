"""Every split against slices of Python lists; nothing that is asked for may be seen before."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffrec.data.ragged import Ragged
from diffrec.data.splits import (
    Cases,
    Split,
    by_user,
    every_prefix,
    fixed_files,
    global_time,
    leave_one_out,
    random_files,
    temporal_ratio,
    whole,
)
from diffrec.data.synthetic import synthetic
from diffrec.errors import UsageError

users = st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=1, max_size=8)
events = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 20)), max_size=9).map(
    lambda row: sorted(row, key=lambda event: event[0])
)
logs = st.lists(events, min_size=3, max_size=9).filter(any)  # rows of (time, item)
quick = settings(deadline=None, max_examples=50)


def rows_of(ragged: Ragged) -> list[list[int]]:
    return [ragged[row].tolist() for row in range(len(ragged))]


def content(cases: Cases) -> tuple[list[list[int]], list[list[int]], list[list[int]], list[int]]:
    return rows_of(cases.history), rows_of(cases.target), rows_of(cases.seen), cases.key.tolist()


@quick
@given(users, st.integers(1, 5))
def test_short_sequences_are_left_out(dataset_of, rows, minimum):
    kept = [row for row in rows if len(row) >= minimum]
    if kept:
        assert rows_of(whole(dataset_of(rows), minimum).items) == kept
    else:
        with pytest.raises(UsageError, match=f"no user with at least {minimum}"):
            whole(dataset_of(rows), minimum)


@quick
@given(users.filter(lambda rows: max(map(len, rows)) > 2))
def test_leave_one_out(dataset_of, rows):
    kept = [row for row in rows if len(row) >= 3]
    split = leave_one_out(dataset_of(rows))
    train, before_last = [row[:-2] for row in kept], [row[:-1] for row in kept]
    key = list(range(len(kept)))
    assert rows_of(split.train) == train
    assert content(split.valid) == (train, [row[-2:-1] for row in kept], train, key)
    assert content(split.test) == (before_last, [row[-1:] for row in kept], before_last, key)


@quick
@given(
    users.filter(lambda rows: max(map(len, rows)) > 2), st.sampled_from([0.1, 0.25, 0.3]), st.sampled_from([0.1, 0.3])
)
def test_temporal_ratio(dataset_of, rows, valid, test):
    kept = [row for row in rows if len(row) >= 3]
    split = temporal_ratio(dataset_of(rows), valid, test)
    for user, row in enumerate(kept):
        num_test, num_valid = max(int(len(row) * test), 1), max(int(len(row) * valid), 1)
        parts = row[: -num_test - num_valid], row[-num_test - num_valid : -num_test], row[-num_test:]
        assert split.train[user].tolist() == split.valid.history[user].tolist() == parts[0] != []
        assert split.valid.target[user].tolist() == parts[1]
        assert split.test.history[user].tolist() == split.test.seen[user].tolist() == parts[0] + parts[1]
        assert split.test.target[user].tolist() == parts[2]
    assert len(split.train) == len(split.valid) == len(split.test) == len(kept)


def test_shares_that_leave_nothing_to_train_on_are_refused(dataset_of):
    with pytest.raises(UsageError, match="leave 1 users without"):
        temporal_ratio(dataset_of([[1, 2, 3, 4], [1, 2, 3]]), valid=0.5, test=0.5)


@pytest.mark.parametrize("split", [leave_one_out, temporal_ratio])
def test_training_never_holds_what_is_asked_later(split: Callable[..., Split]):
    """Every item occurs once per user, so an item found in the row of its own user has leaked."""
    parts = split(synthetic(num_users=60, num_items=80, seed=1))
    assert not parts.train.contains(parts.valid.target).any()
    assert not parts.train.contains(parts.test.target).any()
    for cases in (parts.valid, parts.test):
        assert not cases.history.contains(cases.target).any()
        assert not cases.seen.contains(cases.target).any()
    assert parts.test.history.contains(parts.valid.target).all()


def in_time(rows: list[list[tuple[int, int]]], start: float, stop: float) -> tuple[list, list, list, list[int]]:
    """What a plain loop asks from `start` to before `stop`, and which of 20 items nobody had met at `start`."""
    histories, targets, key = [], [], []
    for user, row in enumerate(rows):
        places = [place for place, (time, _) in enumerate(row) if start <= time < stop]
        if places and places[-1] > 0:
            histories.append([item for _, item in row[: places[-1]]])
            targets.append([row[places[-1]][1]])
            key.append(user)
    met = {item for row in rows for time, item in row if time < start}
    return histories, targets, key, [item for item in range(1, 21) if item not in met]


@quick
@given(logs, st.sampled_from([(0.8, 0.9), (0.4, 0.7)]))
def test_global_time(log_of, rows, shares):
    """Ties at a cut belong to what comes after it; users without any event have no number."""
    dataset, ids = log_of(rows), [str(user) for user, row in enumerate(rows) if row]
    rows = [row for row in rows if row]
    times = sorted(time for row in rows for time, _ in row)
    cuts = [times[math.ceil(share * (len(times) - 1))] for share in shares]
    train = [[item for time, item in row if time < cuts[0]] for row in rows]
    valid, test = in_time(rows, *cuts), in_time(rows, cuts[1], math.inf)
    if not (any(train) and valid[0] and test[0]):
        with pytest.raises(UsageError, match="small cannot be split in time"):
            global_time(dataset, *shares)
        return
    split = global_time(dataset, *shares)
    assert rows_of(split.train) == [row for row in train if row]
    for cases, (history, target, key, unavailable) in ((split.valid, valid), (split.test, test)):
        assert content(cases) == (history, target, history, key)
        assert cases.users.tolist() == [ids[user] for user in key]
        assert cases.unavailable.tolist() == unavailable
        assert cases.take(np.array([0])).unavailable.tolist() == unavailable


@pytest.mark.parametrize("part", ["validation", "test"])
def test_nothing_from_after_a_point_in_time_is_known_before_it(part):
    """Other items from the beginning of a part on change nothing but what that part and the next ask and are told."""
    log = synthetic(num_users=300, num_items=80, seed=1)
    everybody = log.parts["all"]
    start = np.quantile(everybody.timestamps.values, {"validation": 0.8, "test": 0.9}[part], method="higher")
    late = everybody.timestamps.values >= start
    values = np.where(late, 81 - everybody.items.values, everybody.items.values)
    other = replace(log, parts={"all": replace(everybody, items=Ragged(values, everybody.items.offsets))})
    before, after = global_time(log), global_time(other)
    assert rows_of(before.train) == rows_of(after.train)
    assert before.valid.unavailable.tolist() == after.valid.unavailable.tolist()
    assert (content(before.valid) == content(after.valid)) == (part == "test")
    assert content(before.test) != content(after.test)
    assert part == "validation" or before.test.unavailable.tolist() == after.test.unavailable.tolist()


def test_the_hash_of_a_split_follows_every_part_of_it():
    dataset = synthetic()
    split = global_time(dataset)
    assert split.sha256 == global_time(dataset).sha256
    hidden = Cases(split.test.history, split.test.target, split.test.seen, split.test.key)
    seen = {split.sha256, leave_one_out(dataset).sha256, replace(split, test=hidden).sha256}
    for changes in (
        {"train": split.train.drop_last(1)},
        {"times": split.train},
        {"valid": split.test},
        {"test": replace(split.test, history=split.test.seen.drop_last(1))},
        {"test": replace(split.test, target=split.test.history.last(1))},
        {"test": replace(split.test, seen=Ragged.empty(len(split.test)))},
        {"test": replace(split.test, key=split.test.key + 1)},
        {"test": replace(split.test, times=split.test.history)},
    ):
        digest = replace(split, **changes).sha256
        assert digest not in seen, changes
        seen.add(digest)


def test_a_split_in_time_needs_times(dataset_of):
    with pytest.raises(UsageError, match=r"small has no time stamps; .* loo-full-masked@1"):
        global_time(dataset_of([[1, 2, 3]]))


def test_by_user_asks_users_that_training_never_met(dataset_of):
    rows = [[number, *range(50, 50 + number % 20)] for number in range(1, 48)]  # the first item is the user
    kept = [row for row in rows if len(row) >= 3]
    split = by_user(dataset_of(rows), valid=0.2, test=0.1, seed=3)
    assert [len(split.train), len(split.valid), len(split.test)] == [len(kept) - 8 - 4, 8, 4]
    trained = rows_of(split.train)
    asked = [*split.valid.target.values.tolist(), *split.test.target.values.tolist()]
    assert len(asked) == 12
    whole_rows = {row[0]: row for row in kept}
    assert all(whole_rows[row[0]] == row for row in trained)
    held_out = [row for row in kept if row not in trained]
    assert len(held_out) == 12
    expected = sorted((row[:-1][-10:], row[-1:]) for row in held_out)
    histories = rows_of(split.valid.history) + rows_of(split.test.history)
    assert sorted(zip(histories, ([item] for item in asked), strict=True)) == expected
    assert rows_of(split.valid.seen) + rows_of(split.test.seen) == histories
    assert [*split.valid.key, *split.test.key] == list(range(len(trained), len(kept)))


def test_by_user_draws_by_seed(dataset_of):
    dataset = dataset_of([[number, 1, 2] for number in range(1, 41)])
    first, again, other = (rows_of(by_user(dataset, seed=seed).train) for seed in (0, 0, 1))
    assert first == again
    assert sorted(first) != sorted(other)


def test_by_user_takes_published_files(dataset_of):
    dataset = dataset_of(
        aligned=False, train=[[1, 2], [3], [4, 5]], valid=[[1, 2, 3]], test=[list(range(1, 15)), [4, 5]]
    )
    split = by_user(dataset)
    assert rows_of(split.train) == [[1, 2], [3], [4, 5]]
    assert content(split.valid) == ([[1, 2]], [[3]], [[1, 2]], [3])
    assert content(split.test) == ([list(range(4, 14)), [4]], [[14], [5]], [list(range(4, 14)), [4]], [4, 5])


@pytest.mark.parametrize("with_valid", [False, True])
def test_fixed_files(dataset_of, with_valid):
    train, valid, test = [[1, 2], [3], [4], []], [[3], [], [5, 6], [1]], [[4, 5], [1], [], [2]]
    split = fixed_files(dataset_of(train=train, valid=valid, test=test), with_valid)
    assert rows_of(split.train) == train
    assert content(split.valid) == ([[1, 2], [4], []], [[3], [5, 6], [1]], [[1, 2], [4], []], [0, 2, 3])
    both = [[1, 2, 3], [3], [1]]
    history = both if with_valid else [[1, 2], [3], []]
    assert content(split.test) == (history, [[4, 5], [1], [2]], both, [0, 1, 3])


def test_random_files_with_a_published_hold_out(dataset_of):
    """All of the published train is the history at test, the hold-out behind the rest."""
    split = random_files(dataset_of(train=[[1, 2], [3], [4]], valid=[[6], [], [5]], test=[[5], [4], []]))
    assert rows_of(split.train) == [[1, 2], [3], [4]]
    assert content(split.valid) == ([[1, 2], [4]], [[6], [5]], [[1, 2], [4]], [0, 2])
    assert content(split.test) == ([[1, 2, 6], [3]], [[5], [4]], [[1, 2, 6], [3]], [0, 1])


def test_a_hold_out_is_drawn_where_none_is_published(dataset_of):
    rows = [[*range(1, 2 + number % 25)] for number in range(500)]  # 1 to 25 items in order
    dataset = dataset_of(train=rows, test=[[90 + number % 7] for number in range(500)])
    split = random_files(dataset)
    held_out = dict(zip(split.valid.key.tolist(), rows_of(split.valid.target), strict=True))
    for user, row in enumerate(rows):
        kept, asked = split.train[user].tolist(), held_out.get(user, [])
        assert sorted(kept + asked) == row
        assert (kept == sorted(kept), asked == sorted(asked)) == (True, True), "both keep the order of the file"
        assert len(row) == 1 or len(row) // 10 <= len(asked) <= len(row) // 10 + 1
        assert kept
    drawn = np.concatenate([*held_out.values()])
    assert abs(len(drawn) / sum(map(len, rows)) - 0.1) < 0.01
    assert abs(np.mean([np.mean(asked) / (1 + len(rows[user])) for user, asked in held_out.items()]) - 0.5) < 0.03
    assert split.test.history.lengths.tolist() == [*map(len, rows)]
    assert split.test.seen.contains(split.train).all()
    assert split.test.seen.contains(Ragged.from_rows([held_out.get(user, []) for user in range(500)])).all()
    assert rows_of(random_files(dataset).valid.target) == rows_of(split.valid.target) != []
    assert rows_of(random_files(dataset, seed=1).valid.target) != rows_of(split.valid.target)


def test_users_of_fewer_than_ten_items_are_asked_by_lot(dataset_of):
    """Three tenths of an item each: rounded to the nearest, none of them would ever be asked."""
    split = random_files(dataset_of(train=[[1, 2, 3]] * 2000, test=[[9]] * 2000))
    assert abs(len(split.valid) / 2000 - 0.3) < 0.05


def test_the_wrong_kind_of_dataset_is_refused(dataset_of):
    files = dataset_of(train=[[1]], valid=[[2]], test=[[3]])
    for split in (leave_one_out, temporal_ratio, global_time):
        with pytest.raises(UsageError, match="split by its files"):
            split(files)
    apart = dataset_of(aligned=False, train=[[1]], valid=[[2]], test=[[3]])
    for dataset in (dataset_of([[1, 2, 3]]), apart, dataset_of(train=[[1]], test=[[2]])):
        with pytest.raises(UsageError, match=r"has no part|not the same users"):
            fixed_files(dataset)
    for dataset in (dataset_of([[1, 2, 3]]), apart, dataset_of(aligned=False, train=[[1]], test=[[2]])):
        with pytest.raises(UsageError, match=r"has no part train, test|not the same users"):
            random_files(dataset)
    with pytest.raises(UsageError, match="small has the same users in its files"):
        by_user(files)
    prefixes = dataset_of(aligned=False, train=[[1, 2]], valid=[[1], [1, 2]], test=[[2], [2, 3]])
    with pytest.raises(UsageError, match=r"small has 2 rows in valid and test without a history, .* prefix-811@1"):
        by_user(prefixes)


@pytest.mark.parametrize("split", [leave_one_out, temporal_ratio, by_user])
def test_cases_know_the_ids_of_their_users_although_short_users_are_left_out(dataset_of, split):
    """The first item of each row is its place in the source, which is its id."""
    rows = [[place, *range(100, 101 + place % 4)] for place in range(1, 60)]
    parts = split(dataset_of(rows))
    for cases in (parts.valid, parts.test):
        assert cases.users.tolist() == [str(cases.history[row][0] - 1) for row in range(len(cases))]
        assert cases.take(np.array([2, 0])).users.tolist() == [cases.users[2], cases.users[0]]


def test_cases_of_published_files_know_the_ids_of_their_users(dataset_of):
    files = fixed_files(dataset_of(train=[[1], [2], [3]], valid=[[4], [], [5]], test=[[], [6], [7]]))
    assert (files.valid.users.tolist(), files.test.users.tolist()) == (["0", "2"], ["1", "2"])
    apart = by_user(dataset_of(aligned=False, train=[[1, 2]], valid=[[1, 2, 3]], test=[[4, 5], [5, 6]]))
    assert (apart.valid.users.tolist(), apart.test.users.tolist()) == (["0"], ["0", "1"])


def test_prefixes_are_cut_to_ten_items_and_belong_to_no_other_kind_of_dataset(dataset_of):
    long = [[*range(1, stop + 1)] for stop in range(1, 14)]
    split = every_prefix(dataset_of(aligned=False, train=[[1, 2]], valid=[[1]], test=long))
    assert content(split.test) == (
        [row[:-1][-10:] for row in long], [row[-1:] for row in long], [row[:-1][-10:] for row in long],
        [*range(2, 15)],
    )  # fmt: skip
    apart, files = [[1, 2], [3, 4]], {"train": [[1, 2]], "valid": [[3]], "test": [[4]]}
    for dataset in (dataset_of(aligned=False, train=apart, valid=apart, test=apart), dataset_of(**files)):
        with pytest.raises(UsageError, match="small does not hold the prefixes of sequences"):
            every_prefix(dataset)
    with pytest.raises(UsageError, match="small has no part train"):
        every_prefix(dataset_of([[1, 2, 3]]))


@quick
@given(users.filter(lambda rows: max(map(len, rows)) > 2), st.data())
def test_cases_are_taken_together(dataset_of, rows, data):
    cases = leave_one_out(dataset_of(rows)).test
    chosen = data.draw(st.lists(st.integers(0, len(cases) - 1), max_size=5))
    got = content(cases.take(np.array(chosen, dtype=np.int64)))
    assert got == tuple([part[row] for row in chosen] for part in content(cases))
