"""Constructor arguments that came from a file: checked against the signature before the constructor sees them."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union

from diffrec.errors import IntegrityError
from diffrec.strict_json import short

_LARGEST_INT = 10_000_000  # of items, steps or widths: a table of that length still fits into memory
_LARGEST_BY_END = {  # of a name: what is done so many times, though the file holds no tensor for each
    "layers": 64, "timesteps": 10_000, "inference_steps": 10_000, "sharpening_steps": 100, "samples": 1_000,
    "draws": 1_000,
}  # fmt: skip
_LARGEST_TEXT = 1000


def plain(value: object) -> Any:
    """`value` as JSON keeps it: tuples become lists; TypeError for what is no plain value or not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError(f"{value} is not a finite number")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    raise TypeError(f"{short(value)} is not a plain value")


def checked_arguments(constructor: Callable[..., object], init: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`init` with every value in the type that the signature states.

    Raises IntegrityError for an unknown or missing argument, for a value of another type, and as `check_largest`.
    """
    parameters = {name: p for name, p in inspect.signature(constructor).parameters.items() if name != "self"}
    missing = [name for name, p in parameters.items() if p.default is p.empty and name not in init]
    if unknown := sorted(init.keys() - parameters.keys()):
        raise IntegrityError(f"{where} has no argument {short(unknown[0])}; allowed: {', '.join(parameters)}")
    if missing:
        raise IntegrityError(f"{where} needs the arguments {', '.join(missing)}")
    hints = typing.get_type_hints(constructor)
    checked = {name: _as(value, hints[name], f"{where}: {name}") for name, value in init.items()}
    check_largest(checked, where)
    return checked


def check_largest(values: Mapping[str, Any], where: str) -> None:
    """IntegrityError where a number of layers, steps or samples would keep this machine busy without end."""
    for name, value in values.items():
        for end, most in _LARGEST_BY_END.items():
            if name.endswith(end) and type(value) is int and value > most:
                raise IntegrityError(f"{where}: {name} cannot be {short(value)}, at most {most:,}")


def _as(value: Any, hint: Any, where: str) -> Any:
    """A JSON value in the type of `hint`; IntegrityError where it is of another type."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _as_one_of(value, parts, where)
    if origin is Literal and any(value == part and type(value) is type(part) for part in parts):
        return value
    if origin in (tuple, list, Sequence) and isinstance(value, list):
        return _as_sequence(value, tuple if origin is tuple else list, parts, where)
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {key: _as(part, parts[1], where) for key, part in value.items()}
    if hint is float and type(value) in (int, float) and abs(value) < 1e300:
        return float(value)
    if hint is int and type(value) is int and abs(value) <= _LARGEST_INT:
        return value
    if hint is str and type(value) is str and len(value) <= _LARGEST_TEXT:
        return value
    if hint in (bool, type(None)) and type(value) is hint:
        return value
    raise IntegrityError(f"{where} cannot be {short(value)}")


def _as_one_of(value: Any, hints: Sequence[Any], where: str) -> Any:
    for hint in sorted(hints, key=lambda hint: hint is not type(value)):  # 1 stays an int for `float | int`
        try:
            return _as(value, hint, where)
        except IntegrityError:
            continue
    raise IntegrityError(f"{where} cannot be {short(value)}")


def _as_sequence(value: list[Any], kind: type, hints: tuple[Any, ...], where: str) -> Any:
    """`tuple[int, ...]` and `list[int]` repeat one hint, `tuple[int, str]` has one for each place."""
    repeated = kind is list or hints[1:] == (Ellipsis,)
    if not repeated and len(hints) != len(value):
        raise IntegrityError(f"{where} must hold {len(hints)} values, got {len(value)}")
    each = hints[:1] * len(value) if repeated else hints
    return kind(_as(part, hint, where) for part, hint in zip(value, each, strict=True))
