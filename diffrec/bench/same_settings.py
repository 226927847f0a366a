"""Whether two configurations ask for the same, though a model has got more arguments in between."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
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
    path = first["model"].get("class_path")
    if second["model"].get("class_path") != path:
        return False
    mine, theirs = (config["model"].get("init_args", {}) for config in (first, second))
    names = mine.keys() | theirs.keys()
    usual = _defaults_in_source(path)
    if not names <= usual.keys():
        usual = _defaults(path)
    return names <= usual.keys() and all(mine.get(name, usual[name]) == theirs.get(name, usual[name]) for name in names)


def resolved(class_path: object) -> type[Recommender] | None:
    """The model or baseline of that path; None where there is none, and nothing else is ever imported."""
    from diffrec.recommender import Recommender  # here, for it imports torch

    package, _, name = str(class_path).rpartition(".")
    if ".".join(package.split(".")[:2]) not in _PACKAGES:
        return None
    found = getattr(import_module(".".join(package.split(".")[:2])), name, None)
    return found if isinstance(found, type) and issubclass(found, Recommender) else None


def _defaults(class_path: object) -> dict[str, object]:
    """argument -> default, of a class that is ours and for what a record can keep."""
    cls = resolved(class_path)
    parameters = {} if cls is None else inspect.signature(cls).parameters
    found = {name: _as_json(parameter.default) for name, parameter in parameters.items()}
    return {name: default for name, default in found.items() if default is not _MISSING}


def _defaults_in_source(class_path: object) -> dict[str, object]:
    """Those that the class itself writes out, read without importing it: the leaderboard is to start without torch."""
    package, _, name = str(class_path).rpartition(".")
    if package not in _PACKAGES:
        return {}
    announced = {path.partition(":")[2]: path.partition(":")[0] for path in _registry(package).values()}
    spec = find_spec(announced[name]) if name in announced else None
    if spec is None or spec.origin is None:
        return {}
    tree = ast.parse(Path(spec.origin).read_bytes())
    body = [part for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name for part in node.body]
    found: dict[str, object] = {}
    for init in (part for part in body if isinstance(part, ast.FunctionDef) and part.name == "__init__"):
        positional = init.args.args[len(init.args.args) - len(init.args.defaults) :]
        for argument, default in (
            *zip(positional, init.args.defaults, strict=True),
            *zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True),
        ):
            try:
                found[argument.arg] = _as_json(ast.literal_eval(default)) if default is not None else _MISSING
            except ValueError:
                continue  # a name: what it stands for is known after an import
    return {argument: default for argument, default in found.items() if default is not _MISSING}


def _registry(package: str) -> Mapping[str, str]:
    module = import_module(package)
    return module.MODELS if package == "diffrec.models" else module.BASELINES


def _without_seeds(config: Mapping[str, Any]) -> dict[str, Any]:
    data = {name: value for name, value in config["data"].items() if name != "seed"}
    return {**{name: value for name, value in config.items() if name != "seed_everything"}, "data": data}


def _as_json(value: object) -> object:
    """As a record keeps it; `_MISSING` for what it cannot keep, and for no default."""
    try:
        return json.loads(json.dumps(value))
    except TypeError:
        return _MISSING
