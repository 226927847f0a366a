"""YAML as plain data: what is read, where it stood, what is refused, how two trees become one."""

from __future__ import annotations

from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from diffrec.errors import UsageError
from diffrec.training.yaml_tree import MAX_DEPTH, Node, merge, read_yaml


def read(text: str) -> Node:
    return read_yaml(text, "file.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-3", -3), ("1e-4", 1e-4), ("5e3", 5000.0), (".5", 0.5), ("2.", 2.0), ("1.5E+2", 150.0),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("on", "on"), ("no", "no"), ("1:30", "1:30"), ("2024-01-01", "2024-01-01"), ("0x10", "0x10"),
        ("'1'", "1"), ('"true"', "true"), ("valid/ndcg@10", "valid/ndcg@10"), ("[1, a]", [1, "a"]),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_schema(text, value):
    found = read(f"k: {text}").plain()
    assert found == {"k": value}
    assert type(found["k"]) is type(value)


def test_every_value_knows_its_line():
    tree = read("model:\n  init_args:\n\n    lr: 1\n    dims: [1,\n      2]\n")
    places = {key: node.where for key, node in tree.walk() if key}
    assert places == {k: f"file.yaml:{n}" for k, n in {"model": 1, "init_args": 2, "lr": 4, "dims": 5}.items()}
    assert [node.where for key, node in tree.walk() if not key] == ["file.yaml:5", "file.yaml:6"]


json_trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc_", min_size=1), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(json_trees)
def test_reads_what_a_yaml_writer_wrote(tree):
    assert read(yaml.safe_dump({"root": tree}, default_flow_style=None)).plain() == {"root": tree}


@given(st.text(max_size=60) | st.text("{}[]:,&*!|>-?#'\"\n ab1%@`", max_size=60))
def test_any_text_is_read_or_refused(text):
    with suppress(UsageError):
        assert isinstance(read(text), Node)


def test_depth_is_limited_exactly():
    deepest = "[" * (MAX_DEPTH - 1) + "1" + "]" * (MAX_DEPTH - 1)
    read(deepest)
    with pytest.raises(UsageError, match=f"deeper than {MAX_DEPTH}"):
        read(f"[{deepest}]")


def test_repeated_keys_name_both_lines():
    with pytest.raises(UsageError, match=r"file.yaml:3: the key 'a' was given before, at file.yaml:1"):
        read("a: 1\nb: 2\na: 3\n")


def test_merge_goes_key_by_key_and_replaces_the_rest():
    under = read("a: {x: 1, y: [1, 2]}\nb: 1\n")
    over = read("a: {y: [3], z: 4}\nc: 5\n")
    assert merge(under, over).plain() == {"a": {"x": 1, "y": [3], "z": 4}, "b": 1, "c": 5}
    assert under.plain() == {"a": {"x": 1, "y": [1, 2]}, "b": 1}


def test_another_class_drops_the_arguments_of_the_first():
    under = read("m: {class_path: A, init_args: {x: 1}}")
    assert merge(under, read("m: {class_path: B}")).plain() == {"m": {"class_path": "B"}}
    same = merge(under, read("m: {class_path: A, init_args: {y: 2}}")).plain()
    assert same == {"m": {"class_path": "A", "init_args": {"x": 1, "y": 2}}}
    assert merge(under, read("m: {init_args: {y: 2}}")).plain() == same


def test_lists_of_classes_are_merged_by_class():
    under = read("[{class_path: A, init_args: {x: 1}}, {class_path: B}]")
    over = read("[{class_path: C}, {class_path: A, init_args: {y: 2}}]")
    assert merge(under, over).plain() == [
        {"class_path": "A", "init_args": {"x": 1, "y": 2}},
        {"class_path": "B"},
        {"class_path": "C"},
    ]
    assert merge(under, read("[]")).plain() == []
    assert merge(under, read("[1]")).plain() == [1]
