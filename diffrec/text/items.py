"""What a dataset says about its items in words."""

# pyarrow.compute makes its functions when it is imported, where a type checker cannot see them.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from diffrec.data.dataset import Dataset
from diffrec.data.folders import read_table
from diffrec.data.sources import fetch, load_dataset
from diffrec.errors import UsageError, choose

FIELDS = ("title", "text_id_idgenrec", "brand", "categories", "genres", "description")  # in the order they are joined


def item_texts(name: str, fields: Sequence[str] = ()) -> tuple[Dataset, tuple[str, ...], tuple[str, ...]]:
    """The dataset, the text of each of its items 1..N, and the columns of items.parquet that it was made of.

    fields: the columns; none: those of `FIELDS` that there are. Parts are joined by ". "; an item of which nothing is
    known has an empty text. Raises UsageError for a dataset without words, NotFoundError for an unknown column.
    """
    folder, dataset = fetch(name), load_dataset(name)
    path = None if folder is None else folder / "items.parquet"
    if path is None or not path.is_file():
        raise UsageError(f"{name} says nothing about its items: it has no items.parquet")
    table = read_table(path)
    chosen = _columns(table, fields, path)
    columns = [pc.utf8_trim_whitespace(table[column].cast(pa.string()).fill_null("")) for column in chosen]
    parts = [pc.if_else(pc.equal(column, ""), None, column) for column in columns]
    texts = parts[0]
    for part in parts[1:]:
        texts = pc.binary_join_element_wise(texts, part, ". ", null_handling="skip")
    ids = pa.array(dataset.vocabulary.item_ids, pa.string())
    places = pc.index_in(ids, table["item_id"].combine_chunks().cast(pa.string()))
    aligned = texts.combine_chunks().take(places).fill_null("") if isinstance(texts, pa.ChunkedArray) else texts
    return dataset, tuple(aligned.to_pylist()), chosen


def _columns(table: pa.Table, fields: Sequence[str], path: Path) -> tuple[str, ...]:
    words = [column.name for column in table.schema if pa.types.is_string(column.type) and column.name != "item_id"]
    if fields:
        return tuple(choose(f"text column in {path}", field, words) for field in fields)
    if not (known := tuple(field for field in FIELDS if field in words)):
        raise UsageError(f"{path} has no text that is known; name its columns, of {', '.join(words) or 'none'}")
    return known
