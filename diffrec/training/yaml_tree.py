"""YAML read as data only: no objects, no aliases, bounded depth and size, every value with its place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from diffrec.errors import UsageError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20

Scalar = str | int | float | bool | None

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same events from C where PyYAML has it
_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """A value of a configuration and where it was written: `file:line`, or an option of the command line."""

    value: dict[str, Node] | list[Node] | Scalar
    where: str

    def plain(self) -> object:
        """The same without places: dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def get(self, key: str) -> Node | None:
        """The child of that name, None where there is none or this is no mapping."""
        return self.value.get(key) if isinstance(self.value, dict) else None

    @property
    def is_class(self) -> bool:
        """Whether this is a `{class_path, init_args}` mapping."""
        return isinstance(self.value, dict) and "class_path" in self.value

    def walk(self) -> Iterator[tuple[str, Node]]:
        """Every child below this node with its key (the empty string for members of a list)."""
        pairs = self.value.items() if isinstance(self.value, dict) else []
        members = [("", child) for child in self.value] if isinstance(self.value, list) else []
        for key, child in [*pairs, *members]:
            yield key, child
            yield from child.walk()


def read_yaml(text: str, source: str, numbered: bool = True) -> Node:
    """The one document in `text`; `source` names it in messages, followed by the line if `numbered`.

    Raises UsageError for whatever is more than plain data: anchors and aliases, tags, keys that occur
    twice or are not words, more than `MAX_DEPTH` levels, more than `MAX_BYTES`, several documents.
    """
    if len(text) > MAX_BYTES or len(text.encode(errors="replace")) > MAX_BYTES:
        raise UsageError(f"{source}: larger than {MAX_BYTES // 1024} KiB, which no configuration needs")
    try:
        return _Builder(text, source, numbered).document()
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if numbered and error.problem_mark else ""
        raise UsageError(f"{source}{line}: this is not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{source}: this is not YAML: {' '.join(str(error).split())}") from None


class _Builder:
    """Builds nodes from parser events; PyYAML's own composer would follow aliases and tags."""

    def __init__(self, text: str, source: str, numbered: bool) -> None:
        self.source, self.numbered = source, numbered
        self.events: Iterator[yaml.Event] = yaml.parse(text, Loader=_LOADER)

    def where(self, event: yaml.Event) -> str:
        return f"{self.source}:{event.start_mark.line + 1}" if self.numbered else self.source

    def document(self) -> Node:
        next(self.events)  # start of the stream
        first = next(self.events)
        if isinstance(first, yaml.StreamEndEvent):
            return Node(None, self.where(first))
        root = self.node(next(self.events), depth=1)
        next(self.events)  # end of the document
        if not isinstance(extra := next(self.events), yaml.StreamEndEvent):
            raise UsageError(f"{self.where(extra)}: a second document begins here; a configuration is one document")
        return root

    def node(self, event: yaml.Event, depth: int, where: str | None = None) -> Node:
        where = where or self.where(event)
        self.refuse_more_than_data(event, where)
        if depth > MAX_DEPTH:
            raise UsageError(f"{where}: nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.ScalarEvent):
            return Node(_scalar(event.value) if event.implicit[0] else event.value, where)
        if isinstance(event, yaml.SequenceStartEvent):
            members = []
            while not isinstance(child := next(self.events), yaml.SequenceEndEvent):
                members.append(self.node(child, depth + 1))
            return Node(members, where)
        return Node(self.mapping(depth), where)

    def mapping(self, depth: int) -> dict[str, Node]:
        children: dict[str, Node] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            where = self.where(event)
            self.refuse_more_than_data(event, where)
            if not isinstance(event, yaml.ScalarEvent):
                raise UsageError(f"{where}: a key must be a word")
            if event.value in children:
                raise UsageError(f"{where}: the key {event.value!r} was given before, at {children[event.value].where}")
            children[event.value] = self.node(next(self.events), depth + 1, where)
        return children

    def refuse_more_than_data(self, event: yaml.Event, where: str) -> None:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise UsageError(f"{where}: anchors and aliases (& and *) are not allowed in a configuration")
        if tag := getattr(event, "tag", None):
            raise UsageError(f"{where}: the tag {tag!r} is not allowed; a configuration holds plain data only")


def _scalar(text: str) -> Scalar:
    """A plain scalar by the core schema of YAML 1.2: `1e-4` is a number, `on` and `1:30` are words."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def merge(under: Node, over: Node) -> Node:
    """`under` with the values of `over` in it: mappings key by key, everything else replaced.

    A different class_path replaces the whole node, for arguments belong to their class. Lists of
    `{class_path, ...}` are merged class by class, in the order of `under`, new classes behind; an empty
    list clears.
    """
    if isinstance(under.value, dict) and isinstance(over.value, dict):
        if over.is_class and under.is_class and _class_path(over) != _class_path(under):
            return over
        both = {key: merge(under.value[key], child) for key, child in over.value.items() if key in under.value}
        return Node({**under.value, **over.value, **both}, over.where)
    if isinstance(under.value, list) and isinstance(over.value, list) and over.value and all_classes(under, over):
        by_class = {_class_path(child): child for child in under.value}
        for child in over.value:
            path = _class_path(child)
            by_class[path] = merge(by_class[path], child) if path in by_class else child
        return Node(list(by_class.values()), over.where)
    return over


def all_classes(*lists: Node) -> bool:
    """Whether every member of the lists is a `{class_path, ...}` mapping."""
    return all(isinstance(node.value, list) and all(child.is_class for child in node.value) for node in lists)


def _class_path(node: Node) -> str:
    assert isinstance(node.value, dict)
    return str(node.value["class_path"].value)
