"""A lease on a piece of work, for processes that share a folder. File locks are not trusted: some file systems of
networks grant one to everybody, some to nobody, and some forget whom they granted it to.

A lease is a file that only one process can create. Its owner renews it; one that stays as it is for a while, by the
clock of whoever waits, has lost its owner and is taken away. An owner that slept so long learns at its next renewal
that the work is not its any more. Nothing may rest on a lease but that work is not done twice.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from diffrec.errors import DiffrecError
from diffrec.processes import has_ended, place

STALE = 30.0  # seconds without a renewal after which an owner counts as gone
_RENEWED_EVERY = 1.0  # seconds
_MOST = 512  # bytes that are read of a lease
_NO_FILE = bytes(_MOST + 1)  # what is read of a link, a pipe or a folder
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class LeaseLost(DiffrecError):
    """Somebody else does the work now."""


@dataclass
class Lease:
    """A lease that is ours; place: of its processes, so that a dead owner on the same machine is seen at once."""

    path: Path
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    renewals: int = 0
    renewed: float = field(default_factory=time.monotonic)

    def content(self) -> bytes:
        """What the file says: whose it is, and how often it was renewed."""
        return f"{self.token} {os.getpid()} {place()} {self.renewals}\n".encode()

    def renew(self) -> None:
        """Say that the owner lives, if the last time was not just now; LeaseLost where the lease is not ours."""
        if time.monotonic() - self.renewed < _RENEWED_EVERY:
            return
        if _token(_read(self.path)) != self.token:
            raise LeaseLost(f"{self.path} was taken over")
        self.renewals, self.renewed = self.renewals + 1, time.monotonic()
        with contextlib.suppress(FileNotFoundError), self.path.open("r+b") as file:
            file.write(self.content())


@contextmanager
def lease(
    path: Path, *, stale: float = STALE, poll: float = 0.05, waiting: Callable[[str], None] = lambda owner: None
) -> Iterator[Lease]:
    """Wait until the lease is ours, and give it back after the block. waiting: told once, where somebody has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mine, seen, since, told = Lease(path), None, 0.0, False
    while not _created(mine):
        there = _read(path)
        if there is None:  # given back between the two looks
            time.sleep(poll)
            continue
        if there != seen:
            seen, since = there, time.monotonic()
        if _is_dead(there) or time.monotonic() - since > stale:
            _take_away(path, mine.token)
            continue
        if not told:
            waiting(_owner(there))
            told = True
        time.sleep(poll)
    try:
        yield mine
    finally:
        if _token(_read(path)) == mine.token:
            path.unlink(missing_ok=True)


def leased(path: Path) -> bool:
    """Whether a lease lies there whose owner is not known to be dead."""
    there = _read(path)
    return there is not None and not _is_dead(there)


def _created(mine: Lease) -> bool:
    try:
        descriptor = os.open(mine.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(mine.content())
    return True


def _read(path: Path) -> bytes | None:
    """Read by opening, for which file systems of networks ask the server; None where there is no lease."""
    try:
        descriptor = os.open(path, _READ)
    except FileNotFoundError:
        return None
    except OSError:
        if stat.S_ISREG(path.lstat().st_mode):
            raise
        return _NO_FILE
    try:
        return os.read(descriptor, _MOST) if stat.S_ISREG(os.fstat(descriptor).st_mode) else _NO_FILE
    finally:
        os.close(descriptor)


def _take_away(path: Path, token: str) -> None:
    """Renamed first, which only one of those who wait can do."""
    aside = path.with_name(f"{path.name}.{token}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        if stat.S_ISDIR(aside.lstat().st_mode):
            shutil.rmtree(aside)
        else:
            aside.unlink()


def _token(content: bytes | None) -> str:
    words = (content or b"").split()
    return words[0].decode(errors="replace") if words else ""


def _owner(content: bytes) -> str:
    words = content.decode(errors="replace").split()
    return f"process {words[1]} on {words[2]}" if len(words) == 4 else "another process"


def _is_dead(content: bytes) -> bool:
    """Whether the owner was a process of this machine that has ended, or what lies there never was a lease."""
    if content == _NO_FILE:
        return True
    words = content.decode(errors="replace").split()
    if len(words) != 4 or words[2] != place() or not words[1].isdigit():
        return False
    return has_ended(int(words[1]))
