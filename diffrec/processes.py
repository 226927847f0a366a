"""Processes that share a folder: where one runs, and whether it still does."""

from __future__ import annotations

import os
import socket


def place() -> str:
    """Where process numbers mean the same: a machine, and on Linux the container on it."""
    try:
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        space = "-"
    return f"{socket.gethostname()}/{space}".replace(" ", "_")


def has_ended(process: int) -> bool:
    """Whether no process of this place has that number; False on Windows, where asking may end it."""
    if os.name == "nt":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False
