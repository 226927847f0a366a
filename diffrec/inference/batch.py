"""Lists for a file of users, Parquet in and Parquet out, in parts where several processes share the work."""

# pyarrow.compute makes its functions when it is imported, where a type checker cannot see them.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from diffrec.data.list_table import list_table, write_parquet
from diffrec.data.ragged import Ragged
from diffrec.data.vocabulary import Vocabulary
from diffrec.errors import IntegrityError, NotFoundError, UsageError, check_sizes, near_match
from diffrec.inference.index import ItemIndex
from diffrec.recommender import Recommender

_ITEMS = ("items", "titles", "item_id", "title")  # columns that tell a history, of which a file has one
_SHAPES = (
    "user_id with 'items' (lists of ids, oldest first) or 'titles' (lists of titles), or a row for each interaction "
    "with 'item_id' or 'title' and, unless rows are in order, 'timestamp'"
)
_SHOWN = 5  # unknown items that a message names
_ROWS_AT_ONCE = 512
_COMPARED = 500  # users whose lists of an index are held against the exact ones


@dataclass(frozen=True, eq=False)
class Users:
    """Who asks. ids: (users,) text; history: item numbers, oldest first; times: seconds of every item, where known;
    left_out: how many items of the file the model does not know, which are missing from the histories."""

    ids: np.ndarray
    history: Ragged
    times: Ragged | None = None
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, shard: Shard) -> Users:
        """The users of one process."""
        rows = np.arange(len(self))[shard.of(len(self))]
        return Users(self.ids[rows], self.history.take(rows), self.times and self.times.take(rows), self.left_out)


@dataclass(frozen=True)
class Shard:
    """The part of one of several processes: consecutive users, so that the parts in their order are the whole."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def of_environment(cls, variables: Mapping[str, str] = os.environ) -> Shard:
        """From RANK and WORLD_SIZE, which torchrun sets; UsageError where they are no such numbers."""
        rank, size = variables.get("RANK", "0"), variables.get("WORLD_SIZE", "1")
        if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
            raise UsageError(
                f"RANK and WORLD_SIZE must be whole numbers with 0 <= RANK < WORLD_SIZE, got {rank}, {size}"
            )
        return cls(int(rank), int(size))

    def of(self, count: int) -> slice:
        """Which of `count` users."""
        return slice(self.rank * count // self.world_size, (self.rank + 1) * count // self.world_size)

    def file(self, output: Path) -> Path:
        """`output`, or lists-00001-of-00004.parquet beside it where there are several."""
        if self.world_size == 1:
            return output
        return output.with_name(f"{output.stem}-{self.rank:05}-of-{self.world_size:05}{output.suffix}")


@dataclass(frozen=True)
class Written:
    """What came of it. short: users with fewer items than asked for; seconds: reading, ranking and writing, without
    the model; recall: with an index, which share of the exact lists it found, over up to 500 of the users."""

    path: Path
    users: int
    rows: int
    short: int
    left_out: int
    seconds: float
    recall: float | None = None


def recommend_file(
    model: Recommender,
    source: Path,
    output: Path,
    k: int = 10,
    *,
    exclude_seen: bool = True,
    seed: int = 0,
    skip_unknown: bool = False,
    shard: Shard | None = None,
    batch_size: int = _ROWS_AT_ONCE,
    index: ItemIndex | None = None,
) -> Written:
    """Write the `k` best items for every user of `source` to `output`, as `list_table` has them, whole or not at all.

    Lists are those of `Recommender.recommend` for each user alone. skip_unknown: leave items that the model does not
    know out of the histories; shard: only these users, and into `Shard.file`; index: lists are searched in it, and
    some of them compared with the exact ones. Raises what `read_users` raises.
    """
    check_sizes(k=k, batch_size=batch_size)
    if source.exists() and output.exists() and source.samefile(output):
        raise UsageError(f"{output} is the input; give the lists another name")
    shard, start = shard or Shard(), time.perf_counter()
    vocabulary = vocabulary_of(model)
    users = read_users(source, vocabulary, skip_unknown=skip_unknown).part(shard)
    items, scores = lists_of(index or model, users, k, exclude_seen=exclude_seen, seed=seed, batch_size=batch_size)
    table = list_table(users.ids, items, scores, vocabulary.item_ids)
    path = shard.file(output)
    write_parquet(table, path)
    short, seconds = int(((items > 0).sum(1) < k).sum()), time.perf_counter() - start
    recall = None
    if index is not None and len(users):
        some = np.unique(np.linspace(0, len(users) - 1, _COMPARED).astype(int))
        recall = index.recall(torch.from_numpy(users.history.padded(some)), k, exclude_seen=exclude_seen, seed=seed)
    return Written(path, len(users), len(table), short, users.left_out, seconds, recall)


def vocabulary_of(model: Recommender) -> Vocabulary:
    """That of the model; item numbers as ids for one that has none."""
    return model.vocabulary or Vocabulary(tuple(str(number) for number in range(1, model.num_items + 1)))


def lists_of(
    model: Recommender | ItemIndex,
    users: Users,
    k: int,
    *,
    exclude_seen: bool = True,
    seed: int = 0,
    batch_size: int = _ROWS_AT_ONCE,
) -> tuple[np.ndarray, np.ndarray]:
    """(users, k) item numbers, 0 where the candidates ran out, and their scores, in the order of the users; k: all
    items at most."""
    k = min(k, model.num_items)
    items, scores = np.zeros((len(users), k), dtype=np.int32), np.full((len(users), k), -np.inf, dtype=np.float32)
    by_length = np.argsort(-users.history.lengths, kind="stable")  # little padding in a batch
    for start in range(0, len(users), batch_size):
        rows = by_length[start : start + batch_size]
        history = torch.from_numpy(users.history.padded(rows))
        times = None if users.times is None else torch.from_numpy(users.times.padded(rows))
        best = model.recommend(history, k, exclude_seen=exclude_seen, seed=seed, times=times)
        items[rows], scores[rows] = best.items.cpu().numpy(), best.scores.cpu().numpy()
    return items, scores


def read_users(path: Path, vocabulary: Vocabulary, *, skip_unknown: bool = False) -> Users:
    """The users of a Parquet file: one row each with a list, or one row for each interaction.

    Ids are matched exactly, titles as `Vocabulary.number` does. Raises NotFoundError (no file; items that the model
    does not know, unless `skip_unknown`), IntegrityError (damaged), UsageError (not Parquet, other columns, types or
    empty cells).
    """
    table, name = _read(path)
    ids = _text(table["user_id"], "user_id", path)
    if name in ("items", "titles"):
        lists, lengths = _flat(table[name], name, path)
        if (twice := _repeated(ids)) is not None:
            raise UsageError(f"{path} has the user {twice!r} twice; write one row a user, or one row an interaction")
        users, rows, seconds = ids.to_numpy(zero_copy_only=False), np.repeat(np.arange(len(ids)), lengths), None
    else:
        lists, encoded = table[name].combine_chunks(), ids.dictionary_encode()
        users, rows = encoded.dictionary.to_numpy(zero_copy_only=False), encoded.indices.to_numpy().astype(np.int64)
        seconds = _seconds(table["timestamp"], path) if "timestamp" in table.column_names else None
    numbers = _numbers(_text(lists, name, path), vocabulary, name.startswith("title"), path, skip_unknown)
    return _users(users.astype(object), rows, numbers, seconds)


def _users(ids: np.ndarray, rows: np.ndarray, numbers: np.ndarray, seconds: np.ndarray | None) -> Users:
    """Entries in file order, of which 0 are unknown, gathered user by user, in time order where times are known."""
    order = np.argsort(seconds, kind="stable") if seconds is not None else np.arange(len(rows))
    order = order[numbers[order] > 0]
    history = Ragged.from_groups(rows[order], numbers[order], len(ids))
    times = None if seconds is None else Ragged.from_groups(rows[order], seconds[order], len(ids))
    return Users(ids, history, times, left_out=len(numbers) - len(order))


def _read(path: Path) -> tuple[pa.Table, str]:
    """The columns that are needed, and which of them tells the items."""
    if not path.is_file():
        raise NotFoundError(f"there is no file {path}")
    with path.open("rb") as opened:
        if opened.read(4) != b"PAR1":
            raise UsageError(f"{path} is no Parquet file; needed is one with {_SHAPES}")
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        told = [name for name in _ITEMS if name in names]
        if "user_id" not in names or len(told) != 1:
            raise UsageError(f"{path} has the columns {', '.join(names)}; needed are {_SHAPES}{_near_column(names)}")
        return file.read([name for name in ("user_id", told[0], "timestamp") if name in names]), told[0]
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{path} is not a whole Parquet file: {str(error).partition(chr(10))[0]}") from error


def _near_column(names: Sequence[str]) -> str:
    if "user_id" not in names:
        return next((f"; is {name!r} the user_id?" for name in names if near_match(name, ["user_id", "user"])), "")
    return ""


def _flat(column: pa.ChunkedArray, name: str, path: Path) -> tuple[pa.Array, np.ndarray]:
    """All members of a column of lists one after the other, and how many each row has."""
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        raise UsageError(f"{path}: {name!r} must hold lists, it is {column.type}; one id a row is called 'item_id'")
    lists = column.combine_chunks()
    if lists.null_count:
        raise UsageError(f"{path}: {name!r} has no list in row {_first_null(lists)}; an empty list is a new user")
    return pc.list_flatten(lists), pc.list_value_length(lists).to_numpy(zero_copy_only=False)


def _text(values: pa.Array | pa.ChunkedArray, name: str, path: Path) -> pa.Array:
    """Text or whole numbers as text; UsageError for other types and for empty cells."""
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not (
        pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or pa.types.is_integer(values.type)
    ):
        if not len(values):  # a list of nothing has no type of its own
            return pa.array([], pa.string())
        raise UsageError(f"{path}: {name!r} must hold text or whole numbers, it holds {values.type}")
    if values.null_count:
        raise UsageError(f"{path}: {name!r} is empty in place {_first_null(values)}")
    return values.cast(pa.string())


def _first_null(values: pa.Array) -> int:
    """The place, from 1."""
    return int(pc.index(values.is_null(), True).as_py()) + 1


def _seconds(column: pa.ChunkedArray, path: Path) -> np.ndarray:
    """(rows,) int64 seconds of whole numbers or times."""
    values = column.combine_chunks()
    if values.null_count:
        raise UsageError(f"{path}: 'timestamp' is empty in row {_first_null(values)}")
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    if not pa.types.is_integer(values.type):
        raise UsageError(f"{path}: 'timestamp' must hold whole seconds or times, it holds {column.type}")
    return values.to_numpy().astype(np.int64)


def _repeated(ids: pa.Array) -> str | None:
    """An id that stands in several rows."""
    encoded = ids.dictionary_encode()
    twice = np.flatnonzero(np.bincount(encoded.indices.to_numpy(), minlength=len(encoded.dictionary)) > 1)
    return cast(str, encoded.dictionary[int(twice[0])].as_py()) if len(twice) else None


def _numbers(texts: pa.Array, vocabulary: Vocabulary, titles: bool, path: Path, skip_unknown: bool) -> np.ndarray:
    """(entries,) item numbers, 0 for what the model does not know."""
    encoded = texts.dictionary_encode()
    known = pc.index_in(encoded.dictionary, pa.array(vocabulary.item_ids, pa.string())).fill_null(-1).to_numpy() + 1
    asked = encoded.dictionary.to_pylist() if titles else []
    if titles:
        known = np.array([_number_of_title(title, vocabulary) for title in asked], dtype=np.int64)
    numbers = known.astype(np.int32)[encoded.indices.to_numpy()]
    if (unknown := np.flatnonzero(known == 0)).size and not skip_unknown:
        words = [cast(str, encoded.dictionary[int(place)].as_py()) for place in unknown[:_SHOWN]]
        raise NotFoundError(_complaint(path, words, len(unknown), int((numbers == 0).sum()), titles, vocabulary))
    return numbers


def _number_of_title(title: str, vocabulary: Vocabulary) -> int:
    """0 for an unknown one; UsageError for one of several items."""
    try:
        return vocabulary.number(title)
    except NotFoundError:
        return 0


def _complaint(
    path: Path, words: Sequence[str], unknown: int, entries: int, titles: bool, vocabulary: Vocabulary
) -> str:
    """The first unknown items, each with its near match."""
    allowed = (vocabulary.titles or ()) if titles else vocabulary.item_ids
    kind = ("title" if titles else "item id") + "s" * (unknown > 1)
    named = " ".join(f"{word!r}{near_match(word, allowed)}" for word in words)
    more = f" and {unknown - len(words)} more" * (unknown > len(words))
    missing = f"; {vocabulary.missing_titles}" if titles and vocabulary.missing_titles else ""
    what = f"{unknown} {kind} that the model does not know, in {entries} places"
    return f"{path} holds {what} (--skip-unknown leaves them out): {named}{more}{missing}"
