"""Every key of a configuration against the constructor it is meant for; all faults are found at once."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from importlib import import_module

from jsonargparse import ArgumentError, ArgumentParser
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.accelerators import MPSAccelerator
from pytorch_lightning.loggers import Logger

from diffrec.data.datamodule import InteractionDataModule
from diffrec.errors import DiffrecError, near_match
from diffrec.metrics.ranking import RankingMetrics
from diffrec.plugins import by_class, plugins
from diffrec.recommender import DiffusionRecommender, Recommender
from diffrec.strict_json import short
from diffrec.training.config import is_allowed, not_allowed
from diffrec.training.yaml_tree import Node

_TOP_LEVEL = ("seed_everything", "model", "data", "trainer", "decoding")
_FOLDERS = ("save_dir", "dirpath", "dir", "default_root_dir")  # everything is written below the run folder
_FILE_NAMES = ("filename", "name", "version", "sub_dir", "id")
_LEAVES_FOLDER = re.compile(r"[/\\]|\.\.")
_METRICS = ("train/loss", *(f"valid/{name}" for name in RankingMetrics(num_items=1).names))  # what a model logs
NO_MORE: Mapping[str, inspect.Parameter] = types.MappingProxyType({})
_PLAIN_MODULES = ("builtins", "datetime", "pathlib", "types")


def faults(tree: Node) -> list[str]:
    """All that is wrong with a merged configuration, one line each, beginning with its place."""
    found = []
    assert isinstance(tree.value, dict)
    for key, child in tree.value.items():
        if key not in _TOP_LEVEL:
            near = near_match(key, _TOP_LEVEL)
            found.append(f"{child.where}: key {key!r} is not one of {', '.join(_TOP_LEVEL)}{near}")
    found += _seed_faults(tree.get("seed_everything"))
    for key, hint in (("model", "-c model/dreamrec"), ("data", "-c data/ml-100k")):
        if tree.get(key) is None:
            found.append(f"no {key} is configured; add one, such as {hint}")
    if model := tree.get("model"):
        found += _class_faults(model, Recommender, "model")
    if data := tree.get("data"):
        found += _argument_faults(data, InteractionDataModule, "data")
    if (decoding := tree.get("decoding")) and not found and model:
        found += _decoding_faults(decoding, model)
    if trainer := tree.get("trainer"):
        found += [*_argument_faults(trainer, Trainer, "trainer"), *_device_faults(trainer)]
    return found


def _seed_faults(node: Node | None) -> Iterator[str]:
    if node is not None and (type(node.value) is not int or node.value < 0):
        yield f"{node.where}: seed_everything must be a whole number from 0, got {short(node.plain())}"


def _decoding_faults(decoding: Node, model: Node) -> Iterator[str]:
    """Faults of `decoding`, arguments of the model that are other ones once it is trained, and how it samples then."""
    cls = import_class(str(model.plain()["class_path"]))  # type: ignore[index]
    assert isinstance(cls, type)
    yield from _argument_faults(decoding, cls, "decoding", settings_of(cls))


def settings_of(cls: type) -> Mapping[str, inspect.Parameter]:
    """What `decoding` may set beside constructor arguments."""
    settings = inspect.signature(Recommender.set_sampling).parameters if issubclass(cls, DiffusionRecommender) else {}
    return {n: p for n, p in settings.items() if n != "self"}


def _device_faults(trainer: Node) -> Iterator[str]:
    devices, accelerator = trainer.get("devices"), trainer.get("accelerator")
    if devices is not None and devices.value not in (1, "1", "auto"):
        yield f"{devices.where}: devices must be 1, for training runs on one device so far, got {devices.plain()!r}"
    refused = ("mps", "gpu") if MPSAccelerator.is_available() else ("mps",)
    if accelerator is not None and accelerator.value in refused:
        yield f"{accelerator.where}: accelerator cannot be 'mps', which lacks float64; use cpu, cuda or auto"


def _class_faults(node: Node, base: type, what: str) -> Iterator[str]:
    """Faults of a `{class_path, init_args}` node whose class must be a `base`."""
    if not isinstance(node.value, dict) or "class_path" not in node.value:
        yield f"{node.where}: {what} must be a mapping of class_path and init_args"
        return
    for key, child in node.value.items():
        if key not in ("class_path", "init_args"):
            yield f"{child.where}: key {key!r} stands beside class_path; arguments go below init_args"
    path = node.value["class_path"]
    if not is_allowed(str(path.value)):
        yield f"{path.where}: {not_allowed(path.plain())}"
        return
    cls = import_class(str(path.value))
    if isinstance(cls, str):
        yield f"{path.where}: {cls}"
    elif not issubclass(cls, base):
        yield f"{path.where}: {path.value} cannot be a {what}; it is no {base.__name__}"
    else:
        arguments = node.value.get("init_args") or Node({}, node.where)
        yield from _argument_faults(arguments, cls, str(path.value))


def import_class(path: str) -> type | str:
    """The class of an allowed path, or what is wrong with the path."""
    module_name, _, name = path.rpartition(".")
    if (plugin := by_class(path)) is not None:
        return plugin.load()
    try:
        module = import_module(module_name)
        found = getattr(module, name)
    except (ImportError, AttributeError, DiffrecError):
        return f"there is no class {path}{_near_class(path)}"
    if not inspect.isclass(found) or found.__module__.partition(".")[0] != path.partition(".")[0]:
        return f"{path} is not a class of {path.partition('.')[0]}"
    return found


def _near_class(path: str) -> str:
    from diffrec import baselines, models

    names = [f"diffrec.models.{place.rpartition(':')[2]}" for place in models.MODELS.values()]
    names += [f"diffrec.baselines.{place.rpartition(':')[2]}" for place in baselines.BASELINES.values()]
    names += [plugin.class_path for plugin in plugins().values()]
    return near_match(path, names)


def _argument_faults(
    node: Node, cls: type, what: str, more: Mapping[str, inspect.Parameter] = NO_MORE
) -> Iterator[str]:
    """Faults of a mapping of constructor arguments, or of `more`."""
    if not isinstance(node.value, dict):
        yield f"{node.where}: the arguments of {what} must be a mapping, got {short(node.plain())}"
        return
    named = _parameters(cls, more)
    for key, child in node.value.items():
        yield from _key_faults(key, child, cls, named, what)
    for key, parameter in named.items():
        if parameter.default is parameter.empty and key not in node.value and key not in _FOLDERS:
            yield f"{node.where}: {what} needs a value for {key!r}"


def _parameters(cls: type, more: Mapping[str, inspect.Parameter]) -> dict[str, inspect.Parameter]:
    """What a configuration may set: `more`, and all that the constructor takes by name but the number of items."""
    parameters = inspect.signature(cls).parameters
    named = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if issubclass(cls, Recommender):
        named.pop("num_items")
    return {**more, **named}


def _key_faults(key: str, node: Node, cls: type, named: Mapping[str, inspect.Parameter], what: str) -> Iterator[str]:
    if key == "num_items" and issubclass(cls, Recommender):
        yield f"{node.where}: num_items comes from the dataset and cannot be set"
    elif key not in named:
        yield f"{node.where}: key {key!r} is not an argument of {_title(cls, what)}{near_match(key, named)}"
    elif reason := _path_fault(cls, key, node):
        yield f"{node.where}: {reason}"
    else:
        yield from _value_faults(cls, key, named[key], node, what)


def flawless(node: Node, cls: type, more: Mapping[str, inspect.Parameter] = NO_MORE) -> dict[str, object]:
    """The arguments in which `faults` finds nothing, as the constructor would get them."""
    named = _parameters(cls, more)
    assert isinstance(node.value, dict)
    return {
        key: _parsed(_hint(cls, named[key]), child.plain())
        for key, child in node.value.items()
        if not any(_key_faults(key, child, cls, named, "")) and not child.is_class
    }


def _title(cls: type, what: str) -> str:
    return what if "." in what else f"{cls.__module__.partition('.')[0]}.{cls.__name__}"


def _path_fault(cls: type, key: str, node: Node) -> str | None:
    """Why a value may not decide where files go."""
    if not issubclass(cls, (Callback, Logger, Trainer)):
        return None
    if key in _FOLDERS:
        return f"{key} cannot be set; everything is written below the run folder, which --run-dir chooses"
    if key in _FILE_NAMES and isinstance(node.value, str) and _LEAVES_FOLDER.search(node.value):
        return f"{key} must be a plain file name, got {node.value!r}"
    if cls is Trainer and key == "plugins":
        return "plugins cannot be set in a configuration"
    return None


def _value_faults(cls: type, key: str, parameter: inspect.Parameter, node: Node, what: str) -> Iterator[str]:
    if cls is Trainer and key in ("logger", "callbacks"):
        yield from _list_faults(node, Logger if key == "logger" else Callback, key)
        return
    classes = [child for child in (node, *(c for _, c in node.walk())) if child.is_class]
    inner = [fault for child in classes for fault in _class_faults(child, object, key)]
    yield from inner
    hint, value = _hint(cls, parameter), node.plain()
    if hint is _UNKNOWN or _takes_code(cls, hint, node):
        yield f"{node.where}: {key} of {what} cannot be set to {short(value)} in a configuration"
    elif key == "monitor" and value not in _METRICS:
        near = near_match(str(value), _METRICS)
        yield f"{node.where}: no metric {short(value)}; there are: {', '.join(_METRICS)}{near}"
    elif not inner and not _fits(hint, value):
        yield f"{node.where}: {key} must be {describe(hint)}, got {short(value)}{_near_choice(hint, value)}"


def _list_faults(node: Node, base: type, what: str) -> Iterator[str]:
    members = node.value if isinstance(node.value, list) else [node]
    switch = isinstance(node.value, bool) or node.value is None
    for child in [] if switch else members:
        yield from _class_faults(child, base, what)


_UNKNOWN = object()  # a type that cannot be named here


def _hint(cls: type, parameter: inspect.Parameter) -> object:
    """The evaluated annotation, `Any` where there is none, `_UNKNOWN` where its names are not imported."""
    if parameter.annotation is parameter.empty:
        return typing.Any
    scope = getattr(inspect.unwrap(cls.__init__), "__globals__", {})
    holder = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        return typing.get_type_hints(holder, globalns=scope)[parameter.name]
    except NameError:
        return _UNKNOWN


def _leaves(hint: object) -> Iterator[object]:
    """The types in a union or a container."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType, list, tuple, dict) or (origin and "Sequence" in str(origin)):
        for part in typing.get_args(hint):
            yield from _leaves(part)
    else:
        yield hint


def _takes_code(cls: type, hint: object, node: Node) -> bool:
    """Whether a string here may be taken as the dotted path of something to import, or as a file to read.

    The trainer's own words for its parts ("ddp", "simple") are read as words, see `build._Parser`.
    """
    leaves = list(_leaves(hint))
    strings = [n for n in (node, *(c for key, c in node.walk() if key != "class_path")) if isinstance(n.value, str)]
    words_allowed = cls is Trainer and str in leaves
    return bool(strings) and not words_allowed and any(_is_code(leaf) for leaf in leaves) and not node.is_class


def _is_code(leaf: object) -> bool:
    if "Callable" in str(leaf) or typing.get_origin(leaf) is type or leaf is type:
        return True
    return inspect.isclass(leaf) and leaf.__module__ not in _PLAIN_MODULES


_UNFIT = object()  # a value that is of another type
_PARSED: dict[tuple[object, str], object] = {}  # a parser costs a millisecond, and configurations repeat themselves


def _fits(hint: object, value: object) -> bool:
    """Whether jsonargparse, which builds the objects later, takes the value for this type."""
    return _parsed(hint, value) is not _UNFIT


def _parsed(hint: object, value: object) -> object:
    """What jsonargparse makes of the value, `_UNFIT` where it does not take it for this type."""
    asked = (hint, repr(value))
    if asked not in _PARSED:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--value", type=hint)  # pyright: ignore[reportArgumentType]
        try:
            _PARSED[asked] = parser.parse_object({"value": value}).value
        except ArgumentError:
            _PARSED[asked] = _UNFIT
    return _PARSED[asked]


def describe(hint: object) -> str:
    """A type in words: `int or null`, `one of 'linear', 'cosine'`, `a list of int`."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(part) for part in parts)
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if hint is type(None):
        return "null"
    if origin in (list, tuple) or (origin and "Sequence" in str(origin)):
        return f"a list of {', '.join(describe(part) for part in parts if part is not Ellipsis)}"
    return hint.__name__ if inspect.isclass(hint) else str(hint).replace("typing.", "")


def _near_choice(hint: object, value: object) -> str:
    words = [w for leaf in _leaves(hint) if typing.get_origin(leaf) is typing.Literal for w in typing.get_args(leaf)]
    return near_match(value, [word for word in words if isinstance(word, str)]) if isinstance(value, str) else ""
