"""Files and folders that appear whole or not at all, whatever interrupts the writing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from diffrec.errors import DiffrecError


def write_folder(folder: Path, contents: Mapping[str, bytes], check: Callable[[Path], object]) -> None:
    """Put a folder with these files in the place of `folder`, after `check(copy)` has passed.

    The copy is written beside it and renamed. Whatever fails, an older `folder` stays as it was.
    Raises DiffrecError where the disk refuses, and what `check` raises.
    """
    beside = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        copy = beside / "new"
        copy.mkdir()
        for name, data in contents.items():
            _write(copy / name, data)
        _sync_folder(copy)
        check(copy)
        _exchange(copy, folder, beside / "old")
        _sync_folder(folder.parent)
    except OSError as error:
        raise DiffrecError(f"{folder} could not be written ({error.strerror}); what was there is unchanged") from error
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)


def write_file(path: Path, data: bytes) -> None:
    """Replace one file; the old one stays where writing fails, with DiffrecError."""
    copy = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write(copy, data)
        os.replace(copy, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise DiffrecError(f"{path} could not be written ({error.strerror}); what was there is unchanged") from error
    finally:
        copy.unlink(missing_ok=True)


def _exchange(new: Path, folder: Path, old: Path) -> None:
    """Rename `new` to `folder`; a `folder` that was there goes to `old`, and comes back where that fails."""
    if not folder.exists():
        new.rename(folder)
        return
    folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        old.rename(folder)
        raise


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
