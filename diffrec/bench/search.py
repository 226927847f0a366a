"""What may be tuned of a row: a space of settings, declared in `configs/search` beside the model's configuration."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from diffrec.bench.strict import parse
from diffrec.errors import NotFoundError, UsageError, near_match
from diffrec.paths import resource_dir
from diffrec.training.yaml_tree import Node, read_yaml

Value = str | int | float | bool | list | None
Settings = dict[str, Value]  # by option of the command line, without its dashes: model.lr


@dataclass(frozen=True)
class Choices:
    """One of some values."""

    values: tuple[Value, ...]


@dataclass(frozen=True)
class Range:
    """low to high, both included; whole numbers where both are; log: uniform in the logarithm."""

    low: int | float
    high: int | float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Are these whole numbers?"""
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True)
class Space:
    """Options and what they may be, in the order of the file."""

    parameters: Mapping[str, Choices | Range]

    @property
    def size(self) -> int | None:
        """How many settings there are; None where a range makes them many."""
        choices = [p for p in self.parameters.values() if isinstance(p, Choices)]
        return None if len(choices) < len(self.parameters) else math.prod(len(p.values) for p in choices)

    def points(self) -> Iterator[Settings]:
        """Every setting of a space of choices; the last option changes first."""
        values = [p.values for p in self.parameters.values() if isinstance(p, Choices)]
        assert len(values) == len(self.parameters)
        for point in product(*values):
            yield dict(zip(self.parameters, point, strict=True))

    def holds(self, settings: Settings) -> bool:
        """Whether the settings lie in the space."""
        return settings.keys() == self.parameters.keys() and all(
            _inside(parameter, settings[name]) for name, parameter in self.parameters.items()
        )

    def plain(self) -> dict[str, object]:
        """As the file has it."""
        return {name: _plain(parameter) for name, parameter in self.parameters.items()}


def words(settings: Settings) -> tuple[str, ...]:
    """Settings as overrides: `--model.lr=0.001`."""
    return tuple(f"--{name}={json.dumps(value)}" for name, value in settings.items())


def find_space(name: str) -> Path:
    """The file of a space that ships with the project."""
    folder = resource_dir("configs") / "search"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in names:
        raise NotFoundError(f"no search space {name!r}; there are: {', '.join(names)}{near_match(name, names)}")
    return folder / f"{name}.yaml"


def load_space(path: Path) -> Space:
    """Read a space: a list of values, or a mapping with low, high and log, for each option."""
    tree = read_yaml(path.read_text(encoding="utf-8", errors="replace"), str(path))
    if not isinstance(tree.value, dict) or not tree.value:
        raise UsageError(f"{path}: a search space is a mapping such as 'model.decay: [0.5, 0.7]'")
    return Space({name: _parameter(name, node) for name, node in tree.value.items()})


def _parameter(name: str, node: Node) -> Choices | Range:
    if not name.startswith(("model.", "data.batch_size", "trainer.")):
        raise UsageError(f"{node.where}: {name} is not tuned; options begin with model. or trainer.")
    if isinstance(node.value, list):
        values = node.plain()
        assert isinstance(values, list)
        if not values or any(values.count(value) > 1 for value in values):
            raise UsageError(f"{node.where}: {name} needs different values, got {values}")
        return Choices(tuple(values))
    limits = parse(node, Range, node.where, UsageError, unwrap=lambda part, place: (part.value, part.where))
    if not limits.low < limits.high or (limits.log and limits.low <= 0):
        raise UsageError(f"{node.where}: {name} needs low < high, and low > 0 with log; got {_plain(limits)}")
    return limits


def _plain(parameter: Choices | Range) -> object:
    if isinstance(parameter, Choices):
        return list(parameter.values)
    return {"low": parameter.low, "high": parameter.high} | ({"log": True} if parameter.log else {})


def _inside(parameter: Choices | Range, value: Value) -> bool:
    if isinstance(parameter, Choices):
        return value in parameter.values
    if isinstance(value, bool) or not isinstance(value, int if parameter.whole else (int, float)):
        return False
    return parameter.low <= value <= parameter.high
