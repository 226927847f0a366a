"""Freed memory that stays with the process, so that the next batch need not ask the system for it again."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt, see malloc.h
_LARGEST = (1 << 31) - 1
_BLOCK = 1 << 30


def keep_freed_memory() -> bool:
    """Ask glibc to reuse blocks of up to 1 GiB instead of handing them back; whether there was a glibc to ask.

    Training frees and takes the same few megabytes in every step, and time goes into the pages that the system
    has to clear again. The process keeps its peak until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not in every C library
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _BLOCK)) and bool(mallopt(_TRIM_THRESHOLD, _LARGEST))
