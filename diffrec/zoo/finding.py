"""From a name to an entry on this machine: the cache, the zoo of the project, then whoever else may have it."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from diffrec.data.fetching import Manner, Missing, download, network_is_forbidden, read_url
from diffrec.errors import DiffrecError, IntegrityError, NetworkError, NotFoundError, UsageError, listed, near_match
from diffrec.files import write_file
from diffrec.zoo.cache import ZooCache
from diffrec.zoo.entry import (
    LARGEST,
    MANIFEST,
    Entry,
    FileRecord,
    is_name,
    is_revision,
    manifest_of,
    parse_manifest,
    read_file,
    sha256,
)
from diffrec.zoo.index import Listing, read_index, zoo_dir
from diffrec.zoo.lease import LeaseLost, lease
from diffrec.zoo.mirrors import Source, sources

log = logging.getLogger(__name__)

_SLOWEST = 20_000  # bytes a second below which a transfer is given up
_SET_ONE = "DIFFREC_ZOO_MIRRORS (URLs) or DIFFREC_ZOO_HUB (an owner on the hub) say where to get it"


def find_entry(
    name_or_path: str | Path,
    root: Path | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    offline: bool = False,
) -> Entry:
    """The entry of that name, or in that folder (a Path, or text with a slash).

    A name is looked for in the cache, in the zoo of the project (`root`), and with the sources of `zoo.mirrors`, from
    where it comes into the cache. revision: the sha256 of its manifest; by default the one that the project lists, for
    other names the one that was last downloaded, else the one that the first source has. offline: no network.
    Raises NotFoundError with the near match, NetworkError (it is elsewhere, and cannot be had), IntegrityError (it is
    not the entry that was asked for).
    """
    if revision is not None and not is_revision(revision):
        raise UsageError(f"a revision has 64 hexadecimal digits, as 'diffrec zoo info' tells, got {revision!r}")
    if not isinstance(name_or_path, str | Path):
        raise UsageError(f"a model is a name of 'diffrec zoo list' or the folder of an entry, got {name_or_path!r}")
    if isinstance(name_or_path, Path) or "/" in name_or_path or os.sep in name_or_path or name_or_path in (".", ".."):
        return _of_revision(Entry.open(Path(name_or_path)), revision)
    rows, cache = read_index(root), ZooCache.at(cache_dir)
    if not is_name(name_or_path):
        raise NotFoundError(_unknown(name_or_path, rows))
    row = rows.get(name_or_path)
    wanted = revision or (row.revision if row else cache.current(name_or_path))
    here = wanted and cache.find(name_or_path, wanted)
    return here or _in_project(name_or_path, row, wanted, root) or fetch_entry(
        name_or_path, root, revision=wanted, cache_dir=cache_dir, offline=offline
    )  # fmt: skip


def fetch_entry(
    name: str,
    root: Path | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    offline: bool = False,
) -> Entry:
    """The entry from the first source that has it, every byte checked, in the cache.

    revision: as for `find_entry`, but a name that the project does not list means what the first source has now.
    Several processes that want the same entry download it once; what came before a download broke off is used again.
    """
    rows, cache = read_index(root), ZooCache.at(cache_dir)
    if not is_name(name):
        raise NotFoundError(_unknown(name, rows))
    row = rows.get(name)
    asked = _sources(name, row, rows, offline, ((root or zoo_dir()) / name).is_dir())
    wanted = revision or (row and row.revision)
    if row is not None and wanted == row.revision:
        files, found = row.files, row.revision
        if sha256(manifest_of(files)) != found:
            raise IntegrityError(f"the zoo lists {name} with files that do not belong to its revision")
    else:
        files, found = _stated(name, wanted, asked, rows)
    _fill(cache, name, found, files, asked)
    if row is None and revision is None:
        cache.set_current(name, found)
    entry = cache.find(name, found)
    assert entry is not None
    return entry


def _of_revision(entry: Entry, revision: str | None) -> Entry:
    if revision not in (None, entry.revision):
        raise IntegrityError(f"{entry.folder} has revision {entry.revision}, not {revision}")
    return entry


def _in_project(name: str, row: Listing | None, wanted: str | None, root: Path | None) -> Entry | None:
    """The entry that lies in the zoo of the project, if that is the one that is wanted."""
    folder = (root or zoo_dir()) / name
    if row is None or wanted != row.revision or not folder.is_dir():
        return None
    entry = Entry.open(folder)
    if entry.revision != row.revision or entry.files != row.files:
        raise IntegrityError(f"{folder} is not the entry that the zoo lists: its manifest differs")
    return entry


def _sources(
    name: str, row: Listing | None, rows: Mapping[str, Listing], offline: bool, there_already: bool = False
) -> list[Source]:
    """Whom to ask; an error that says what to do where there is nobody."""
    there = sources()
    asked = [source for source in there if source.on_this_machine or not (offline or network_is_forbidden())]
    if asked:
        return asked
    if there:
        raise NetworkError(f"{name} is not in the cache, and nothing may be downloaded while offline")
    if row is None:
        raise NotFoundError(_unknown(name, rows))
    here = "is in the zoo folder, and nobody else is set" if there_already else "is not on this machine"
    raise NotFoundError(f"{name} ({row.size:,} bytes) {here}; {_SET_ONE}; 'diffrec zoo build {name}' trains it anew")


def _stated(
    name: str, revision: str | None, asked: Sequence[Source], rows: Mapping[str, Listing]
) -> tuple[Mapping[str, FileRecord], str]:
    """What the manifest of the first source lists, of that revision if one is wanted, and its revision."""
    faults: list[DiffrecError] = []
    for source in asked:
        url = source.url(name, MANIFEST)
        try:
            data = read_url(url, LARGEST[MANIFEST], Manner(headers=source.headers))
            if revision not in (None, sha256(data)):
                raise Missing(f"{url} has revision {sha256(data)}, not {revision}")
            return parse_manifest(data, url), sha256(data)
        except (NetworkError, IntegrityError) as error:
            faults.append(error)
    if all(isinstance(fault, Missing) for fault in faults):
        raise NotFoundError(f"{_unknown(name, rows)}; {'; '.join(map(str, faults))}")
    raise _all_failed(name, faults)


def _fill(cache: ZooCache, name: str, revision: str, files: Mapping[str, FileRecord], asked: Sequence[Source]) -> None:
    """Make `cache.folder(name, revision)` that entry."""
    folder, part = cache.folder(name, revision), cache.part(name, revision)
    while not folder.is_dir():
        with lease(cache.lease(name, revision), waiting=lambda owner: log.info("%s downloads %s", owner, name)) as mine:
            if folder.is_dir():
                return
            part.mkdir(parents=True, exist_ok=True)
            manner = Manner(alive=mine.renew)
            try:
                for file, record in files.items():
                    _bring(name, file, record, part, asked, manner)
                write_file(part / MANIFEST, manifest_of(files))
                _publish(part, folder, revision)
            except LeaseLost:
                log.warning("another process goes on with the download of %s", name)


def _bring(name: str, file: str, record: FileRecord, folder: Path, asked: Sequence[Source], manner: Manner) -> None:
    """One file of an entry from the first source that has it; what is here already is kept if it is right."""
    target, faults = folder / file, []
    if _is(target, record):
        return
    for source in asked:
        url = source.url(name, file)
        patient = replace(manner, headers=source.headers, deadline=manner.deadline + record.size / _SLOWEST)
        try:
            download(url, target, sha256=record.sha256, max_bytes=record.size,
                     partial=folder / f"{file}.part", manner=patient)  # fmt: skip
            return
        except (NetworkError, IntegrityError) as error:
            if source is not asked[-1]:  # else the error tells it
                log.warning("%s", error)
            faults.append(error)
    raise _all_failed(f"{file} of {name}", faults)


def _is(path: Path, record: FileRecord) -> bool:
    return path.exists() and FileRecord.of(read_file(path, LARGEST[path.name])) == record


def _publish(part: Path, folder: Path, revision: str) -> None:
    """Give a complete download its name, after every byte was read back from the disk."""
    try:
        entry = Entry.open(part)
        entry.read_all()
        if entry.revision != revision:
            raise IntegrityError(f"{part} has another revision than was downloaded")
    except IntegrityError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    for left in part.glob("*.part"):
        left.unlink()
    try:
        part.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster, with the same bytes
            raise
        shutil.rmtree(part, ignore_errors=True)


def _all_failed(what: str, faults: Sequence[DiffrecError]) -> DiffrecError:
    """What went wrong with each source; an integrity error where one had something else."""
    wrong = next((fault for fault in faults if isinstance(fault, IntegrityError)), None)
    told = "; ".join(str(fault) for fault in faults)
    return (IntegrityError if wrong else NetworkError)(f"{what} could not be downloaded: {told}")


def _unknown(name: str, rows: Mapping[str, Listing]) -> str:
    there = f"there are: {listed(rows, name)}" if rows else "the zoo is empty"
    hint = f"; for the folder of that name write './{name}'" if os.path.isdir(name) else near_match(name, rows)
    return f"no zoo entry {name!r}; {there}{hint}"
