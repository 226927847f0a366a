"""Whether a table fits into the memory that is free, asked before it is made."""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path

from diffrec.errors import UsageError

_log = logging.getLogger(__name__)


def available_memory() -> int:
    """Bytes that new arrays can take: the kernel's estimate where there is one, else all memory there is.

    Where the system tells neither (Windows), no limit.
    """
    estimate = Path("/proc/meminfo")
    if estimate.exists() and (found := re.search(r"MemAvailable:\s+(\d+) kB", estimate.read_text())):
        return int(found[1]) * 1024
    if not hasattr(os, "sysconf"):
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def refuse_without_memory(what: str, needed: int, instead: str) -> None:
    """Log that `what` takes up to `needed` bytes; UsageError, which advises `instead`, where they are not free."""
    available = available_memory()
    _log.info("%s needs up to %.2f GB of memory", what, needed / 1e9)
    if needed > available:
        raise UsageError(
            f"{what} needs {needed / 1e9:.2f} GB of memory and {available / 1e9:.2f} GB are free; {instead}"
        )
