"""The rank of every true item, for every user and every draw of the sampling noise, in a small Parquet file.

From these ranks every accuracy metric of a result can be recomputed, and two models compared user by user.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from diffrec.bench.result import Result, ranks_path
from diffrec.data.ragged import Ragged
from diffrec.errors import IntegrityError
from diffrec.metrics.functional import metric_from_ranks, metric_names

_NO_CANDIDATE = 0  # ranks are kept doubled, for ties give halves; 0 stands for infinity, null for a repeated target


@dataclass(frozen=True, eq=False)
class UserRanks:
    """users: (cases,) int64 keys; draws: for each draw the float32 mean ranks of `Evaluation.ranks`."""

    users: np.ndarray
    draws: tuple[Ragged, ...]

    def values(self, metric: str) -> np.ndarray:
        """(cases,) one metric of every user as a mean over draws; NaN for users without a target."""
        return np.mean([per_user_values(draw, [metric])[metric] for draw in self.draws], axis=0)


def per_user_values(ranks: Ragged, names: Sequence[str]) -> dict[str, np.ndarray]:
    """name -> (cases,) float64 from mean ranks; NaN for users without a target."""
    cutoffs = [int(name.partition("@")[2]) for name in names if "@" in name]
    assert set(names) <= set(metric_names(cutoffs)), names
    padded = np.full((len(ranks), int(ranks.lengths.max(initial=0))), np.nan)
    padded[ranks.row_of_entry, ranks.position_of_entry] = ranks.values
    return {name: metric_from_ranks(torch.from_numpy(padded), name).numpy() for name in names}


def to_parquet(ranks: UserRanks) -> bytes:
    """The file's content; equal ranks give equal bytes with one version of pyarrow."""
    columns = {"user": pa.array(ranks.users.astype(np.int64))}
    for number, draw in enumerate(ranks.draws):
        doubled = np.where(np.isfinite(draw.values), 2 * draw.values.astype(np.float64), _NO_CANDIDATE)
        entries = pa.array(doubled.astype(np.uint32), mask=np.isnan(draw.values))
        columns[f"draw{number}"] = pa.ListArray.from_arrays(pa.array(draw.offsets.astype(np.int32)), entries)
    file = io.BytesIO()
    encoding = {"user": "DELTA_BINARY_PACKED"}
    pq.write_table(
        pa.table(columns), file, compression="zstd", compression_level=9, use_dictionary=False, column_encoding=encoding
    )
    return file.getvalue()


def ranks_of(result: Result, folder: Path) -> UserRanks | None:
    """The ranks of a result below `folder`, None for a record from before there were any; checked against its hash."""
    if result.ranks_sha256 is None:
        return None
    return read_ranks(ranks_path(folder / result.path), result.ranks_sha256)


def read_ranks(path: Path, sha256: str) -> UserRanks:
    """Read a file of ranks; IntegrityError where it is missing, is not the one of that hash, or holds no ranks."""
    if not path.is_file():
        raise IntegrityError(f"there is no {path}, which its result names")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise IntegrityError(f"{path} was changed after it was written: its sha256 is not the one in its result")
    return from_parquet(content, str(path))


def from_parquet(content: bytes, where: str) -> UserRanks:
    """What `to_parquet` wrote; IntegrityError names `where` and what is wrong."""
    try:
        table = pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{where} is no Parquet file ({str(error).partition(chr(10))[0]})") from None
    draws = [f"draw{number}" for number in range(table.num_columns - 1)]
    if not draws or table.column_names != ["user", *draws] or table.schema.field("user").type != pa.int64():
        raise IntegrityError(f"{where} holds no ranks: its columns are {', '.join(table.column_names)[:80]}")
    return UserRanks(table["user"].to_numpy(), tuple(_draw(table[name], where) for name in draws))


def _draw(column: pa.ChunkedArray, where: str) -> Ragged:
    if column.type != pa.list_(pa.field("element", pa.uint32())) or column.null_count:
        raise IntegrityError(f"{where} holds no ranks: {column.type} where lists of uint32 belong")
    lists = column.combine_chunks()
    flat = lists.flatten()
    doubled = flat.to_numpy(zero_copy_only=False).astype(np.float64)  # null becomes NaN
    values = np.where(doubled == _NO_CANDIDATE, np.inf, doubled / 2).astype(np.float32)
    return Ragged.from_lengths(values, lists.value_lengths().to_numpy())
