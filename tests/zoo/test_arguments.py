"""Constructor arguments from JSON: into the type of the signature, or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import pytest

from diffrec.errors import IntegrityError
from diffrec.zoo.arguments import checked_arguments, plain


def constructor(
    self,
    count: int,
    rate: float = 0.5,
    either: float | int = 1,
    maybe: int | None = None,
    kind: Literal["a", "b", 3] = "a",
    sizes: Sequence[int] = (1,),
    pair: tuple[float, str] | None = None,
    many: tuple[int, ...] = (),
    names: list[str] | None = None,
    table: Mapping[str, int] | None = None,
    flag: bool = False,
) -> None: ...


ALLOWED = [
    ("count", 7, 7),
    ("rate", 1, 1.0),
    ("either", 1, 1),
    ("either", 1.0, 1.0),
    ("maybe", None, None),
    ("maybe", 3, 3),
    ("kind", "b", "b"),
    ("kind", 3, 3),
    ("sizes", [1, 2], [1, 2]),
    ("pair", [1, "x"], (1.0, "x")),
    ("pair", None, None),
    ("many", [], ()),
    ("many", [4, 5], (4, 5)),
    ("names", ["x"], ["x"]),
    ("table", {"x": 1}, {"x": 1}),
    ("flag", True, True),
]


@pytest.mark.parametrize(("name", "value", "expected"), ALLOWED)
def test_values_get_the_type_of_the_signature(name, value, expected):
    found = checked_arguments(constructor, {"count": 1, name: value}, "file")[name]
    assert (found, type(found)) == (expected, type(expected))


REFUSED = [
    ("count", None),
    ("count", 1.0),
    ("count", True),
    ("count", "1"),
    ("count", 10**7 + 1),
    ("count", -(10**30)),
    ("rate", "0.5"),
    ("rate", False),
    ("rate", 10**400),
    ("maybe", []),
    ("kind", "c"),
    ("kind", 3.0),
    ("kind", True),
    ("sizes", 1),
    ("sizes", "12"),
    ("sizes", [1, None]),
    ("sizes", {"0": 1}),
    ("pair", [1.0]),
    ("pair", [1.0, "x", "y"]),
    ("pair", ["x", 1.0]),
    ("names", "x"),
    ("names", ["x" * 1001]),
    ("table", {"x": "y"}),
    ("table", [["x", 1]]),
    ("flag", 1),
    ("flag", "true"),
    ("self", 1),
    ("cuont", 1),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_values_of_another_type_are_refused(name, value):
    with pytest.raises(IntegrityError, match=r"^file"):
        checked_arguments(constructor, {"count": 1, name: value}, "file")


def iterating(self, num_layers: int = 1, num_train_timesteps: int | None = None, anneal_steps: int = 1) -> None: ...


@pytest.mark.parametrize(("name", "most"), [("num_layers", 64), ("num_train_timesteps", 10_000)])
def test_numbers_of_layers_and_steps_have_limits_of_their_own(name, most):
    assert checked_arguments(iterating, {name: most, "anneal_steps": 10**6}, "file")[name] == most
    with pytest.raises(IntegrityError, match=rf"^file: {name} cannot be {most + 1}, at most {most:,}$"):
        checked_arguments(iterating, {name: most + 1}, "file")


def test_a_required_argument_is_named():
    with pytest.raises(IntegrityError, match="needs the arguments count"):
        checked_arguments(constructor, {}, "file")


def test_plain_values():
    assert plain({"a": (1, [2.5, None]), "b": "x", "c": True}) == {"a": [1, [2.5, None]], "b": "x", "c": True}
    for value in (object(), {1, 2}, b"x", [print]):
        with pytest.raises(TypeError, match="not a plain value"):
            plain(value)
