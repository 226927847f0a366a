"""JSON from strangers: what is taken can be written again, and everything else is an IntegrityError."""

from __future__ import annotations

import json

import pytest

from diffrec.errors import IntegrityError
from diffrec.strict_json import from_json, open_record, record


@pytest.mark.parametrize("text", [r'{"\ud800": 1}', r'["a\udfffb"]', r'"\ud800\u0041"', r'{"files": {"a\udc00": {}}}'])
def test_half_of_a_surrogate_pair_is_refused(text):
    with pytest.raises(IntegrityError, match=r"x\.json is not valid JSON"):
        from_json(text.encode(), "x.json")


@pytest.mark.parametrize("value", ["\U0001f600", {"\x00": "é"}, "\\ud800"])
def test_escapes_of_whole_characters_are_taken(value):
    assert from_json(json.dumps(value).encode(), "x.json") == value


@pytest.mark.parametrize("text", ["", "{", "NaN", "1e999", '{"a": 1, "a": 1}', "[" * 100_000, "9" * 5000, "\ufeff1"])
def test_what_is_no_strict_json(text):
    with pytest.raises(IntegrityError, match=r"x\.json is not valid JSON"):
        from_json(text.encode(), "x.json")


def test_an_open_record_may_lack_keys_and_have_others():
    kinds = {"a": int, "b": str}
    assert open_record({"a": 1, "c": None}, "x", kinds) == {"a": 1, "c": None}
    for value in ({"a": True}, {"b": None}, [], None):
        with pytest.raises(IntegrityError, match=r"^x: a has|^x: b has|^x must be an object"):
            open_record(value, "x", kinds)
    with pytest.raises(IntegrityError, match=r"must have the keys a, b; unexpected or missing: .*'b', 'c'"):
        record({"a": 1, "c": 2}, "x", kinds)
