"""Ranked lists of many users as one table, in memory and on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffrec.errors import UsageError
from diffrec.files import replacing


def list_table(users: np.ndarray, items: np.ndarray, scores: np.ndarray, item_ids: Sequence[str]) -> pa.Table:
    """A row for each place of each list: user_id, rank (1 is best), item_id (as in the source), score.

    users: (rows,) ids; items: (rows, k) item numbers, 0 where a list ends early; scores: (rows, k).
    """
    there = items.ravel() > 0
    ids = np.asarray(item_ids, dtype=object)
    return pa.table(
        {
            "user_id": pa.array(np.repeat(users, items.shape[1])[there], type=None if len(users) else pa.string()),
            "rank": np.tile(np.arange(1, items.shape[1] + 1, dtype=np.int32), len(items))[there],
            "item_id": pa.array(ids).take(pa.array(items.ravel()[there].astype(np.int64) - 1)),
            "score": scores.ravel()[there],
        }
    )


def check_parquet_name(path: Path) -> None:
    """UsageError for the name of a file that nobody would take for Parquet."""
    if path.suffix not in (".parquet", ".pq"):
        raise UsageError(f"{path} would hold Parquet, and nothing else is written; end its name in .parquet")


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write or replace the file as a whole, as `files.replacing` does."""
    with replacing(path) as file:
        pq.write_table(table, file, compression="zstd")
