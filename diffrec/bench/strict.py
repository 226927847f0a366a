"""A tree read from JSON or YAML becomes a dataclass, by its annotations and nothing else."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar

from diffrec.errors import DiffrecError, near_match

T = TypeVar("T")
Unwrap = Callable[[Any, str], tuple[Any, str]]


def parse(tree: object, cls: type[T], where: str, error: type[DiffrecError], unwrap: Unwrap | None = None) -> T:
    """`tree` as the dataclass `cls`; raises `error` naming the place, what was seen and what is allowed.

    Understands nested dataclasses, `tuple[X, ...]` (from a list), `dict[str, X]`, `Literal`, `X | None`,
    plain types (no conversion; a float is finite) and `Any`. A field with a default may be left out.
    unwrap: (node, file it is from) -> (value, place), for trees whose values know where they stand.
    """
    return _Parser(where, error, unwrap or (lambda value, place: (value, place))).value(tree, cls, "")


@cache
def _annotations(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


class _Parser:
    def __init__(self, source: str, error: type[DiffrecError], unwrap: Unwrap) -> None:
        self.source, self.error, self.unwrap = source, error, unwrap

    def value(self, node: object, kind: Any, path: str) -> Any:
        """`node` as the annotated type; path: its keys, `models[2].seeds`."""
        value, place = self.unwrap(node, self.source)
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if is_dataclass(kind):
            return self.fields(value, kind, place, path)
        if origin is types.UnionType and value is not None and (inner := [a for a in arguments if is_dataclass(a)]):
            return self.fields(value, inner[0], place, path)
        if origin is dict and isinstance(value, dict):
            return {name: self.value(item, arguments[1], _below(path, name)) for name, item in value.items()}
        if origin is tuple and isinstance(value, list):
            return tuple(self.value(item, arguments[0], f"{path}[{i}]") for i, item in enumerate(value))
        if kind is Any or (origin is Literal and value in arguments):
            return value
        if type(value) in (arguments if origin is types.UnionType else (kind,)) and _finite(value):
            return value
        raise self.error(f"{place}: {path} must be {_words(kind)}, got {json.dumps(value, default=str)[:60]}")

    def fields(self, value: object, cls: Any, place: str, path: str) -> Any:
        names = [field.name for field in fields(cls)]
        what = path or f"a {cls.__name__.lower()}"
        if not isinstance(value, dict):
            raise self.error(f"{place}: {what} must be a mapping with the keys {', '.join(names)}")
        for name, node in value.items():
            if name not in names:
                near = near_match(name, names) or f"; keys: {', '.join(names)}"
                raise self.error(f"{self.unwrap(node, place)[1]}: {what} has no key {name!r}{near}")
        needed = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
        if missing := [name for name in needed if name not in value]:
            raise self.error(f"{place}: {what} lacks {', '.join(missing)}")
        kinds = _annotations(cls)
        return cls(**{name: self.value(node, kinds[name], _below(path, name)) for name, node in value.items()})


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _words(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin is types.UnionType:
        return " or ".join(map(_words, arguments))
    names = {str: "text", int: "a whole number", float: "a finite number", dict: "a mapping", tuple: "a list"}
    return names.get(origin or kind, "nothing")


def json_schema(cls: type) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of what `parse` takes for a dataclass; no key may be added."""
    kinds = _annotations(cls)
    optional = {f.name for f in fields(cls) if f.default is not MISSING or f.default_factory is not MISSING}
    return {
        "type": "object",
        "properties": {field.name: _schema_of(kinds[field.name]) for field in fields(cls)},
        "required": [field.name for field in fields(cls) if field.name not in optional],
        "additionalProperties": False,
    }


def _schema_of(kind: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        return json_schema(typing.cast(type, kind))
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema_of(arguments[1])}
    if origin is tuple:
        return {"type": "array", "items": _schema_of(arguments[0])}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is types.UnionType:
        return {"anyOf": [_schema_of(argument) for argument in arguments]}
    names = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
    return {} if kind is Any else {"type": names[kind]}
