"""The rows of an imported table, and the sieve that counts and names every row it leaves out."""

# pyarrow.compute makes its functions when it is imported, where a type checker cannot see them.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diffrec.data.dropped import LINES_SHOWN, Dropped, cut_off
from diffrec.data.folders import Tables, numbered
from diffrec.data.tables import ForeignTable, is_number
from diffrec.data.times import parse_times
from diffrec.errors import UsageError

_MISSING = pa.array(["", "nan", "null", "none"])
_INTEGER = r"^(0|-?[1-9]\d{0,17})$"
_TEXTS_TOLD = 3  # of a column that cannot be read


@dataclass(frozen=True, eq=False)
class Events:
    """One interaction a row, in file order unless said otherwise.

    row: (events,) number in the file; user, item: (events,) places in `user_ids` and `item_ids`;
    time: (events,) microseconds since 1970 or None; title: (events,) of the item or None.
    """

    row: np.ndarray
    user: np.ndarray
    item: np.ndarray
    user_ids: pa.Array
    item_ids: pa.Array
    time: np.ndarray | None
    title: pa.Array | None

    def __len__(self) -> int:
        return len(self.row)

    def take(self, rows: np.ndarray) -> Events:
        """The given rows, in the given order."""
        return Events(
            self.row[rows],
            self.user[rows],
            self.item[rows],
            self.user_ids,
            self.item_ids,
            None if self.time is None else self.time[rows],
            None if self.title is None else self.title.take(pa.array(rows)),
        )

    def in_time_order(self) -> Events:
        """Oldest first over all users; ties, and tables without times, keep their order."""
        return self if self.time is None else self.take(np.argsort(self.time, kind="stable"))

    def tables(self) -> Tables:
        """As stored: ids are integers where all of them are, times are whole seconds."""
        columns = {"user_id": _stored(self.user_ids, self.user), "item_id": _stored(self.item_ids, self.item)}
        if self.time is not None:
            columns["timestamp"] = pa.array(self.time // 10**6)
        return Tables(pa.table(columns), None if self.title is None else self._titles(columns["item_id"], self.title))

    def _titles(self, item_ids: pa.Array, titles: pa.Array) -> pa.Table:
        """The first title of each item that is not empty."""
        stripped = pc.utf8_trim_whitespace(titles)
        titled = np.flatnonzero(pc.not_equal(stripped, "").to_numpy(zero_copy_only=False))
        rows = pa.array(titled[np.unique(self.item[titled], return_index=True)[1]])
        return pa.table({"item_id": item_ids.take(rows), "title": stripped.take(rows)})

    def num_users(self, least: int = 1) -> int:
        """Users with at least so many events."""
        return int(np.count_nonzero(np.bincount(self.user) >= least))

    def num_items(self) -> int:
        """Items with at least one event."""
        return int(np.count_nonzero(np.bincount(self.item)))

    def repeats(self) -> int:
        """Rows in which a user comes back to an item."""
        return len(self) - len(np.unique(self.user * len(self.item_ids) + self.item))

    def ties(self) -> int:
        """Rows that share user and time with another row."""
        if self.time is None:
            return 0
        order = np.lexsort((self.time, self.user))
        user, time = self.user[order], self.time[order]
        same = np.concatenate([[False], (user[1:] == user[:-1]) & (time[1:] == time[:-1]), [False]])
        return int((same[1:] | same[:-1]).sum())

    def reordered_users(self) -> int:
        """Users whose rows are not in time order here."""
        if self.time is None:
            return 0
        order = np.argsort(self.user, kind="stable")
        user, time = self.user[order], self.time[order]
        backwards = (user[1:] == user[:-1]) & (time[1:] < time[:-1])
        return len(np.unique(user[1:][backwards]))


class Sieve:
    """Takes the events out of a table; `dropped` says what stayed behind and why."""

    def __init__(self, table: ForeignTable, columns: Mapping[str, str]) -> None:
        self.table, self.columns = table, columns
        cells, broken = table.read(columns)
        self.dropped: list[Dropped] = [*broken]
        self.rows_read = len(cells) + sum(drop.rows for drop in broken)
        self.cells = {role: cells[role].combine_chunks() for role in columns}
        self.rows = np.arange(len(cells))

    def sift(self, min_rating: float | None, k_core: int) -> Events:
        """All steps in turn; raises UsageError where no event is left."""
        user_ids, user = self._ids("user")
        item_ids, item = self._ids("item")
        self._drop("no user id", user < 0)
        self._drop("no item id", item[self.rows] < 0)
        if min_rating is not None:
            self._drop_ratings(min_rating)
        time = self._times() if "timestamp" in self.cells else None
        everything = np.arange(len(user))
        events = Events(everything, user, item, user_ids, item_ids, time, self.cells.get("title"))
        if time is not None:
            again = _duplicates(user[self.rows], item[self.rows], time[self.rows])
            self._drop("the same user, item and time as an earlier row", again)
        self._drop(f"user or item with fewer than {k_core} interactions", ~_core(events.take(self.rows), k_core))
        if not len(self.rows):
            reasons = "; ".join(
                f"{drop.rows:,} rows: {drop.reason}, first in {self.table.unit} {drop.lines[0]}"
                for drop in self.dropped
            )
            raise UsageError(f"{self.table.path.name}: none of {self.rows_read:,} rows is left ({reasons})")
        return events.take(self.rows)

    def _drop(self, reason: str, bad: np.ndarray, texts: pa.Array | None = None) -> None:
        """Leave out the remaining rows where `bad` (remaining rows,) holds; texts: (all rows,) what could not be
        read."""
        if not bad.any():
            return
        first = self.rows[bad][:LINES_SHOWN]
        seen = () if texts is None else tuple(map(cut_off, texts.take(pa.array(first)).to_pylist()))
        self.dropped.append(Dropped(reason, int(bad.sum()), self.table.line_numbers(first), seen))
        self.rows = self.rows[~bad]

    def _ids(self, role: str) -> tuple[pa.Array, np.ndarray]:
        """The distinct ids without surrounding blanks, and the place of each row's id among them, -1 for none."""
        raw, place = numbered(pa.chunked_array([self.cells[role]]))
        ids, merged = numbered(pa.chunked_array([pc.utf8_trim_whitespace(raw)]))
        place = merged[place]
        missing = pc.is_in(pc.utf8_lower(ids), _MISSING).to_numpy(zero_copy_only=False)
        broken = pc.match_substring_regex(ids, r"[\r\n]").to_numpy(zero_copy_only=False)
        if (rows := np.flatnonzero(broken[place])).size:
            line = self.table.line_numbers(rows[:1])[0]
            raise UsageError(f"{self.table.path.name}, line {line}: the {role} id goes on over several lines; "
                             f"a quotation mark is opened and not closed")  # fmt: skip
        return ids, np.where(missing[place], -1, place)

    def _drop_ratings(self, min_rating: float) -> None:
        texts = pc.utf8_trim_whitespace(self.cells["rating"])
        number = is_number(texts)
        values = pc.if_else(pa.array(number), texts, "0").cast(pa.float64()).to_numpy()
        self._drop("no rating, or one that is not a number", ~number[self.rows], texts)
        self._drop(f"rating below {min_rating:g}", values[self.rows] < min_rating)

    def _times(self) -> np.ndarray:
        """(all rows,) microseconds; rows without a time of 1970 or later are dropped."""
        texts = pc.utf8_trim_whitespace(self.cells["timestamp"])
        times, read = parse_times(texts)
        if not read.any():
            raise UsageError(self._no_time(texts))
        self._drop("no time, or one that is not understood", ~read[self.rows], texts)
        self._drop("time before 1970", times[self.rows] < 0)
        return times

    def _no_time(self, texts: pa.Array) -> str:
        """What stands first in a column of times without one, where it is not empty throughout."""
        rows = np.flatnonzero(pc.not_equal(texts, "").to_numpy(zero_copy_only=False))[:_TEXTS_TOLD]
        column = f"column {self.columns['timestamp']!r}"
        if not len(rows):
            return (
                f"{self.table.path.name} has no time in {column}: every cell is empty; --timestamp names another, and "
                f"without the column the order of the file counts"
            )
        found = zip(self.table.line_numbers(rows), texts.take(pa.array(rows)).to_pylist(), strict=True)
        told = "; ".join(f"{self.table.unit} {line}: {cut_off(text)!r}" for line, text in found)
        return (
            f"{self.table.path.name}, {told}; nothing in {column} is a time\n"
            f"Allowed are seconds or milliseconds since 1970 and dates like 2014-07-23 18:00:00; --timestamp names "
            f"another column, and without the column the order of the file counts"
        )


def _duplicates(user: np.ndarray, item: np.ndarray, time: np.ndarray) -> np.ndarray:
    """(events,) bool: an earlier row has the same user, item and time."""
    order = np.lexsort((time, item, user))
    keys = np.stack([user, item, time])[:, order]
    out = np.zeros(len(order), dtype=bool)
    out[order[1:]] = (keys[:, 1:] == keys[:, :-1]).all(axis=0)
    return out


def _core(events: Events, k: int) -> np.ndarray:
    """(events,) bool: what is left when users and items with fewer than `k` events are taken out again and again."""
    kept = np.ones(len(events), dtype=bool)
    while True:
        users = np.bincount(events.user[kept], minlength=len(events.user_ids))
        items = np.bincount(events.item[kept], minlength=len(events.item_ids))
        still = kept & (users[events.user] >= k) & (items[events.item] >= k)
        if (still == kept).all():
            return kept
        kept = still


def _stored(ids: pa.Array, places: np.ndarray) -> pa.Array:
    """The id of every event, as integers where all ids in use are plain integers."""
    used = np.bincount(places, minlength=len(ids)) > 0
    distinct = ids.filter(pa.array(used))
    if pc.all(pc.match_substring_regex(distinct, _INTEGER)).as_py():
        distinct = distinct.cast(pa.int64())
    return distinct.take(pa.array((np.cumsum(used) - 1)[places]))
