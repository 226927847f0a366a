"""Logs with a JSON object on every line."""

from __future__ import annotations

import json
import re
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.json as arrow_json

from diffrec.data.dropped import LINES_SHOWN, TOLD, Dropped, cut_off, too_many
from diffrec.errors import UsageError
from diffrec.strict_json import refuse

_LARGEST_BLOCK = (1 << 31) - 1  # bytes
_DEEPEST = 64  # of objects and lists; the parser calls itself for each, until its stack ends the process
_STEPS = np.zeros(256, dtype=np.int8)
_STEPS[list(b"{[")], _STEPS[list(b"}]")] = 1, -1


def read_objects(path: Path, text: bytes) -> tuple[bytes, pa.Table, tuple[Dropped, ...]]:
    """The text with empty lines where there is no object, one row an object, and what stood on those lines.

    A key that an object lacks is an empty cell, as null is. UsageError, with the first lines, where those without an
    object are all, or several and more than one in a hundred, and for what cannot be a column.
    """
    broken = ()
    try:
        objects = _object_a_line(path, text)
    except UsageError:
        text, broken = _without_broken_lines(path, text)
        if not broken:
            raise
        objects = _object_a_line(path, text)
    return text, objects, broken


def _without_broken_lines(path: Path, text: bytes) -> tuple[bytes, tuple[Dropped, ...]]:
    """`text` with empty lines where there is no JSON object, and what stood there; UsageError where it is much."""
    lines = text.split(b"\n")
    filled = sum(bool(line.strip()) for line in lines)
    broken = {number: line for number, line in enumerate(lines, start=1) if line.strip() and not _is_object(line)}
    if not broken:
        return text, ()
    first = {number: cut_off(line.decode().strip()) for number, line in islice(broken.items(), LINES_SHOWN)}
    if len(broken) == filled or too_many(len(broken), filled):
        told = "; ".join(f"line {number}: not a JSON object ({seen!r})" for number, seen in [*first.items()][:TOLD])
        raise UsageError(
            f"{path.name}, {told}\n{len(broken):,} of {filled:,} lines are none; write one object a line (jq -c .)"
        )
    for number in broken:
        lines[number - 1] = b""
    dropped = Dropped("not a JSON object", len(broken), tuple(first), tuple(first.values()))
    return b"\n".join(lines), (dropped,)


def _is_object(line: bytes) -> bool:
    """Is it a JSON object? One that is nested too deep counts, to be refused as such."""
    try:
        return isinstance(json.loads(line, parse_constant=refuse), dict)
    except RecursionError:
        return True
    except ValueError:
        return False


def _object_a_line(path: Path, text: bytes) -> pa.Table:
    """UsageError, with the line, of what is no object or has a value of another type than before."""
    lines = filled_lines(text)
    _refuse_deep(path, text)
    try:
        objects = _objects(text)
        if times := [field for field in objects.schema if pa.types.is_timestamp(field.type)]:  # ids may look like them
            as_text = pa.schema([field.with_type(pa.string()) for field in times])
            objects = _objects(text, as_text).select(objects.column_names)
    except pa.ArrowInvalid as error:
        what, row = str(error).removeprefix("JSON parse error: "), re.search(r" in row (\d+)$", str(error))
        if row is None or len(text) >= _LARGEST_BLOCK:  # then rows are those of a block
            raise UsageError(f"{path.name}: {what}") from None
        line = lines[min(int(row[1]), len(lines) - 1)]
        raise UsageError(f"{path.name}, line {line}: {what.removesuffix(row[0])}") from None
    if len(objects) != len(lines):
        counts = f"{len(objects):,} JSON objects on {len(lines):,} lines"
        raise UsageError(f"{path.name} holds {counts}; write one object a line (jq -c .)")
    return objects


def _refuse_deep(path: Path, text: bytes) -> None:
    """UsageError, with the line, for objects and lists in one another deeper than is read."""
    bare = re.sub(rb"\\.", b"", text) if b"\\" in text else text
    characters = np.frombuffer(bare, dtype=np.uint8)
    outside = np.cumsum(characters == ord('"'), dtype=np.uint8) % 2 == 0
    places = np.flatnonzero((_STEPS[characters] != 0) & outside)
    deep = np.flatnonzero(np.cumsum(_STEPS[characters[places]], dtype=np.int64) > _DEEPEST)
    if len(deep):
        line = bare.count(b"\n", 0, int(places[deep[0]])) + 1
        raise UsageError(f"{path.name}, line {line}: objects and lists more than {_DEEPEST} deep are not read")


def _objects(text: bytes, schema: pa.Schema | None = None) -> pa.Table:
    """One row an object; in one block, where that can be, for errors count rows inside of a block."""
    return arrow_json.read_json(
        pa.BufferReader(text),
        arrow_json.ReadOptions(use_threads=False, block_size=min(len(text) + 1, _LARGEST_BLOCK)),
        arrow_json.ParseOptions(explicit_schema=schema),
    )


def filled_lines(text: bytes) -> np.ndarray:
    """The numbers (from 1) of the lines that are not blank."""
    return 1 + np.flatnonzero([bool(line.strip()) for line in text.split(b"\n")])
