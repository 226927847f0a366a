"""The estimate of free memory, and what is refused by it."""

from __future__ import annotations

import logging
import os
import sys

import pytest

from diffrec.errors import UsageError
from diffrec.nn import memory


def test_available_memory_is_a_part_of_all_memory():
    assert 0 < memory.available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "5000\n", "memory.current": "4000\n", "memory.stat": "file 900\ninactive_file 300\n"}, 1300),
        ({"memory.max": "5000\n", "memory.current": "6000\n", "memory.stat": "inactive_file 300\n"}, 0),
        ({"memory.max": "max\n", "memory.current": "6000\n", "memory.stat": "inactive_file 300\n"}, None),
        (
            {
                "memory/memory.limit_in_bytes": "5000\n", "memory/memory.usage_in_bytes": "4000\n",
                "memory/memory.stat": "inactive_file 7\ntotal_inactive_file 100\n",
            },
            1100,
        ),
        ({}, None),
    ],
)  # fmt: skip
def test_a_container_has_what_its_limit_leaves(files, left, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory, "_of_machine", lambda: 10**6)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert memory.available_memory() == (10**6 if left is None else left)


def test_without_any_estimate_memory_has_no_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory.Path, "exists", lambda path: False)
    monkeypatch.delattr(os, "sysconf")
    assert memory.available_memory() == sys.maxsize


def test_what_is_needed_and_what_is_free_are_named(monkeypatch, caplog):
    monkeypatch.setattr(memory, "available_memory", lambda: 2 * 10**9)
    with caplog.at_level(logging.INFO, logger=memory.__name__):
        memory.refuse_without_memory("the table", 2 * 10**9, "use another")
    assert caplog.messages == ["the table needs up to 2.00 GB of memory"]
    with pytest.raises(UsageError, match=r"the table needs 2\.10 GB of memory and 2\.00 GB are free; use another"):
        memory.refuse_without_memory("the table", 21 * 10**8, "use another")
