"""The values of a configuration against what constructors allow; all that they refuse is found at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pytorch_lightning import Callback

from diffrec.data.catalogue import find
from diffrec.data.datamodule import InteractionDataModule
from diffrec.errors import NotFoundError, UsageError
from diffrec.nn.allocation_limit import AllocationLimit
from diffrec.recommender import Recommender
from diffrec.training.build import OF_THE_CONFIGURATION, decoded, reason_of
from diffrec.training.config import Fault, is_allowed
from diffrec.training.config_check import flawless, import_class, settings_of
from diffrec.training.yaml_tree import Node

_ITEMS = 1_000  # of a model that is built here
_ELEMENTS, _TENSORS = 1 << 28, 10_000  # of one; a larger one is left to the run itself
_FILLING = (
    "uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_",
)  # fmt: skip
_UNTRIED = "language_model"  # which may have to be downloaded


def value_faults(tree: Node) -> Iterator[Fault]:
    """What constructors refuse of the arguments in which `config_check.faults` finds nothing, and an unknown dataset.

    Data, model and callbacks are built, the model for few items, and dropped. What an error names is told with its
    place and gets its default, until there is no error; what may come of such a default is not told.
    """
    if (data := tree.get("data")) and isinstance(data.value, dict):
        yield from _refused(data, flawless(data, InteractionDataModule), _found, {"dataset": "synthetic"})
    if part := _class_of(tree.get("model"), Recommender):
        cls, arguments = part
        given = {name: value for name, value in flawless(arguments, cls).items() if name != _UNTRIED}
        wrong = list(_refused(arguments, given, partial(_model, cls), {}))
        yield from wrong
        decoding = tree.get("decoding")
        if decoding and isinstance(decoding.value, dict) and not wrong and given.keys() == _keys(arguments):
            yield from _refused(decoding, flawless(decoding, cls, settings_of(cls)), partial(_decoded, cls, given), {})
    for cls, arguments in _callbacks(tree):
        yield from _refused(arguments, flawless(arguments, cls), partial(_callback, cls), {})


def located_in(error: Fault, tree: Node, sections: Sequence[str]) -> Fault:
    """The error with the places of the arguments that it names, of the first section, or callback, that has any."""
    parts = [tree.get(section) for section in sections]
    parts = [part.get("init_args") if part and part.is_class else part for part in parts]
    for part in [*parts, *(arguments for _, arguments in _callbacks(tree))]:
        if part and (named := _named(error, _keys(part))):
            return _located(error, part, named)
    return error


def _class_of(node: Node | None, base: type) -> tuple[type, Node] | None:
    """The class and the arguments of a `{class_path, init_args}` node in whose shape nothing is wrong."""
    path = node and node.get("class_path")
    cls = import_class(str(path.value)) if path and is_allowed(str(path.value)) else None
    arguments = (node and node.get("init_args")) or Node({}, "" if path is None else path.where)
    if not isinstance(cls, type) or not issubclass(cls, base) or not isinstance(arguments.value, dict):
        return None
    return cls, arguments


def _callbacks(tree: Node) -> Iterator[tuple[type, Node]]:
    trainer = tree.get("trainer")
    callbacks = trainer and trainer.get("callbacks")
    for member in callbacks.value if callbacks and isinstance(callbacks.value, list) else ():
        if part := _class_of(member, Callback):
            yield part


def _refused(
    node: Node, given: Mapping[str, object], build: Callable[..., object], stand_ins: Mapping[str, object]
) -> Iterator[Fault]:
    """What `build` refuses of the arguments `given` of a node, one after the other."""
    given = dict(given)
    left_out = _keys(node) - given.keys()
    while True:
        try:
            build(**{**stand_ins, **given})
            return
        except (UsageError, NotFoundError) as error:
            named = _named(error, given)
            if not _named(error, left_out) and (named or not left_out):
                yield _located(error, node, named)
            if not named:
                return
            given = {name: value for name, value in given.items() if name not in named}
            left_out |= named
        except Exception:  # of a default that stands in, or nothing that arguments can be blamed for
            return


def _found(**arguments: Any) -> None:
    find(InteractionDataModule(**arguments).dataset_name)


class _Unfilled(AllocationLimit):
    """Leaves weights as they are found in memory, for filling them takes longer than all the rest."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _FILLING:
            return args[0] if args else kwargs["tensor"]
        return super().__torch_function__(func, types, args, kwargs)


def _model(cls: type[Recommender], **arguments: Any) -> Recommender:
    with torch.random.fork_rng(devices=[]), _Unfilled(_ELEMENTS, _TENSORS, "can be tried"):
        return cls(num_items=_ITEMS, **arguments)


def _decoded(cls: type[Recommender], arguments: Mapping[str, Any], **changes: Any) -> None:
    decoded(_model(cls, **arguments), {"decoding": changes})


def _callback(cls: type[Callback], **arguments: Any) -> None:
    try:
        cls(**arguments)
    except OF_THE_CONFIGURATION as error:
        raise UsageError(reason_of(error)) from error


def _keys(node: Node) -> set[str]:
    return set(node.value) if isinstance(node.value, dict) else set()


def _named(error: Fault, names: Iterable[str]) -> set[str]:
    """Those of the names that are words of the message, before it lists what there is."""
    return set(re.findall(r"\w+", str(error).partition("; there are")[0])) & set(names)


def _located(error: Fault, node: Node, names: Iterable[str]) -> Fault:
    assert isinstance(node.value, dict)
    places = [child.where for name, child in node.value.items() if name in names] or [node.where]
    return type(error)(f"{', '.join(dict.fromkeys(places))}: {error}")
