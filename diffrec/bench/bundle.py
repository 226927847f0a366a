"""A bundle: a folder with a result and the lists it rests on, so that a machine can recompute its numbers.

manifest.json   the kind of bundle, and size and sha256 of every other file
result.json     the record: `result.Result` (kind "run"), `OutsideResult` (kind "lists")
ranks.parquet   the rank of every true item, see `ranks`
lists.parquet   what was recommended to whom, with scores
model/          an entry of the zoo, where weights come along (kind "run" only)

Bundles come from strangers: nothing is opened before the manifest names these files and no others, and nothing is
read before every one of them is a regular file of the stated size.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffrec.bench import ranks as rank_files
from diffrec.bench.ranks import UserRanks
from diffrec.bench.result import NAME, Bounds, Result, Tree, read_result, sha256_of
from diffrec.bench.strict import parse
from diffrec.errors import IntegrityError, NotFoundError, UsageError
from diffrec.files import write_folder
from diffrec.strict_json import from_json, record, short, to_json

SCHEMA_VERSION = 1
MANIFEST, RECORD, RANKS, LISTS, MODEL = "manifest.json", "result.json", "ranks.parquet", "lists.parquet", "model"
LONGEST_LIST = 1000
_MOST_DRAWS = 100
_MOST_ROWS, _MOST_VALUES = 1 << 26, 1 << 29  # of a Parquet file, whose few bytes may unfold to many
_LARGEST = {
    RECORD: 1 << 20,
    RANKS: 1 << 30,
    LISTS: 1 << 32,
    f"{MODEL}/model.safetensors": 1 << 34,
    f"{MODEL}/config.json": 1 << 16,
    f"{MODEL}/vocabulary.json": 1 << 27,
    f"{MODEL}/metrics.json": 1 << 18,
    f"{MODEL}/card.md": 1 << 18,
    f"{MODEL}/golden.json": 1 << 20,
    f"{MODEL}/manifest.json": 1 << 16,
}
_LARGEST_MANIFEST = 1 << 16
_ALWAYS = {RECORD, RANKS, LISTS}
_MAY_BE_ABSENT = {f"{MODEL}/golden.json"}  # from entries of earlier versions
_SHA256 = re.compile(r"[0-9a-f]{64}")

Kind = Literal["run", "lists"]


@dataclass(frozen=True, eq=False)
class Lists:
    """The lists of one draw, rows in the order of the cases.

    items: (cases, k >= 1) int32 item numbers, best first, 0 in empty slots, which are the last; scores: (cases, k)
    finite floats, -inf there; ties: (cases,) int32, how many candidates that are not listed have the score of the
    last one that is.
    """

    items: np.ndarray
    scores: np.ndarray
    ties: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """(cases,) filled slots."""
        return (self.items > 0).sum(1)


@dataclass(frozen=True, eq=False)
class UserLists:
    """users: (cases,) int64 keys, as in `UserRanks`; draws: the lists of each draw of the sampling noise."""

    users: np.ndarray
    draws: tuple[Lists, ...]


@dataclass(frozen=True)
class OutsideResult:
    """What lists of a system that is not diffrec's are worth; fields as in `Result`.

    system: its name; without_list, short_lists: test cases with no list, and with one shorter than the largest
    cutoff; the places that are missing count as misses.
    """

    system: str
    dataset: str
    dataset_sha256: str
    split_counts: dict[str, int]
    protocol: str
    headline: str
    metrics: dict[str, float]
    draw_metrics: tuple[dict[str, float], ...]
    bounds: Bounds
    ranks_sha256: str | None
    beyond_accuracy: dict[str, float]
    without_list: int
    short_lists: int


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle whose files are those of its manifest; nothing is known yet of its numbers."""

    folder: Path
    result: Result | OutsideResult
    ranks: UserRanks
    lists: UserLists
    has_model: bool

    @property
    def model(self) -> Path:
        """The folder of its zoo entry."""
        return self.folder / MODEL


def write_bundle(
    folder: Path, contents: Mapping[str, bytes], kind: Kind, check: Callable[[Path], object] = lambda copy: None
) -> None:
    """Write a bundle with its manifest; it appears whole, after `check(copy)` has passed, or not at all.

    contents: name -> bytes of the files above but the manifest. Raises UsageError where `folder` exists.
    """
    check_new(folder)
    files = {name: {"size": len(data), "sha256": _sha256(data)} for name, data in contents.items()}
    manifest = to_json({"schema_version": SCHEMA_VERSION, "kind": kind, "files": files})
    model = {name.partition("/")[2]: data for name, data in contents.items() if "/" in name}
    own = {name: data for name, data in contents.items() if "/" not in name}

    def complete(copy: Path) -> None:
        if model:
            write_folder(copy / MODEL, model)
        check(copy)

    write_folder(folder, {**own, MANIFEST: manifest}, check=complete)


def check_new(folder: Path) -> None:
    """UsageError for a folder that is there already: no bundle takes the place of another."""
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} exists; give another folder with -o, or remove it")


def read_bundle(folder: Path) -> Bundle:
    """Check that a folder holds the files of its manifest and nothing else, and read them.

    Raises NotFoundError where there is no folder, IntegrityError naming the file and what is wrong with it.
    """
    if not os.path.isdir(folder):  # False for every impossible path, too
        raise NotFoundError(f"there is no bundle in {folder}: no such folder")
    kind, files = _manifest(folder / MANIFEST)
    _check_tree(folder, files)
    contents = {name: _checked(folder / name, *files[name]) for name in (RECORD, RANKS, LISTS)}
    for name in files.keys() - _ALWAYS:
        _check_hash(folder / name, *files[name])
    where = str(folder / RECORD)
    result = read_result(folder / RECORD) if kind == "run" else outside_from_json(contents[RECORD], where)
    _check_claim(result, contents[RANKS], where)
    for name in (RANKS, LISTS):
        check_parquet(contents[name], str(folder / name))
    ranks = rank_files.from_parquet(contents[RANKS], str(folder / RANKS))
    lists = lists_from_parquet(contents[LISTS], str(folder / LISTS))
    return Bundle(folder, result, ranks, lists, has_model=len(files) > len(_ALWAYS))


def outside_to_json(result: OutsideResult) -> bytes:
    """The content of result.json of a bundle of lists."""
    sealed: Tree = {"schema_version": SCHEMA_VERSION, **json.loads(json.dumps(asdict(result)))}
    return to_json({**sealed, "record_sha256": sha256_of(sealed)})


def outside_from_json(data: bytes, where: str) -> OutsideResult:
    """What `outside_to_json` wrote; IntegrityError otherwise."""
    tree = from_json(data, where)
    if not isinstance(tree, dict):
        raise IntegrityError(f"{where} is not a record but a JSON {type(tree).__name__}")
    checksum = tree.pop("record_sha256", None)
    if checksum != sha256_of(tree):
        raise IntegrityError(f"{where} was changed after it was written: its record_sha256 does not match")
    version = tree.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise IntegrityError(f"{where} has schema_version {short(version)}; this diffrec reads {SCHEMA_VERSION}")
    return parse(tree, OutsideResult, where, IntegrityError)


def lists_to_parquet(lists: UserLists) -> bytes:
    """user: key; for each draw items0 (list of int32), scores0 (list of float or double) and ties0 (int32)."""
    columns = {"user": pa.array(lists.users.astype(np.int64))}
    for number, draw in enumerate(lists.draws):
        there = draw.items > 0
        offsets = pa.array(np.concatenate([[0], np.cumsum(there.sum(1))]).astype(np.int32))
        columns[f"items{number}"] = pa.ListArray.from_arrays(offsets, pa.array(draw.items[there].astype(np.int32)))
        columns[f"scores{number}"] = pa.ListArray.from_arrays(offsets, pa.array(draw.scores[there]))
        columns[f"ties{number}"] = pa.array(draw.ties.astype(np.int32))
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, compression="zstd", use_dictionary=False)
    return file.getvalue()


def lists_from_parquet(content: bytes, where: str) -> UserLists:
    """What `lists_to_parquet` wrote; IntegrityError names `where` and what is wrong."""
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise _no_parquet(where, error) from None
    count = (table.num_columns - 1) // 3
    names = [f"{part}{number}" for number in range(count) for part in ("items", "scores", "ties")]
    if not count or table.column_names != ["user", *names] or table.schema.field("user").type != pa.int64():
        raise IntegrityError(f"{where} holds no lists: its columns are {', '.join(table.column_names)[:80]}")
    return UserLists(_numbers(table, "user", where), tuple(_draw(table, number, where) for number in range(count)))


def _draw(table: pa.Table, number: int, where: str) -> Lists:
    items, lengths = _entries(table, f"items{number}", (pa.int32(),), where)
    scores, others = _entries(table, f"scores{number}", (pa.float32(), pa.float64()), where)
    ties = table.schema.field(f"ties{number}").type
    if ties != pa.int32() or not np.array_equal(lengths, others):
        raise IntegrityError(f"{where} holds no lists: draw {number} needs a score for every item and int32 ties")
    if items.min(initial=1) < 1 or not np.isfinite(scores).all():
        raise IntegrityError(f"{where}: draw {number} holds item numbers below 1, or scores that are not finite")
    if len(lengths) * lengths.max(initial=1) > _MOST_VALUES:
        raise IntegrityError(f"{where}: draw {number} has {len(lengths):,} lists of {lengths.max():,} items, too many")
    slots = np.arange(lengths.max(initial=1)) < lengths[:, None]
    all_items, all_scores = np.zeros(slots.shape, dtype=np.int32), np.full(slots.shape, -np.inf, dtype=scores.dtype)
    all_items[slots], all_scores[slots] = items, scores
    return Lists(all_items, all_scores, _numbers(table, f"ties{number}", where))


def _entries(table: pa.Table, name: str, kinds: tuple[pa.DataType, ...], where: str) -> tuple[np.ndarray, np.ndarray]:
    """All entries of a column of lists, and the length of every list."""
    column = table[name]
    if not pa.types.is_list(column.type) or column.type.value_type not in kinds or column.null_count:
        raise IntegrityError(f"{where} holds no lists: {name} is {column.type}")
    lists = column.combine_chunks()
    entries, lengths = lists.flatten(), lists.value_lengths().to_numpy()
    if entries.null_count or lengths.max(initial=0) > LONGEST_LIST:
        raise IntegrityError(f"{where}: the lists of {name} may hold at most {LONGEST_LIST} entries, none of them null")
    return entries.to_numpy(), lengths


def _numbers(table: pa.Table, name: str, where: str) -> np.ndarray:
    if table[name].null_count:
        raise IntegrityError(f"{where}: {name} has {table[name].null_count} rows without a value")
    return table[name].to_numpy()


def check_parquet(content: bytes, where: str) -> None:
    """IntegrityError unless it is a Parquet file that unfolds to a size that results can have."""
    try:
        about = pq.ParquetFile(pa.BufferReader(content)).metadata
        groups = [about.row_group(number) for number in range(about.num_row_groups)]
        values = sum(group.column(c).num_values for group in groups for c in range(group.num_columns))
        if about.num_columns > 1 + 3 * _MOST_DRAWS or about.num_rows > _MOST_ROWS or values > _MOST_VALUES:
            raise IntegrityError(
                f"{where} has {about.num_columns:,} columns, {about.num_rows:,} rows and {values:,} values; at most "
                f"{1 + 3 * _MOST_DRAWS:,}, {_MOST_ROWS:,} and {_MOST_VALUES:,} are read"
            )
    except (pa.ArrowException, OSError) as error:
        raise _no_parquet(where, error) from None


def _no_parquet(where: str, error: Exception) -> IntegrityError:
    return IntegrityError(f"{where} is no Parquet file ({str(error).partition(chr(10))[0]})")


def _manifest(path: Path) -> tuple[Kind, dict[str, tuple[int, str]]]:
    """The kind of bundle, and name -> (size, sha256) of exactly the files that it may hold."""
    where = str(path)
    data = _read(path, _LARGEST_MANIFEST)
    tree = record(from_json(data, where), where, {"schema_version": int, "kind": str, "files": dict})
    if tree["schema_version"] != SCHEMA_VERSION:
        raise IntegrityError(f"{where} has schema_version {short(tree['schema_version'])}, not {SCHEMA_VERSION}")
    if tree["kind"] not in ("run", "lists"):
        raise IntegrityError(f"{where} has the kind {short(tree['kind'])}; there are run and lists")
    if to_json(tree) != data:
        raise IntegrityError(f"{where} was changed after it was written: it is not in the form that diffrec writes")
    for name in tree["files"]:
        if name not in _LARGEST:
            raise IntegrityError(f"{where} lists {short(name)}, {_why_not(name)}; nothing was opened")
    whole = set(_LARGEST) if tree["kind"] == "run" and len(tree["files"]) > len(_ALWAYS) else _ALWAYS
    if wrong := sorted((whole ^ tree["files"].keys()) - (_MAY_BE_ABSENT - tree["files"].keys())):
        raise IntegrityError(f"{where} must list {', '.join(sorted(whole))}; unexpected or missing: {short(wrong)}")
    return tree["kind"], {name: _stated(tree["files"][name], name, where) for name in tree["files"]}


def _stated(value: object, name: str, where: str) -> tuple[int, str]:
    fields = record(value, f"{where}: {name}", {"size": int, "sha256": str})
    if not 0 <= fields["size"] <= _LARGEST[name] or not _SHA256.fullmatch(fields["sha256"]):
        raise IntegrityError(f"{where}: {name} has an impossible sha256, or more than {_LARGEST[name]:,} bytes")
    return fields["size"], fields["sha256"]


def _why_not(name: str) -> str:
    """What is wrong with a name that is none of ours."""
    if "\0" in name or "\\" in name:
        return "a name with a backslash or NUL"
    if name.startswith(("/", "~")) or re.match(r"[A-Za-z]:", name):
        return "which leads out of the folder"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "which is no plain path below the folder"
    return "which is no file of a bundle"


def _check_tree(folder: Path, files: Mapping[str, tuple[int, str]]) -> None:
    """Every file of the manifest is there, regular and of its size, and nothing else is."""
    there = dict(_below(folder))
    if (folder / MODEL).exists() and not files.keys() - _ALWAYS:
        raise IntegrityError(f"{folder / MODEL} is not in the manifest; nothing but its files may be in a bundle")
    for name in [*there, *files]:
        if name not in files and name != MANIFEST:
            raise IntegrityError(f"{folder / name} is not in the manifest; nothing but its files may be in a bundle")
        if name not in there:
            raise IntegrityError(f"{folder / name} is missing, though the manifest lists it")
    for name, (size, _) in files.items():
        if there[name].st_size != size:
            raise IntegrityError(f"{folder / name} has {there[name].st_size:,} bytes, its manifest says {size:,}")


def _below(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Name and status of what is in the folder and in model/; IntegrityError for links and other special files."""
    with os.scandir(folder) as entries:
        for entry in entries:
            status, name = entry.stat(follow_symlinks=False), prefix + entry.name
            if name == MODEL and stat.S_ISDIR(status.st_mode):
                yield from _below(folder / MODEL, f"{MODEL}/")
            elif stat.S_ISREG(status.st_mode):
                yield name, status
            else:
                raise IntegrityError(f"{folder / entry.name} is a link, a folder or a special file, not a regular file")


def _checked(path: Path, size: int, sha256: str) -> bytes:
    data = _read(path, size)
    if _sha256(data) != sha256:
        raise IntegrityError(f"{path} is not the file its manifest lists: its sha256 differs")
    return data


def _check_hash(path: Path, size: int, sha256: str) -> None:
    """As `_checked`, for files that need not be in memory."""
    with _opened(path, size) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise IntegrityError(f"{path} is not the file its manifest lists: its sha256 differs")


def _read(path: Path, largest: int) -> bytes:
    with _opened(path, largest) as file:
        return file.read()


def _opened(path: Path, largest: int) -> BufferedReader:
    """A regular file of at most `largest` bytes, never what a link points to; IntegrityError otherwise."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise IntegrityError(f"{path} is a link, a folder or a special file, not a regular file")
        file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb")
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}") from error
    if os.fstat(file.fileno()).st_size > largest:
        file.close()
        raise IntegrityError(f"{path} has more than the {largest:,} bytes expected")
    return file


def _check_claim(result: Result | OutsideResult, ranks: bytes, where: str) -> None:
    """What both kinds of record have to say of themselves."""
    if not NAME.fullmatch(result.dataset):
        raise IntegrityError(f"{where}: {short(result.dataset)} is no name of a dataset")
    if result.ranks_sha256 != _sha256(ranks):
        seen = short(result.ranks_sha256)
        raise IntegrityError(f"{where}: ranks_sha256 is {seen}, but {RANKS} has {_sha256(ranks)}")


def sealed_lists(result: OutsideResult, ranks: UserRanks, lists: UserLists) -> dict[str, bytes]:
    """The contents of a bundle of lists; the hash of the ranks is put into the record."""
    ranks_file = rank_files.to_parquet(ranks)
    named = replace(result, ranks_sha256=_sha256(ranks_file))
    return {RECORD: outside_to_json(named), RANKS: ranks_file, LISTS: lists_to_parquet(lists)}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
