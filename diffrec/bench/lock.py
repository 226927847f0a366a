"""A lock that several processes respect, of one machine or of a shared folder, and that dies with its owner."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows has no such lock: there, two commands on one folder do the same work twice
    fcntl = None


@contextmanager
def holding(path: Path, wait: bool = False) -> Iterator[bool]:
    """Whether the lock `path` is ours within the block; False where another process holds it, unless we `wait`.

    The system lets go of it when its owner ends, however that happens. The file says who the owner is; one that
    lies there without an owner is no lock.
    """
    file = _taken(path, wait)
    try:
        yield file is not None
    finally:
        if file is not None:
            path.unlink(missing_ok=True)  # before the lock goes, so that nobody who gets it finds the file in place
            file.close()


def held(path: Path) -> bool:
    """Whether a process holds the lock at this moment."""
    if not path.exists():
        return False
    with holding(path) as mine:
        return not mine


def owner(path: Path) -> str:
    """`process 123 on host`, as far as the file of a lock tells."""
    try:
        return path.read_text(encoding="utf-8").strip() or "another process"
    except OSError:  # let go of in the meantime
        return "another process"


def _taken(path: Path, wait: bool) -> BinaryIO | None:
    """The open file of a lock that is ours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = open(path, "a+b")  # noqa: SIM115 (the lock lasts as long as the file is open)
        try:
            if not _locked(file, wait):
                file.close()
                return None
            if _same_file(file, path):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                file.flush()
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # its owner has deleted it between our opening and our locking; the next one is looked at


def _locked(file: BinaryIO, wait: bool) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _same_file(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
