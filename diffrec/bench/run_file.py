"""Lists of a system that is not diffrec's, read from a table and held against the test cases of a protocol.

Columns, as `diffrec predict` writes them: user_id, item_id, score; one row an item, the rows of a user together and
best first. user_id is the dataset's; where the test cases of a protocol do not each have their own (prefixes of one
sequence), it is the number of the case, from 0 in the order of the test part. Other columns are not read.
"""

# pyarrow.compute makes its functions when it is imported, where a type checker cannot see them.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diffrec.bench.bundle import LONGEST_LIST, Lists, OutsideResult, UserLists
from diffrec.bench.provenance import split_counts
from diffrec.bench.ranks import UserRanks
from diffrec.bench.verify import numbers, places, ranks_in_lists, short_lists
from diffrec.data.dataset import Dataset
from diffrec.data.protocol import Protocol
from diffrec.data.splits import Cases
from diffrec.data.tables import ForeignTable, is_number, open_table
from diffrec.errors import UsageError, near_match
from diffrec.strict_json import short

_COLUMNS = ("user_id", "item_id", "score")
_SHOWN_FAULTS = 3


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of a file. user, item: texts; case: number of the test case, -1 where there is none; number: of the
    item, 0 where there is none; score: NaN where it is no finite number."""

    user: pa.Array
    item: pa.Array
    case: np.ndarray
    number: np.ndarray
    score_text: pa.Array
    score: np.ndarray


def outside_result(
    path: Path, system: str, dataset: Dataset, protocol: Protocol
) -> tuple[OutsideResult, UserRanks, UserLists]:
    """The record, ranks and lists of the system whose lists are in a file; the ranks' hash is not in it yet.

    A true item that is not listed has no rank, and what a list lacks counts as misses. Raises UsageError naming the
    lines of what cannot be counted, NotFoundError where there is no file.
    """
    split = protocol.apply(dataset)
    lists = read_lists(path, split.test, dataset)
    known = places(lists, split.test.target)
    ranks = UserRanks(split.test.key, (ranks_in_lists(known, split.test.target),))
    shown = UserLists(split.test.key, (lists,))
    found = numbers(ranks, shown, [known], split, protocol, dataset.num_items)
    result = OutsideResult(
        system=system,
        dataset=dataset.name,
        dataset_sha256=dataset.sha256,
        split_counts=split_counts(dataset, split),
        protocol=protocol.id,
        headline=protocol.headline,
        metrics=found.metrics,
        draw_metrics=found.draw_metrics,
        bounds=found.bounds,
        ranks_sha256=None,
        beyond_accuracy=found.beyond_accuracy,
        without_list=int((lists.lengths == 0).sum()),
        short_lists=short_lists(lists.lengths, protocol),
    )
    return result, ranks, shown


def read_lists(path: Path, cases: Cases, dataset: Dataset) -> Lists:
    """The lists of a file in the order of the cases, empty where it has none; raises as `outside_result` does."""
    table = open_table(path, _COLUMNS, frozenset(), None, True)
    for name in _COLUMNS:
        if name not in table.names:
            near = near_match(name, table.names)
            raise UsageError(
                f"{path.name} has no column {name!r}; its columns are {', '.join(table.names)}, needed are "
                f"{', '.join(_COLUMNS)}{near}"
            )
    rows = _rows(table, cases, dataset)
    if faults := list(_faults(rows, cases, dataset.name)):
        lines = [_sentence(table, *fault) for fault in faults[:_SHOWN_FAULTS]]
        raise UsageError("\n".join(lines) + f"; and {len(faults) - 3} other kinds of fault" * (len(faults) > 3))
    return _as_lists(rows, len(cases))


def ids_of(cases: Cases) -> tuple[np.ndarray, str]:
    """(cases,) what `user_id` means, as text, and in words: ids of the dataset where each case has its own."""
    if cases.users is not None and len(np.unique(cases.users.astype(str))) == len(cases):
        return cases.users.astype(str), "test user"
    return np.arange(len(cases)).astype(str), "number of a test case"


def _rows(table: ForeignTable, cases: Cases, dataset: Dataset) -> _Rows:
    columns, broken = table.read(dict(zip(_COLUMNS, _COLUMNS, strict=True)))
    if broken:
        told = (
            f"{rows.rows:,} row{'s' * (rows.rows > 1)}: {rows.reason}, first in {table.unit} {rows.lines[0]} "
            f"({rows.seen[0]!r})" for rows in broken
        )  # fmt: skip
        raise UsageError(f"{table.path.name}: {'; '.join(told)}; of lists every row must be there")
    user, item, score = (columns[name].combine_chunks() for name in _COLUMNS)
    users, _ = ids_of(cases)
    case = pc.index_in(user, value_set=pa.array(users.astype(object), pa.string())).fill_null(-1)
    number = pc.index_in(item, value_set=pa.array(dataset.vocabulary.item_ids, pa.string())).fill_null(-1)
    value = pc.if_else(pa.array(is_number(score)), score, "nan").cast(pa.float64()).to_numpy(zero_copy_only=False)
    value = np.where(np.isfinite(value), value, np.nan)
    return _Rows(user, item, case.to_numpy().astype(np.int64), number.to_numpy().astype(np.int64) + 1, score, value)


def _faults(rows: _Rows, cases: Cases, dataset: str) -> Iterator[tuple[np.ndarray, Callable[[int], str]]]:
    """The rows of every kind of fault, and what is to be said of one of them."""
    users, kind = ids_of(cases)
    case, number = rows.case, rows.number
    same = np.pad(case[1:] == case[:-1], (1, 0))  # as the row before
    starts = np.flatnonzero(~same & (case >= 0))
    again = np.ones(len(starts), dtype=bool)
    again[np.unique(case[starts], return_index=True)[1]] = False
    back = np.zeros(len(case), dtype=bool)
    back[starts[again]] = True
    known = (case >= 0) & (number > 0)
    place = np.arange(len(case)) - np.maximum.accumulate(np.where(same, 0, np.arange(len(case))))
    span = int(max(number.max(initial=0), cases.seen.values.max(initial=0))) + 1
    cells = case * span + number
    seen = known & np.isin(cells, cases.seen.row_of_entry * span + cases.seen.values)
    found: list[tuple[np.ndarray, Callable[[int], str]]] = [
        (case < 0, lambda r: f"user_id {short(rows.user[r].as_py())} is no {kind} of {dataset}"
         f"{near_match(rows.user[r].as_py(), users)}"),
        (number < 1, lambda r: f"item_id {short(rows.item[r].as_py())} is no item of {dataset}"),
        (np.isnan(rows.score), lambda r: f"score {short(rows.score_text[r].as_py())} is no finite number"),
        (back, lambda r: f"user_id {short(rows.user[r].as_py())} comes a second time; rows of a user must be together"),
        (known & _later(cells), lambda r: f"item_id {short(rows.item[r].as_py())} comes twice in one list"),
        (same & (rows.score > np.roll(rows.score, 1)), lambda r: f"score {rows.score[r]:g} is above the one before it "
         f"({rows.score[r - 1]:g}); lists begin with the best"),
        (seen, lambda r: f"item_id {short(rows.item[r].as_py())} is one that the protocol masks for this user"),
        (place >= LONGEST_LIST, lambda r: f"the list is longer than {LONGEST_LIST} items"),
    ]  # fmt: skip
    return ((np.flatnonzero(wrong), say) for wrong, say in found if wrong.any())


def _later(cells: np.ndarray) -> np.ndarray:
    """(rows,) bool: did a row before hold the same?"""
    first = np.zeros(len(cells), dtype=bool)
    first[np.unique(cells, return_index=True)[1]] = True
    return ~first


def _sentence(table: ForeignTable, rows: np.ndarray, say: Callable[[int], str]) -> str:
    lines = table.line_numbers(rows[:_SHOWN_FAULTS])
    more = f" (also {', '.join(map(str, lines[1:]))}" + (f" and {len(rows) - 3} more" * (len(rows) > 3)) + ")"
    unit = "line" if table.delimiter else "row"
    return f"{table.path.name}, {unit} {lines[0]}: {say(int(rows[0]))}{more if len(lines) > 1 else ''}"


def _as_lists(rows: _Rows, num_cases: int) -> Lists:
    lengths = np.bincount(rows.case, minlength=num_cases)
    starts = np.flatnonzero(np.pad(rows.case[1:] != rows.case[:-1], (1, 0), constant_values=True))
    place = np.arange(len(rows.case)) - np.repeat(starts, np.diff(np.append(starts, len(rows.case))))
    items = np.zeros((num_cases, max(1, int(lengths.max()))), dtype=np.int32)
    scores = np.full(items.shape, -np.inf)
    items[rows.case, place], scores[rows.case, place] = rows.number, rows.score
    return Lists(items, scores, np.zeros(num_cases, dtype=np.int32))
