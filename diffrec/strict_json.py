"""JSON from strangers: read without surprises, and records with exactly the keys and types that are expected."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from diffrec.errors import IntegrityError

Kinds = Mapping[str, type | tuple[type, ...]]


def to_json(value: object) -> bytes:
    """Bytes that depend on the content only: sorted keys, one form of every number, no NaN."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def from_json(data: bytes, where: str) -> Any:
    """The value in `data`; IntegrityError for anything but strict JSON with unique keys, finite numbers and whole
    characters, so that every text in it can be written again.
    """
    try:
        value = json.loads(
            data.decode(), parse_constant=refuse, parse_float=_finite, object_pairs_hook=_without_repeats
        )
        if b"\\u" in data:  # else it holds no half of a surrogate pair
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where} is not valid JSON: {error}") from error


def record(value: object, where: str, kinds: Kinds) -> dict[str, Any]:
    """`value` if it is an object with exactly these keys and types (True is no int), else IntegrityError."""
    if isinstance(value, dict) and value.keys() != kinds.keys():
        wrong = sorted(value.keys() ^ kinds.keys())
        raise IntegrityError(f"{where} must have the keys {', '.join(kinds)}; unexpected or missing: {short(wrong)}")
    return open_record(value, where, kinds)


def open_record(value: object, where: str, kinds: Kinds) -> dict[str, Any]:
    """`value` if it is an object that, of these keys, has those types where it has them; IntegrityError otherwise."""
    if not isinstance(value, dict):
        raise IntegrityError(f"{where} must be an object, got {type(value).__name__}")
    for key, kind in kinds.items():
        if key in value and type(value[key]) not in (kind if isinstance(kind, tuple) else (kind,)):
            raise IntegrityError(f"{where}: {key} has the wrong type {type(value[key]).__name__}")
    return value


def numbers(value: Mapping[str, Any], where: str) -> dict[str, float]:
    """`value` if all of it are numbers, else IntegrityError."""
    for key, number in value.items():
        if type(number) not in (int, float):
            raise IntegrityError(f"{where}: {short(key)} must be a number, got {type(number).__name__}")
    return dict(value)


def short(value: object) -> str:
    """At most 80 printable characters of `repr(value)`, for messages about untrusted content."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def refuse(constant: str) -> NoReturn:
    """For `parse_constant`: NaN and Infinity are no JSON."""
    raise ValueError(f"{constant} is not a number that is allowed")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else refuse(text)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError("a key occurs twice in one object")
    return dict(pairs)
