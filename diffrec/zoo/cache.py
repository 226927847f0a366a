"""Downloaded entries: <cache>/zoo/<name>/<revision>/, each written once, whole, and never changed. No torch here.

Beside them may lie <revision>.part/ (what came before a download broke off), <revision>.lease (who downloads at the
moment) and `current` (the revision that the name meant when it was last downloaded, for names that the zoo of the
project does not list).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from diffrec import paths
from diffrec.errors import DiffrecError, IntegrityError
from diffrec.files import write_file
from diffrec.zoo.entry import Entry, is_name, is_revision, read_file
from diffrec.zoo.lease import leased

_CURRENT = "current"
_REMEDY = "; 'diffrec cache verify --remove' takes what is damaged out of the cache"


@dataclass(frozen=True)
class Kept:
    """Something in the cache. whole: an entry; otherwise what came of one so far. size: bytes; current: whether
    `load` takes it for its name; busy: whether a process is at work on it."""

    name: str
    revision: str
    folder: Path
    whole: bool
    size: int
    current: bool
    busy: bool


@dataclass(frozen=True)
class ZooCache:
    """The entries below one folder."""

    root: Path

    @classmethod
    def at(cls, cache_dir: str | Path | None) -> ZooCache:
        """That of a cache folder, by default of the one that everything uses (`paths.cache_dir`)."""
        return cls((paths.cache_dir() if cache_dir is None else Path(cache_dir)) / "zoo")

    def folder(self, name: str, revision: str) -> Path:
        """Where an entry lies, or would."""
        return self.root / name / revision

    def part(self, name: str, revision: str) -> Path:
        """Where its files gather while they are downloaded."""
        return self.root / name / f"{revision}.part"

    def lease(self, name: str, revision: str) -> Path:
        """The lease of those who download it."""
        return self.root / name / f"{revision}.lease"

    def find(self, name: str, revision: str) -> Entry | None:
        """An entry that is here; IntegrityError where it is not the one that its folder is named after."""
        folder = self.folder(name, revision)
        if not folder.is_dir():
            return None
        entry = Entry.open(folder)
        if entry.revision != revision:
            raise IntegrityError(f"{folder} is not the revision that it is named after{_REMEDY}")
        return replace(entry, remedy=_REMEDY)

    def current(self, name: str) -> str | None:
        """The revision that the name meant when it was last downloaded; None where that is not known."""
        path = self.root / name / _CURRENT
        if not path.exists():
            return None
        revision = read_file(path, 65).decode(errors="replace").strip()
        return revision if is_revision(revision) else None

    def set_current(self, name: str, revision: str) -> None:
        """Let the name mean this revision from now on."""
        write_file(self.root / name / _CURRENT, f"{revision}\n".encode())

    def kept(self, listed: Mapping[str, str]) -> list[Kept]:
        """All that is here, by name; listed: the revisions that names have in the zoo of the project."""
        return [kept for folder in _folders(self.root) if is_name(folder.name) for kept in self._kept(folder, listed)]

    def _kept(self, parent: Path, listed: Mapping[str, str]) -> Iterator[Kept]:
        name = parent.name
        current = listed.get(name) or self.current(name)
        for folder in _folders(parent):
            revision, _, ending = folder.name.partition(".")
            if is_revision(revision) and ending in ("", "part"):
                busy = leased(self.lease(name, revision))
                yield Kept(name, revision, folder, not ending, _size(folder), revision == current, busy)

    def remove(self, kept: Kept) -> None:
        """Take something out of the cache, and its name where nothing is left of it."""
        shutil.rmtree(kept.folder)
        parent = kept.folder.parent
        if not _folders(parent):
            shutil.rmtree(parent)


def damage(kept: Kept) -> str | None:
    """What is wrong with an entry of the cache, every byte of which is looked at; None where nothing is."""
    try:
        entry = Entry.open(kept.folder)
        entry.read_all()
    except DiffrecError as error:
        return str(error)
    return None if entry.revision == kept.revision else f"{kept.folder} is not the revision that it is named after"


def _folders(parent: Path) -> list[Path]:
    """Real folders, for links are not followed anywhere in the cache."""
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.is_symlink())


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.iterdir())
