"""Whether two configurations ask for the same, though a model has got more arguments in between."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffrec.recommender import Recommender

_PACKAGES = ("diffrec.models", "diffrec.baselines")
_MISSING = object()


def same_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Are they equal but for seeds, and for arguments of the model that one leaves out, the other has at its default?

    An argument that is new has what was before as its default (CONTRIBUTING.md), so results from before stay valid.
    """
    first, second = _without_seeds(one), _without_seeds(other)
    if first == second:
        return True
    if {**first, "model": None} != {**second, "model": None}:
        return False
    cls = resolved(first["model"].get("class_path"))
    if cls is None or second["model"].get("class_path") != first["model"]["class_path"]:
        return False
    mine, theirs = (config["model"].get("init_args", {}) for config in (first, second))
    usual = inspect.signature(cls).parameters
    for name in mine.keys() | theirs.keys():
        default = _as_json(usual[name].default) if name in usual else _MISSING
        if mine.get(name, default) != theirs.get(name, default) or default is _MISSING:
            return False
    return True


def resolved(class_path: object) -> type[Recommender] | None:
    """The model or baseline of that path; None where there is none, and nothing else is ever imported."""
    from diffrec.recommender import Recommender  # here, for it imports torch

    package, _, name = str(class_path).rpartition(".")
    if ".".join(package.split(".")[:2]) not in _PACKAGES:
        return None
    found = getattr(import_module(".".join(package.split(".")[:2])), name, None)
    return found if isinstance(found, type) and issubclass(found, Recommender) else None


def _without_seeds(config: Mapping[str, Any]) -> dict[str, Any]:
    data = {name: value for name, value in config["data"].items() if name != "seed"}
    return {**{name: value for name, value in config.items() if name != "seed_everything"}, "data": data}


def _as_json(value: object) -> object:
    """As a record keeps it; `_MISSING` for what it cannot keep, and for no default."""
    try:
        return json.loads(json.dumps(value))
    except TypeError:
        return _MISSING
