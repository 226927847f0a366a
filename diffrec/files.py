"""Files and folders that appear whole or not at all, whatever interrupts the writing."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from diffrec.errors import DiffrecError, IntegrityError
from diffrec.processes import has_ended, place

_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EPERM)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ABANDONED = 86_400.0  # seconds after which what a process of another machine left counts as abandoned
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


@contextmanager
def replacing(path: Path, size: Callable[[], int] | None = None) -> Iterator[BinaryIO]:
    """A file to write into, which takes the place of `path` where the block ends well.

    Whatever fails, an older file stays as it was and nothing else is left behind; what a process that was killed
    left is removed by the next that writes `path`. Raises DiffrecError where the disk refuses. size: the bytes of the
    whole, asked where there is no room for them.
    """
    part = _beside(path)
    with _refusals(path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_remains(path)
        try:
            with part.open("x+b") as file:
                yield file
                _to_disk(file)
            os.replace(part, path)
            sync_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def continuing(path: Path, part: Path) -> Iterator[BinaryIO]:
    """A file to write into that begins with what `part` holds, and takes the place of `path` where the block ends well.

    Both lie on one disk. Where the block ends otherwise `part` stays, to be gone on with; it is removed after an
    IntegrityError. Raises DiffrecError where the disk refuses.
    """
    with _refusals(path):
        for folder in (path.parent, part.parent):
            folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)  # no appending: two writers write the same places
        try:
            with os.fdopen(os.open(part, flags, 0o644), "r+b") as file:
                yield file
                _to_disk(file)
        except IntegrityError:
            part.unlink(missing_ok=True)
            raise
        os.replace(part, path)
        sync_folder(path.parent)


def write_file(path: Path, content: bytes) -> None:
    """Replace one file as a whole, as `replacing` does."""
    with replacing(path, lambda: len(content)) as file:
        file.write(content)


def write_folder(
    folder: Path,
    contents: Mapping[str, bytes],
    *,
    check: Callable[[Path], object] = lambda copy: None,
    keep: Callable[[Path], bool] = lambda folder: False,
) -> None:
    """Put a folder with these files in the place of `folder`, after `check(copy)` has passed.

    The copy is written beside it and exchanged with it; what is there already stays where `keep(folder)`. Whatever
    fails, an older `folder` stays as it was; remains of a process that was killed go as in `replacing`. Raises
    DiffrecError where the disk refuses, and what `check` raises.
    """
    beside = _beside(folder)
    try:
        with _refusals(folder, lambda: sum(map(len, contents.values()))):
            folder.parent.mkdir(parents=True, exist_ok=True)
            _clear_remains(folder)
            beside.mkdir(mode=0o700)
            copy = beside / "new"
            copy.mkdir()
            for name, content in contents.items():
                with (copy / name).open("xb") as file:
                    file.write(content)
                    _to_disk(file)
            sync_folder(copy)
            check(copy)
            _exchange(copy, folder, beside / "old", keep)
            sync_folder(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power, where the system can: Windows opens no folder, and some
    network file systems sync none, which is no failure."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _refusals(path: Path, size: Callable[[], int] | None = None) -> Iterator[None]:
    """OSErrors as DiffrecErrors that name `path`, and how much room is needed and free where it was too little."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        room = _room(path, error, size) if error.errno in _NO_ROOM else ""
        raise DiffrecError(f"{path} could not be written ({reason}){room}; what was there is unchanged") from error


def _room(path: Path, error: OSError, size: Callable[[], int] | None) -> str:
    needed = "" if size is None else f"; needed: {size():,} bytes"
    if error.errno != errno.ENOSPC:  # a limit of a user or a process, which nobody tells
        return needed
    there = next(folder for folder in path.parents if folder.exists())
    return f"{needed}; free: {shutil.disk_usage(there).free:,} bytes"


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _exchange(new: Path, folder: Path, old: Path, keep: Callable[[Path], bool]) -> None:
    """Rename `new` to `folder`; what was there goes to `new` or `old`, and comes back where that fails."""
    if folder.exists() and not keep(folder):
        if _swap(new, folder):
            return
        folder.rename(old)
    try:
        new.rename(folder)
    except BaseException as error:
        if old.exists():
            old.rename(folder)
        if not (isinstance(error, OSError) and keep(folder)):  # else another process was faster
            raise


def _swap(one: Path, other: Path) -> bool:
    """Exchange two names at once, so that a kill leaves both; whether the system and its disk could."""
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    return renameat2 is not None and renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


def _beside(path: Path) -> Path:
    """A new name for what is to take the place of `path`, which tells whose it is."""
    return path.with_name(f".{path.name}.{_place()}-{os.getpid()}-{secrets.token_hex(4)}.part")


def _clear_remains(path: Path) -> None:
    """Remove what writers of `path` left that were killed; a folder that one had moved away comes back."""
    named = re.compile(rf"\.{re.escape(path.name)}\.(?:([0-9a-f]{{8}})-)?(\d+)(?:-[0-9a-f]{{8}})?\.part")
    with contextlib.suppress(OSError):  # another process is at it, or may not be looked into
        for match in filter(None, map(named.fullmatch, os.listdir(path.parent))):
            left = path.with_name(match[0])
            of_here = match[1] == _place()
            if not (has_ended(int(match[2])) if of_here else time.time() - left.lstat().st_mtime > _ABANDONED):
                continue
            if left.is_symlink() or not left.is_dir():
                left.unlink(missing_ok=True)
                continue
            if (left / "old").exists() and not path.exists():
                (left / "old").rename(path)
            shutil.rmtree(left, ignore_errors=True)


@functools.cache
def _place() -> str:
    return hashlib.sha256(place().encode()).hexdigest()[:8]
