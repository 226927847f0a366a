"""Level 1 of `diffrec verify`: every number of a bundle computed again from its lists and ranks, without a model.

Every finding is one sentence: what was seen, what was expected. That the numbers follow from the lists says nothing
about where the lists come from; `rerun` asks the model.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffrec.bench.bundle import Bundle, Lists, OutsideResult, UserLists
from diffrec.bench.claims import about_config, about_rests_on, about_selection
from diffrec.bench.provenance import split_counts
from diffrec.bench.ranks import UserRanks, per_user_values
from diffrec.bench.result import TIMINGS, Bounds, Result
from diffrec.data.dataset import Dataset
from diffrec.data.protocol import PROTOCOLS, Protocol
from diffrec.data.ragged import Ragged
from diffrec.data.splits import Split
from diffrec.errors import UsageError, near_match
from diffrec.metrics.beyond_accuracy import at_cutoffs
from diffrec.metrics.functional import metric_names
from diffrec.strict_json import short

LEVEL_OF: Mapping[str, int] = {
    **dict.fromkeys(("dataset", "dataset_sha256", "split_counts", "protocol", "headline", "role", "seed"), 1),
    **dict.fromkeys(
        ("metrics", "draw_metrics", "bounds", "beyond_accuracy", "ranks_sha256", "config_sha256", "rests_on"), 1
    ),
    **dict.fromkeys(("weights_sha256", "deviations", "validation", "parameters", "denoiser_calls", "selection"), 2),
    **dict.fromkeys(("config", "epochs", "decoding"), 3),
}  # the level from which on a field of a record is recomputed; below it, it is only checked against other fields

NOT_VERIFIED: Mapping[str, str] = {
    **dict.fromkeys(("suite", "suite_version", "model"), "a label"),
    "control_of": "a label; that controls, and only they, have one is checked",
    **dict.fromkeys(("code_version", "packages", "device", "processor", "threads"), "where it ran, as it was stated"),
    **dict.fromkeys(TIMINGS, "a measurement of one machine at one time"),
    **dict.fromkeys(("tuning_trials", "reported"), "a statement of the suite's author"),
}

Number = int | float

_CLOSE, _CLOSE_TO_ZERO = 1e-10, 1e-12  # of means over users, added up in another order


@dataclass(frozen=True, eq=False)
class Places:
    """What a list says of the places of true items; all aligned with `target.values`.

    listed: is it in the list? greater, equal: candidates with a higher, and others with the same score; where it is
    not listed, those if it has the score of the last item, which it can have where may_tie; below: its least mean
    rank if it has a lower one; repeated: it is listed as a target of this case before.
    """

    listed: np.ndarray
    greater: np.ndarray
    equal: np.ndarray
    may_tie: np.ndarray
    below: np.ndarray
    repeated: np.ndarray


@dataclass(frozen=True)
class Numbers:
    """What follows from lists and ranks; fields as in `Result`."""

    metrics: dict[str, float]
    draw_metrics: tuple[dict[str, float], ...]
    bounds: Bounds
    beyond_accuracy: dict[str, float]


def findings(bundle: Bundle, dataset: Dataset) -> list[str]:
    """Everything about a bundle that its lists, the dataset and the protocol contradict; empty where nothing does."""
    result = bundle.result
    if found := list(_about_data(result, dataset)):
        return found  # whatever else is wrong follows from it
    protocol = PROTOCOLS[result.protocol]
    try:
        split = protocol.apply(dataset)
    except UsageError as error:
        return [f"{result.protocol} does not go with the dataset: {error}"]
    found = [*_counts(result, dataset, split)]
    if isinstance(result, Result):
        found += [*about_config(result), *about_selection(result), *about_rests_on(result, dataset, split)]
    if shapes := list(_shapes(bundle, split)):
        return [*found, *shapes]
    outside = isinstance(result, OutsideResult)
    if wrong := list(_about_lists(bundle.lists, split, protocol, dataset.num_items, outside)):
        return [*found, *wrong]
    return [*found, *_about_numbers(bundle, split, dataset.num_items)]


def numbers(
    ranks: UserRanks, lists: UserLists, found: Sequence[Places], split: Split, protocol: Protocol, num_items: int
) -> Numbers:
    """The numbers of a record from what it rests on; found: the `places` of each draw."""
    names = metric_names(protocol.cutoffs)
    draws = tuple(_means(draw, names) for draw in ranks.draws)
    ends = []
    for draw, known in zip(ranks.draws, found, strict=True):
        best, worst = _bounds(draw, known)
        ends.append(tuple(_means(end, [protocol.headline])[protocol.headline] for end in (best, worst)))
    counts = np.bincount(split.train.values, minlength=num_items + 1)[1:]
    beyond = [at_cutoffs(draw.items, protocol.cutoffs, num_items, counts) for draw in lists.draws]
    return Numbers(_mean_of(draws), draws, Bounds(*map(statistics.fmean, zip(*ends, strict=True))), _mean_of(beyond))


def places(lists: Lists, target: Ragged) -> Places:
    """Where the true items stand, as far as the lists tell."""
    rows, wanted = target.row_of_entry, target.values
    slot = slots_of(lists.items, rows, wanted)
    listed, lengths = slot >= 0, lists.lengths
    last = lists.scores[np.arange(len(lengths)), np.maximum(lengths - 1, 0)]
    own = np.where(listed, lists.scores[rows, slot], last[rows])
    greater, equal = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
    for column in np.ascontiguousarray(lists.scores.T):  # slots, not users: nothing of entries x k is held
        score = column[rows]
        greater += score > own
        equal += score == own
    equal += np.where(own == last[rows], lists.ties[rows], 0) - 1
    largest_tied = np.where(lists.scores == last[:, None], lists.items, 0).max(1, initial=0)
    may_tie = (lists.ties[rows] > 0) & (wanted > largest_tied[rows])  # ties are listed by item number
    return Places(listed, greater, equal, may_tie, 1 + (lengths + lists.ties)[rows], _repeated(target))


def ranks_in_lists(found: Places, target: Ragged) -> Ragged:
    """float32 mean ranks of what is known by its lists only: inf for true items that are not listed."""
    ranks = np.where(found.listed, 1 + found.greater + found.equal / 2, np.inf)
    return Ragged(np.where(found.repeated, np.nan, ranks).astype(np.float32), target.offsets)


def slots_of(items: np.ndarray, rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(entries,) the slot of item `wanted[e]` in list `rows[e]`, -1 where it is not there."""
    slot = np.full(len(rows), -1)
    for place, column in enumerate(np.ascontiguousarray(items.T)):  # a column stays in cache
        slot[column[rows] == wanted] = place
    return slot


def _about_data(result: Result | OutsideResult, dataset: Dataset) -> Iterator[str]:
    if dataset.sha256 != result.dataset_sha256:
        here = f"{result.dataset} on this machine has {dataset.sha256}"
        yield f"dataset_sha256 is {short(result.dataset_sha256)}, but {here}"
    if result.protocol not in PROTOCOLS:
        near = near_match(result.protocol, PROTOCOLS)
        yield f"protocol is {short(result.protocol)}, which is none of {', '.join(PROTOCOLS)}{near}"
    elif result.headline != PROTOCOLS[result.protocol].headline:
        expected = PROTOCOLS[result.protocol].headline
        yield f"headline is {short(result.headline)}, that of {result.protocol} is {expected}"


def _counts(result: Result | OutsideResult, dataset: Dataset, split: Split) -> Iterator[str]:
    expected = split_counts(dataset, split)
    for name in dict.fromkeys([*expected, *result.split_counts]):
        if result.split_counts.get(name) != expected.get(name):
            seen, wanted = result.split_counts.get(name, "missing"), expected.get(name, "not a count of a split")
            yield f"split_counts: {short(name)} is {seen}, expected {wanted}"


def _shapes(bundle: Bundle, split: Split) -> Iterator[str]:
    """Do ranks and lists speak of the test cases of the protocol, draw by draw?"""
    cases = split.test
    for name, users in (("ranks.parquet", bundle.ranks.users), ("lists.parquet", bundle.lists.users)):
        if len(users) != len(cases):
            yield f"{name} has {len(users)} users, expected the {len(cases)} test cases of {bundle.result.protocol}"
        elif (wrong := np.flatnonzero(users != cases.key)).size:
            row = int(wrong[0])
            yield f"{name} has user {users[row]} in row {row}, expected {cases.key[row]} ({wrong.size} rows differ)"
    draws = len(bundle.result.draw_metrics)
    for name, count in (("ranks.parquet", len(bundle.ranks.draws)), ("lists.parquet", len(bundle.lists.draws))):
        if count != draws:
            yield f"{name} has {count} draws, the record has {draws}"
    for number, draw in enumerate(bundle.ranks.draws):
        if len(draw) == len(cases) and (wrong := np.flatnonzero(draw.lengths != cases.target.lengths)).size:
            row = int(wrong[0])
            seen, expected = draw.lengths[row], cases.target.lengths[row]
            yield f"draw {number} has {seen} ranks of user {cases.key[row]}, expected {expected} (its true items)"
    for number, draw in enumerate(bundle.lists.draws[1:], start=1):
        first = bundle.lists.draws[0]
        if np.array_equal(draw.scores, first.scores) and np.array_equal(draw.items, first.items):
            yield f"draw {number} has the lists of draw 0, expected those of other noise"


def _about_lists(lists: UserLists, split: Split, protocol: Protocol, num_items: int, outside: bool) -> Iterator[str]:
    """Could these lists have come out of the candidates?"""
    seen = split.test.seen
    candidates = num_items - _distinct(seen)
    for number, draw in enumerate(lists.draws):
        lengths = draw.lengths
        shown = slots_of(draw.items, seen.row_of_entry, seen.values) >= 0
        whole = np.minimum(max(draw.items.shape[1], *protocol.cutoffs), candidates)
        faults = [
            (f"holds an item number above {num_items}, the last one", (draw.items > num_items).any(1)),
            ("holds an item twice, expected once", _has_twice(draw.items)),
            (
                "holds an item that the protocol masks, expected none",
                np.bincount(seen.row_of_entry[shown], minlength=len(lengths)) > 0,
            ),
            ("holds a score above the one before it, expected none", _rises(draw)),
        ]
        if outside:
            faults += [("has ties behind its end, expected none from an outside system", draw.ties != 0)]
        else:
            faults += [
                ("has another length than the others or all candidates have", lengths != whole),
                ("has equal scores, expected in the order of item numbers, in another one", _out_of_order(draw)),
                (
                    "has more ties behind its end than candidates are left",
                    (draw.ties < 0) | (draw.ties > candidates - lengths),
                ),
            ]
        for what, wrong in faults:
            if wrong.any():
                who = f"user {split.test.key[int(wrong.argmax())]}"
                yield f"draw {number}: the list of {who} {what} ({wrong.sum()} lists)"


def _about_numbers(bundle: Bundle, split: Split, num_items: int) -> Iterator[str]:
    """Do the ranks agree with the lists, and the record with both?"""
    result, target = bundle.result, split.test.target
    protocol, faults = PROTOCOLS[result.protocol], []
    found = [places(lists, target) for lists in bundle.lists.draws]
    candidates = (num_items - _distinct(split.test.seen))[target.row_of_entry]
    outside = isinstance(result, OutsideResult)
    for number, (draw, known) in enumerate(zip(bundle.ranks.draws, found, strict=True)):
        faults += _about_ranks(number, draw, known, candidates, split, outside)
    yield from faults
    if faults:
        return
    again = numbers(bundle.ranks, bundle.lists, found, split, protocol, num_items)
    for number, draw in enumerate(again.draw_metrics):
        yield from differences(f"draw {number}: ", result.draw_metrics[number], draw)
    yield from differences("", result.metrics, again.metrics)
    yield from differences("bounds: ", vars(result.bounds), vars(again.bounds))
    yield from differences("beyond_accuracy: ", result.beyond_accuracy, again.beyond_accuracy)
    if isinstance(result, OutsideResult):
        lengths = bundle.lists.draws[0].lengths
        counted = {"without_list": int((lengths == 0).sum()), "short_lists": short_lists(lengths, protocol)}
        yield from differences("", {name: getattr(result, name) for name in counted}, counted)


def short_lists(lengths: np.ndarray, protocol: Protocol) -> int:
    """How many lists hold something, but less than the largest cutoff."""
    return int(((lengths > 0) & (lengths < max(protocol.cutoffs))).sum())


def differences(prefix: str, seen: Mapping[str, Number], expected: Mapping[str, Number]) -> Iterator[str]:
    """One sentence for every number that is missing, too many, or another one than was recomputed."""
    for name in dict.fromkeys([*expected, *seen]):
        if name not in seen:
            yield f"{prefix}{name} is missing, recomputed it is {expected[name]}"
        elif name not in expected:
            yield f"{prefix}{short(name)} is {seen[name]}, but there is no such number"
        elif not math.isclose(seen[name], expected[name], rel_tol=_CLOSE, abs_tol=_CLOSE_TO_ZERO):
            yield f"{prefix}{name} is {seen[name]}, recomputed it is {expected[name]}"


def _about_ranks(
    number: int, ranks: Ragged, found: Places, candidates: np.ndarray, split: Split, outside: bool
) -> Iterator[str]:
    """Are the ranks of a draw those that its lists leave possible?"""
    values = ranks.values.astype(np.float64)
    exact = 1 + found.greater + found.equal / 2
    right = np.where(
        found.listed,
        values == exact,
        np.isposinf(values) if outside else _possible(values, exact, found, candidates),
    )
    right = np.where(found.repeated, np.isnan(values), right)
    if (wrong := np.flatnonzero(~right)).size:
        entry = int(wrong[0])
        row = split.test.target.row_of_entry[entry]
        what = f"the rank of item {split.test.target.values[entry]} for user {split.test.key[row]}"
        if found.repeated[entry]:
            expected = "none, for the item is a target of this user before"
        elif found.listed[entry]:
            expected = f"{exact[entry]:g}, its place in the list"
        elif outside:
            expected = "none, for the item is not in the list"
        else:
            expected = f"{found.below[entry]} to {candidates[entry]}, for the item is not in the list"
        yield f"draw {number}: {what} is {values[entry]:g}, expected {expected} ({wrong.size} ranks)"


def _possible(values: np.ndarray, tied: np.ndarray, found: Places, candidates: np.ndarray) -> np.ndarray:
    """May an item that is not listed have this rank?"""
    behind = np.asarray((values >= found.below) & (values <= candidates))
    behind[found.may_tie & (values == tied)] = True
    return behind


def _bounds(ranks: Ragged, found: Places) -> tuple[Ragged, Ragged]:
    """Best and worst ranks, inf where both lie behind the list."""
    at_end = ~found.listed & found.may_tie & (ranks.values == 1 + found.greater + found.equal / 2)
    known = found.listed | at_end
    best = np.where(found.repeated, np.nan, np.where(known, 1.0 + found.greater, np.inf))
    return Ragged(best, ranks.offsets), Ragged(best + np.where(known, found.equal, 0), ranks.offsets)


def _means(ranks: Ragged, names: Sequence[str]) -> dict[str, float]:
    """Means over the users with a target."""
    values = per_user_values(ranks, names)
    return {name: float(values[name][ranks.lengths > 0].mean()) for name in names}


def _mean_of(draws: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.fmean(draw[name] for draw in draws) for name in draws[0]}


def _distinct(items: Ragged) -> np.ndarray:
    """(rows,) how many different items each row holds."""
    return items.lengths - np.bincount(items.row_of_entry[_repeated(items)], minlength=len(items))


def _repeated(items: Ragged) -> np.ndarray:
    """(entries,) bool: does the row hold that item before?"""
    repeated = np.zeros(len(items.values), dtype=bool)
    if items.lengths.max(initial=0) > 1:
        cells = items.row_of_entry * (int(items.values.max()) + 1) + items.values
        order = np.argsort(cells, kind="stable")
        repeated[order[1:]] = cells[order[1:]] == cells[order[:-1]]
    return repeated


def _rises(lists: Lists) -> np.ndarray:
    """(cases,) bool: is a score above the one before it?"""
    return np.any(lists.scores[:, 1:] > lists.scores[:, :-1], axis=1)


def _has_twice(items: np.ndarray) -> np.ndarray:
    """(cases,) bool."""
    ordered = np.sort(items, axis=1)
    return ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)).any(1)


def _out_of_order(lists: Lists) -> np.ndarray:
    """(cases,) bool: do neighbours of one score not rise by item number?"""
    tied = (lists.scores[:, 1:] == lists.scores[:, :-1]) & (lists.items[:, 1:] > 0)
    falls = lists.items[:, 1:] < lists.items[:, :-1]
    return np.any(tied & falls, axis=1)
