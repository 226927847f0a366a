"""Tables as people have them: CSV, TSV, JSON lines, gzip of those, Parquet. Every column is read as text."""

# pyarrow.compute makes its functions when it is imported, where a type checker cannot see them.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from diffrec.data.dropped import LINES_SHOWN, TOLD, Dropped, cut_off, too_many
from diffrec.data.json_lines import filled_lines, read_objects
from diffrec.errors import IntegrityError, NotFoundError, UsageError

# Two-character delimiters (MovieLens 1M has "::") are read as this one character.
_UNIT_SEPARATOR = "\x1f"
_DELIMITERS = ("::", "\t", ",", ";", "|", " ")
_NUMBER = r"^[+-]?\d+(\.\d*)?([eE][+-]?\d+)?$"
_SAMPLE_ROWS = 50
_UNPACKED, _TIMES = 1 << 26, 200  # bytes, and times its own size, up to either of which a gzip file is unpacked

Form = Literal["cells", "JSON lines", "Parquet"]


@dataclass(frozen=True, eq=False)
class ForeignTable:
    """A table that is open but not read.

    names: of the columns, "1", "2", ... where there is no header; sample: the first rows of data that are not ragged;
    content: UTF-8 text with `separator` between cells, JSON lines, or the bytes of a Parquet file;
    delimiter: as in the file, "" where there are no cells; skip_lines: lines before the first row of data;
    objects: what JSON lines hold, one row an object; broken: lines among them that are no object.
    """

    path: Path
    names: tuple[str, ...]
    sample: tuple[tuple[str, ...], ...]
    content: bytes
    encoding: str
    delimiter: str
    separator: str
    skip_lines: int
    header: bool
    form: Form = "cells"
    objects: pa.Table | None = None
    broken: tuple[Dropped, ...] = ()

    @property
    def unit(self) -> str:
        """What `line_numbers` counts."""
        return "row" if self.form == "Parquet" else "line"

    def read(self, columns: Mapping[str, str]) -> tuple[pa.Table, tuple[Dropped, ...]]:
        """The columns of that name as text, under the names that are the keys of `columns`, and what is no row.

        Rows with too few or too many cells are left out. Raises UsageError, with the first lines, where these are all,
        or several and more than one line in a hundred.
        """
        if self.objects is not None:
            return pa.table({key: _as_text(self.objects[name], name) for key, name in columns.items()}), self.broken
        if self.form == "Parquet":
            stored = pq.read_table(pa.BufferReader(self.content), columns=list(columns.values()))
            return pa.table({key: _as_text(stored[name], name) for key, name in columns.items()}), ()
        ragged, spanned, lines = 0, 0, self.content.count(b"\n")  # rows, and the lines that they go over

        def leave_out(row: arrow_csv.InvalidRow) -> str:
            nonlocal ragged, spanned
            ragged, spanned = ragged + 1, spanned + row.text.count("\n") + 1
            return "error" if too_many(spanned, lines) else "skip"

        try:
            table = arrow_csv.read_csv(
                pa.BufferReader(self.content),
                arrow_csv.ReadOptions(column_names=self.names, skip_rows=self.skip_lines, block_size=1 << 24),
                arrow_csv.ParseOptions(
                    delimiter=self.separator, newlines_in_values=True, invalid_row_handler=leave_out
                ),
                arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(self.names, pa.string()), include_columns=list(columns.values())
                ),
            )
        except pa.ArrowInvalid as error:
            raise UsageError(f"{self.path.name}{self._ragged_lines() or f': {error}'}") from error
        if not len(table):
            nothing = f" has no rows: line {self.skip_lines} is the header and nothing follows"
            raise UsageError(f"{self.path.name}{self._ragged_lines() or nothing}")
        return pa.table({key: table[name] for key, name in columns.items()}), self._left_out(ragged)

    def line_numbers(self, rows: np.ndarray) -> tuple[int, ...]:
        """The line of the file (from 1) on which each row of data (from 0, ascending) begins; Parquet: the row."""
        if self.form == "Parquet" or not len(rows):
            return tuple((rows + 1).tolist())
        if self.objects is not None:
            return tuple(filled_lines(self.content)[rows].tolist())
        wanted = set(rows.tolist())
        records = islice((record for record in self._records() if not self._is_ragged(record)), int(rows[-1]) + 1)
        return tuple(line for row, (line, _) in enumerate(records) if row in wanted)

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """(line, cells) of every row of data; slow, only for messages about single rows."""
        lines = io.TextIOWrapper(io.BytesIO(self.content), encoding="utf-8", newline="")
        reader = csv.reader(lines, delimiter=self.separator)
        first = 1
        try:
            for cells in reader:
                if cells and first > self.skip_lines:
                    yield first, cells
                first = reader.line_num + 1
        except csv.Error as error:
            raise UsageError(f"{self.path.name}, line {first}: {error}") from error

    def _is_ragged(self, record: tuple[int, list[str]]) -> bool:
        return len(record[1]) != len(self.names)

    def _ragged_lines(self) -> str:
        """What the first of them hold, and which options might read them otherwise; empty where there are none."""
        told = []
        for line, cells in islice(filter(self._is_ragged, self._records()), TOLD):
            over_lines = any("\n" in cell for cell in cells)
            quote = "; one goes on over several lines, as if a quotation mark were not closed" * over_lines
            told.append(f"line {line}: {len(cells)} cells, expected {len(self.names)}{quote} ({self._seen(cells)!r})")
        if not told:
            return ""
        return (
            f", {'; '.join(told)}\nThese are too many for a file that is read rightly; cells were cut at "
            f"{self.delimiter!r}: --delimiter gives another, --header and --no-header say what line 1 is"
        )

    def _left_out(self, rows: int) -> tuple[Dropped, ...]:
        """The ragged rows, as one reason where there are any."""
        if not rows:
            return ()
        lines, cells = zip(*islice(filter(self._is_ragged, self._records()), LINES_SHOWN), strict=True)
        return (Dropped(f"not the {len(self.names)} cells of the others", rows, lines, tuple(map(self._seen, cells))),)

    def _seen(self, cells: Sequence[str]) -> str:
        return cut_off(self.separator.join(cells).replace(self.separator, self.delimiter))


def open_table(
    path: Path, wanted: Sequence[str], known: frozenset[str], delimiter: str | None, has_header: bool | None
) -> ForeignTable:
    """Find out how `path` is written.

    wanted: column names the user gave; known: usual column names in the form of `plain`; both tell a header
    from data. Raises NotFoundError, UsageError (empty, not a table), IntegrityError (damaged gzip or Parquet).
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give one file of it")
    if not path.is_file():
        raise NotFoundError(f"there is no file {path}")
    content = path.read_bytes()
    if content.startswith(b"PAR1"):
        return _open_parquet(path, content)
    if content.startswith(b"PK\x03\x04"):
        raise UsageError(
            f"{path.name} is a zip archive or a spreadsheet; give a CSV, TSV, JSON lines, gzip or Parquet file"
        )
    text, encoding = _decoded(path, _decompressed(path, content))
    lines = text.decode("utf-8").split("\n", 2 * _SAMPLE_ROWS)[: 2 * _SAMPLE_ROWS]
    blank = next((number for number, line in enumerate(lines) if line.strip()), None)
    if blank is None:
        raise UsageError(f"{path.name} is empty: line 1 holds nothing")
    if lines[blank].lstrip().startswith("{"):
        return _open_json_lines(path, text, encoding)
    if re.match(r"\s*\[\s*(\{|$)", lines[blank]):
        raise UsageError(f"{path.name} holds a JSON array, which is not read; write one object a line (jq -c '.[]')")
    delimiter = delimiter or _guess_delimiter(lines[blank:])
    separator = delimiter if len(delimiter) == 1 else _UNIT_SEPARATOR
    sample = _cells(lines[blank:], delimiter)
    header = _is_header(sample, set(wanted), known) if has_header is None else has_header
    names = _unique([name.strip() for name in sample[0]]) if header else [str(n + 1) for n in range(_width(sample))]
    even = tuple(tuple(row) for row in sample[header:] if len(row) == len(names))
    return ForeignTable(
        path, tuple(names), even, text.replace(delimiter.encode(), separator.encode()),
        encoding, delimiter, separator, blank + 1 if header else 0, header,
    )  # fmt: skip


def plain(name: str) -> str:
    """A column name without case, signs and the type that RecBole appends: "User_ID:token" is "userid"."""
    return "".join(character for character in name.split(":")[0].lower() if character.isalnum())


def is_number(texts: pa.Array) -> np.ndarray:
    """(rows,) bool: is the text a decimal number?"""
    return pc.match_substring_regex(texts, _NUMBER).to_numpy(zero_copy_only=False)


def _open_parquet(path: Path, content: bytes) -> ForeignTable:
    try:
        names = pq.read_schema(pa.BufferReader(content)).names
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{path.name} is not a whole Parquet file: {error}") from error
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{path.name} has two columns called {twice[0]!r}; rename one")
    return ForeignTable(path, tuple(names), (), content, "utf-8", "", "", 0, True, "Parquet")


def _open_json_lines(path: Path, text: bytes, encoding: str) -> ForeignTable:
    text, objects, broken = read_objects(path, text)
    return ForeignTable(
        path, tuple(objects.column_names), (), text, encoding, "", "", 0, True, "JSON lines", objects, broken
    )


def _as_text(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Whole numbers without a fraction, times as seconds since 1970 with one, everything else as it prints."""
    try:
        if pa.types.is_floating(column.type):
            column = _whole_numbers(column)
        if pa.types.is_date(column.type):
            column = column.cast(pa.timestamp("s"))
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
            column = pc.divide(column.cast(pa.float64(), safe=False), 1e6)
        return column.cast(pa.string()).fill_null("")
    except pa.ArrowException as error:
        raise UsageError(f"column {name!r} of type {column.type} cannot be read as text: {error}") from error


def _whole_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Integers that only became floats because some are missing; other columns unchanged."""
    column = pc.if_else(pc.is_finite(column), column, None)
    whole = pc.all(pc.equal(column, pc.trunc(column))).as_py()
    return column.cast(pa.int64()) if whole else column


def _decompressed(path: Path, content: bytes) -> bytes:
    if not content.startswith(b"\x1f\x8b"):
        return content
    most = max(_UNPACKED, _TIMES * len(content))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            text = file.read(most + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise IntegrityError(f"{path.name} is a damaged gzip file: {error}") from error
    if len(text) > most:
        raise UsageError(
            f"{path.name} holds more than {most:,} bytes, {most // len(content):,} times its size, which no log does; "
            f"unpack it first where that is meant"
        )
    return text


def _decoded(path: Path, content: bytes) -> tuple[bytes, str]:
    """The content as UTF-8 without byte order mark, and the encoding it had."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16").encode(), "utf-16"
    if b"\0" in content:
        raise UsageError(f"{path.name} is neither text nor Parquet (it holds zero bytes)")
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1").encode(), "latin-1"
    return content, "utf-8"


def _cells(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """The rows of a sample; its last row may be cut off."""
    one = delimiter if len(delimiter) == 1 else _UNIT_SEPARATOR
    rows = csv.reader((line.replace(delimiter, one) for line in lines), delimiter=one)
    try:
        return [row for row in islice(rows, _SAMPLE_ROWS) if row]
    except csv.Error as error:
        raise UsageError(f"the file cannot be cut into cells near line {rows.line_num}: {error}") from error


def _guess_delimiter(lines: Sequence[str]) -> str:
    """The delimiter that cuts all rows of the sample into equally many cells, the more the better."""
    counts = {delimiter: [len(row) for row in _cells(lines, delimiter)] for delimiter in _DELIMITERS}
    even = {delimiter: count[0] for delimiter, count in counts.items() if len(set(count)) == 1 and count[0] > 1}
    if not set(even) - {" "}:  # one row in ten may be ragged, before texts and dates are cut at their blanks
        even |= {
            delimiter: count[0] for delimiter, count in counts.items()
            if delimiter != " " and count[0] > 1 and 10 * count.count(count[0]) >= 9 * len(count)
        }  # fmt: skip
    if even:
        return max(even, key=lambda delimiter: (even[delimiter], -_DELIMITERS.index(delimiter)))
    # Ragged rows: the error about them needs the delimiter that the first line speaks for.
    return max(_DELIMITERS, key=lambda delimiter: (counts[delimiter][0], -_DELIMITERS.index(delimiter)))


def _width(sample: Sequence[Sequence[str]]) -> int:
    """How many cells most rows have."""
    return Counter(map(len, sample)).most_common(1)[0][0]


def _is_header(sample: list[list[str]], wanted: set[str], known: frozenset[str]) -> bool:
    """Two usual names or one that the user gave; else words above a row that holds a number."""
    first = [cell.strip() for cell in sample[0]]
    if wanted & set(first) or sum(plain(cell) in known for cell in first) >= 2:
        return True
    return not is_number(pa.array(first)).any() and any(is_number(pa.array(row)).any() for row in sample[1:2])


def _unique(names: list[str]) -> list[str]:
    """Columns without a name, or with one that another column has too, are called by their place."""
    return [
        name if name and names.count(name) == 1 else f"{name} (column {place})".lstrip()
        for place, name in enumerate(names, start=1)
    ]
