"""Whether a table fits into the memory that is free, asked before it is made."""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

from diffrec.errors import UsageError

_log = logging.getLogger(__name__)
_CGROUP = Path("/sys/fs/cgroup")
_MAPPED = Path("/proc/self/statm")  # its first number: pages of address space


class _Group(NamedTuple):
    """Files of a version of Linux' control groups, as a container sees its own."""

    limit: str
    used: str
    stat: str
    inactive: str


_GROUPS = (
    _Group("memory.max", "memory.current", "memory.stat", "inactive_file"),
    _Group("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def available_memory() -> int:
    """Bytes that new arrays can take: the kernel's estimate where there is one, else all memory there is.

    No more than the limit of a container, or that of the process (`ulimit -v`), leaves. Where the system tells nothing
    (Windows), no limit.
    """
    return min(_of_machine(), _left_to_process(), *(_left_of(group) for group in _GROUPS))


def _left_of(group: _Group) -> int:
    """What a control group may take beyond what it has; files that it read and may forget do not count."""
    try:
        limit, used = (int((_CGROUP / name).read_text()) for name in (group.limit, group.used))
        stat = (_CGROUP / group.stat).read_text()
    except (OSError, ValueError):  # no such group, or no limit: "max"
        return sys.maxsize
    forgotten = re.search(rf"^{group.inactive} (\d+)$", stat, re.MULTILINE)
    return max(0, limit - used + (int(forgotten[1]) if forgotten else 0))


def _left_to_process() -> int:
    """What the process may still map, where its address space has a limit."""
    if sys.platform == "win32" or not _MAPPED.exists():
        return sys.maxsize
    import resource  # not on Windows

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(0, limit - int(_MAPPED.read_text().split()[0]) * resource.getpagesize())


def _of_machine() -> int:
    estimate = Path("/proc/meminfo")
    if estimate.exists() and (found := re.search(r"MemAvailable:\s+(\d+) kB", estimate.read_text())):
        return int(found[1]) * 1024
    if not hasattr(os, "sysconf"):
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def refuse_without_memory(what: str, needed: int, instead: str) -> None:
    """Log that `what` takes up to `needed` bytes; UsageError, which advises `instead`, where they are not free."""
    available = available_memory()
    free = "" if available == sys.maxsize else f", {available / 1e9:.2f} GB are free"
    _log.info("%s needs up to %.2f GB of memory%s", what, needed / 1e9, free)
    if needed > available:
        raise UsageError(
            f"{what} needs {needed / 1e9:.2f} GB of memory and {available / 1e9:.2f} GB are free; {instead}"
        )
