"""Reading a folder of Parquet files into a Dataset. The shape is told by files and columns, never by the name.

interactions.parquet                user_id, item_id[, timestamp]: one log, put into time order here
sequences.parquet                   user_id, items (list, oldest first)[, delta_days (list)]: one sequence a user, and
                                    how many days each item came after the one before it
train, test[, valid].parquet        user_id, item_id: aligned users, the order of the rows is kept
train, valid, test.parquet          row, items (list): other users in every part
train, valid, test.parquet          row, seq, seq_len, next: prefixes padded with the largest id, and the next item;
                                    in train the prefixes of a sequence are one row again
items.parquet                       item_id[, title[, year]]: optional in all of them
source.json                         name, kind, licence, published_by, sources, files (sha256 of each): optional

Items are numbered 1..N by ascending source id over the items that occur in the interactions of any part
(ids that are integers ascend as integers); items that nobody ever touched get no number.
"""

# pyarrow.compute makes its functions when it is imported, where a type checker cannot see them.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diffrec.data.catalogue import read_description, shape_of
from diffrec.data.dataset import Dataset, DatasetInfo, Interactions
from diffrec.data.ragged import Ragged
from diffrec.data.vocabulary import Vocabulary
from diffrec.errors import IntegrityError
from diffrec.files import write_folder


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a dataset before items have numbers.

    user_ids: (users,) source ids as str; rows: (entries,) row of each entry in `user_ids`;
    items: (entries,) source ids; timestamps: (entries,) seconds since 1970 or None; elapsed: (entries,) seconds since
    the first of the row or None, of entries in time order.
    """

    user_ids: np.ndarray
    rows: np.ndarray
    items: pa.ChunkedArray
    timestamps: np.ndarray | None = None
    elapsed: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Tables:
    """A dataset as it is stored.

    interactions: user_id, item_id and, where known, timestamp, in file order; items: item_id, title.
    """

    interactions: pa.Table
    items: pa.Table | None = None


def read_folder(folder: Path, name: str) -> Dataset:
    """The dataset in `folder`; raises IntegrityError where a file cannot be read or lacks a column."""
    try:
        parts, aligned = _read_parts(folder)
        items = read_table(folder / "items.parquet") if (folder / "items.parquet").exists() else None
        return assemble(name, parts, items, describe(folder, name), aligned)
    except (pa.ArrowException, KeyError, OSError) as error:
        raise IntegrityError(f"the dataset in {folder} cannot be read: {error}") from error


def describe(folder: Path, name: str) -> DatasetInfo:
    """Origin and licence as stated in source.json."""
    stated = read_description(folder)
    origins = [source["repo"] for source in stated.get("sources", []) if "repo" in source]
    return DatasetInfo(
        title=stated.get("name", name),
        homepage=stated.get("homepage", f"https://{origins[0]}" if origins else ""),
        licence=stated.get("licence", "not stated"),
        citation=stated.get("published_by", ""),
        fetched_from=stated.get("fetched_from", ""),
    )


def assemble(
    name: str, parts: Mapping[str, Part], items: pa.Table | None, info: DatasetInfo, aligned: bool = True
) -> Dataset:
    """Number the items of all parts, put each part into time order, look the titles up.

    items: columns item_id and, where known, title and year.
    """
    chunks = [chunk for part in parts.values() for chunk in part.items.chunks]
    ids, numbers = numbered(pa.chunked_array(chunks))
    bounds = np.cumsum([len(part.items) for part in parts.values()])[:-1]
    per_part = zip(parts.items(), np.split(numbers + 1, bounds), strict=True)
    return Dataset(
        name=name,
        vocabulary=Vocabulary(tuple(_strings(ids)), None if items is None else _titles(ids, items)),
        parts={key: _interactions(part, item_numbers) for (key, part), item_numbers in per_part},
        info=info,
        aligned=aligned,
    )


def numbered(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """The distinct values in ascending order, and the place of every entry among them (entries,) int64."""
    encoded = column.combine_chunks().dictionary_encode()
    order = pc.sort_indices(encoded.dictionary)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order.to_numpy()] = np.arange(len(order))
    return encoded.dictionary.take(order), rank[encoded.indices.to_numpy()]


def log_part(table: pa.Table) -> Part:
    """A log with columns user_id, item_id and, where known, timestamp, in any order of rows."""
    user_ids, rows = numbered(table["user_id"])
    times = table["timestamp"].to_numpy().astype(np.int64) if "timestamp" in table.column_names else None
    return Part(_strings(user_ids), rows, table["item_id"], times)


def _interactions(part: Part, numbers: np.ndarray) -> Interactions:
    """Group by user; inside a user by time where there are times. Ties keep the order of the file."""
    by_time = (part.rows,) if part.timestamps is None else (part.timestamps, part.rows)
    order = np.lexsort(by_time)
    lengths = np.bincount(part.rows, minlength=len(part.user_ids))
    items = Ragged.from_lengths(numbers[order].astype(np.int32), lengths)
    times = None if part.timestamps is None else Ragged(part.timestamps[order], items.offsets)
    elapsed = None if part.elapsed is None else Ragged(part.elapsed[order], items.offsets)
    return Interactions(items, part.user_ids, times, elapsed)


def _read_parts(folder: Path) -> tuple[dict[str, Part], bool]:
    """The parts of a folder, and whether row u is the same user in all of them."""
    shape = shape_of(folder)
    if shape == "log":
        return {"all": log_part(read_table(folder / "interactions.parquet"))}, True
    if shape == "sequences":
        return {"all": _list_part(read_table(folder / "sequences.parquet"), "user_id")}, True
    tables = {name: read_table(folder / f"{name}.parquet") for name in ("train", "valid", "test")
              if (folder / f"{name}.parquet").exists()}  # fmt: skip
    columns = tables["train"].column_names
    if "next" in columns:
        pad = max(_largest(table) for table in tables.values())
        return {name: _prefix_part(table, pad, merged=name == "train") for name, table in tables.items()}, False
    if "items" in columns:
        return {name: _list_part(table, "row") for name, table in tables.items()}, False
    for path in folder.glob("valid_*.parquet"):
        tables["valid"] = read_table(path)
        tables["train"] = _without(tables["train"], tables["valid"])
    return _pair_parts({name: tables[name] for name in ("train", "valid", "test") if name in tables}), True


def _without(table: pa.Table, held_out: pa.Table) -> pa.Table:
    """`table` without the pairs of `held_out`: a `valid_<who>.parquet` is a hold-out that train still contains."""
    span = pc.max(pa.chunked_array(table["item_id"].chunks + held_out["item_id"].chunks)).as_py() + 1
    keys = [t["user_id"].to_numpy().astype(np.int64) * span + t["item_id"].to_numpy() for t in (table, held_out)]
    return table.filter(pa.array(~np.isin(*keys)))


def _pair_parts(tables: Mapping[str, pa.Table]) -> dict[str, Part]:
    """Parts with the same users in the same order: all users that occur in any of them, by ascending id."""
    ids, rows = numbered(pa.chunked_array([chunk for table in tables.values() for chunk in table["user_id"].chunks]))
    user_ids = _strings(ids)
    bounds = np.cumsum([len(table) for table in tables.values()])[:-1]
    per_part = zip(tables.items(), np.split(rows, bounds), strict=True)
    return {name: Part(user_ids, part_rows, table["item_id"]) for (name, table), part_rows in per_part}


def _list_part(table: pa.Table, id_column: str) -> Part:
    """One list of items a row, already in time order."""
    lists = table["items"].combine_chunks()
    lengths = lists.value_lengths().to_numpy()
    rows = np.repeat(np.arange(len(table)), lengths)
    return Part(_strings(table[id_column]), rows, pa.chunked_array([lists.flatten()]), elapsed=_elapsed(table, lengths))


def _elapsed(table: pa.Table, lengths: np.ndarray) -> np.ndarray | None:
    """(entries,) seconds since the first item of the row, from the column of gaps in days where there is one."""
    if "delta_days" not in table.column_names:
        return None
    days = table["delta_days"].combine_chunks().flatten().to_numpy().astype(np.int64)
    since_first = Ragged.from_lengths(days, lengths).running_total()
    return 86_400 * since_first.values


def _prefix_part(table: pa.Table, pad: int, merged: bool) -> Part:
    """Each row becomes its history, the first `seq_len` entries of `seq` that are not padding, then `next`.

    merged: rows that go on from the row before them are joined to it, under the id of the first.
    """
    history, target = _prefixes(table, pad)
    width = int(table["seq"].combine_chunks().value_lengths().to_numpy().max())
    starts = ~_goes_on(history, target, width) if merged else np.ones(len(table), dtype=bool)
    sequence = np.cumsum(starts) - 1
    first = np.flatnonzero(starts)
    head = history.take(first)
    rows = np.concatenate([head.row_of_entry, sequence])
    items = np.concatenate([head.values, target])
    return Part(_strings(table["row"].take(pa.array(first))), rows, pa.chunked_array([pa.array(items)]))


def _prefixes(table: pa.Table, pad: int) -> tuple[Ragged, np.ndarray]:
    """The history of each row without padding, and the (rows,) items that come next."""
    lists = table["seq"].combine_chunks()
    slots = Ragged.from_lengths(lists.flatten().to_numpy(), lists.value_lengths().to_numpy())
    keep = (slots.position_of_entry < table["seq_len"].to_numpy()[slots.row_of_entry]) & (slots.values != pad)
    history = Ragged.from_groups(slots.row_of_entry[keep], slots.values[keep], len(slots))
    return history, table["next"].to_numpy()


def _goes_on(history: Ragged, target: np.ndarray, width: int) -> np.ndarray:
    """(rows,) bool: is the history all that the row before knew, up to the last `width` items?"""
    whole = history.joined(Ragged.from_lengths(target, np.ones(len(target), dtype=np.int64))).last(width)
    same_length = history.lengths[1:] == whole.lengths[:-1]
    pairs = np.flatnonzero(same_length)
    mine, before = history.take(pairs + 1), whole.take(pairs)
    differing = np.bincount(mine.row_of_entry[mine.values != before.values], minlength=len(pairs))
    goes_on = np.zeros(len(history), dtype=bool)
    goes_on[pairs + 1] = differing == 0
    return goes_on


def _largest(table: pa.Table) -> int:
    return max(pc.max(table["seq"].combine_chunks().flatten()).as_py(), pc.max(table["next"]).as_py())


def _titles(ids: pa.Array, items: pa.Table) -> tuple[str, ...] | None:
    """The title of each id, with its year behind it where that is a column of its own; "" where unknown."""
    if "title" not in items.column_names:
        return None
    titles = items["title"].fill_null("")
    if "year" in items.column_names:
        years = items["year"].cast(pa.string()).fill_null("")
        dated = pc.binary_join_element_wise(titles, pc.binary_join_element_wise(" (", years, ")", ""), "")
        bare = pc.or_(pc.or_(pc.equal(titles, ""), pc.equal(years, "")), pc.equal(years, titles))
        titles = pc.if_else(bare, titles, dated)
    places = pc.index_in(ids, items["item_id"].combine_chunks().cast(ids.type))
    return tuple(titles.combine_chunks().take(places).fill_null("").to_pylist())


def read_table(path: Path) -> pa.Table:
    """The table in `path`; where source.json states a sha256 for it, the bytes must have it."""
    content = path.read_bytes()
    stated = read_description(path.parent).get("files", {}).get(path.name, {}).get("sha256")
    if stated and (seen := hashlib.sha256(content).hexdigest()) != stated:
        raise IntegrityError(f"{path} has sha256 {seen}, but source.json beside it says {stated}")
    return pq.read_table(pa.BufferReader(content))


def save_folder(folder: Path, tables: Tables, description: Mapping[str, object], replace: bool = False) -> None:
    """Write a dataset that `read_folder` reads; the folder appears whole or not at all.

    An existing dataset is left as it is (another process was faster) unless `replace`; remains of one are
    replaced.
    """
    stored = {"interactions.parquet": tables.interactions, "items.parquet": tables.items}
    present = {name: table for name, table in stored.items() if table is not None}
    contents = {name: _parquet(table) for name, table in present.items()}
    files = {
        name: {"sha256": hashlib.sha256(contents[name]).hexdigest(), "rows": len(t), "columns": t.column_names}
        for name, t in present.items()
    }
    contents["source.json"] = json.dumps({**description, "files": files}, indent=1, ensure_ascii=False).encode()
    write_folder(folder, contents, keep=lambda there: not replace and bool(shape_of(there)))


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _strings(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return ids.cast(pa.string()).to_numpy(zero_copy_only=False)
