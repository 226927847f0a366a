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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_process_has_what_its_address_space_leaves(monkeypatch):
    import resource

    mapped = int(memory._MAPPED.read_text().split()[0]) * resource.getpagesize()
    monkeypatch.setattr(memory, "_of_machine", lambda: 1 << 60)
    for limit, left in ((mapped + 10**9, 10**9), (mapped - 10**9, 0)):
        monkeypatch.setattr(resource, "getrlimit", lambda what, limit=limit: (limit, resource.RLIM_INFINITY))
        assert memory._left_to_process() == pytest.approx(left, abs=10**8)
        assert memory.available_memory() <= left + 10**8
    monkeypatch.setattr(resource, "getrlimit", lambda what: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert memory._left_to_process() == sys.maxsize


def test_without_any_estimate_memory_has_no_limit(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory.Path, "exists", lambda path: False)
    monkeypatch.delattr(os, "sysconf")
    assert memory.available_memory() == sys.maxsize
    with caplog.at_level(logging.INFO, logger=memory.__name__):
        memory.refuse_without_memory("the table", 2 * 10**9, "use another")
    assert caplog.messages == ["the table needs up to 2.00 GB of memory"]


def test_what_is_needed_and_what_is_free_are_named(monkeypatch, caplog):
    monkeypatch.setattr(memory, "available_memory", lambda: 2 * 10**9)
    with caplog.at_level(logging.INFO, logger=memory.__name__):
        memory.refuse_without_memory("the table", 2 * 10**9, "use another")
    assert caplog.messages == ["the table needs up to 2.00 GB of memory, 2.00 GB are free"]
    with pytest.raises(UsageError, match=r"the table needs 2\.10 GB of memory and 2\.00 GB are free; use another"):
        memory.refuse_without_memory("the table", 21 * 10**8, "use another")
