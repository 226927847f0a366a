"""A zoo entry on disk: seven files, six of them listed with size and sha256 in the seventh. No torch here.

model.safetensors  the weights
config.json        class, constructor arguments, dataset, protocol
vocabulary.json    item ids, and titles where the data's terms allow
metrics.json       what was measured and on what, how others do there (`zoo.benchmark`), how the model was trained
golden.json        lists for fixed histories (`zoo.golden`); entries from before there was one do without
card.md            the same for people
manifest.json      size and sha256 of the six above; its own sha256 is the revision of the entry
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diffrec.errors import IntegrityError, NotFoundError
from diffrec.strict_json import from_json, record, short, to_json

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
WEIGHTS, CONFIG, VOCABULARY, METRICS, CARD, GOLDEN = FILES = (
    "model.safetensors",
    "config.json",
    "vocabulary.json",
    "metrics.json",
    "card.md",
    "golden.json",
)
REQUIRED = FILES[:-1]
LARGEST = {WEIGHTS: 1 << 34, CONFIG: 1 << 16, VOCABULARY: 1 << 27, METRICS: 1 << 18, CARD: 1 << 18, GOLDEN: 1 << 20,
           MANIFEST: 1 << 16}  # fmt: skip
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileRecord:
    """size: bytes; sha256: 64 hexadecimal digits."""

    size: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> FileRecord:
        """The record of these bytes."""
        return cls(len(data), sha256(data))

    @classmethod
    def parse(cls, value: object, where: str) -> FileRecord:
        """From its JSON form; IntegrityError where it is not one."""
        fields = record(value, where, {"size": int, "sha256": str})
        if fields["size"] < 0 or not _SHA256.fullmatch(fields["sha256"]):
            raise IntegrityError(f"{where} has an impossible size or sha256")
        return cls(fields["size"], fields["sha256"])


@dataclass(frozen=True)
class Entry:
    """One entry folder whose manifest has been read; `revision` is the sha256 of that manifest; remedy: what to do
    where a file is damaged."""

    folder: Path
    revision: str
    files: Mapping[str, FileRecord]
    remedy: str = ""

    @classmethod
    def open(cls, folder: Path) -> Entry:
        """Read the manifest. NotFoundError where there is no folder, IntegrityError where it is no entry."""
        if not os.path.isdir(folder):  # False for every impossible path, too
            raise NotFoundError(f"there is no zoo entry in {folder}: no such folder{_of_a_run(folder)}")
        if not os.path.lexists(folder / MANIFEST):
            raise IntegrityError(f"{folder} is no zoo entry, for it holds no {MANIFEST}{_of_a_run(folder)}")
        data = read_file(folder / MANIFEST, LARGEST[MANIFEST])
        return cls(folder, sha256(data), parse_manifest(data, str(folder / MANIFEST)))

    def read(self, name: str) -> bytes:
        """The bytes of one of its files, after checking size and sha256."""
        path = self.folder / name
        data = read_file(path, self.files[name].size, self.remedy)
        if FileRecord.of(data) != self.files[name]:
            raise IntegrityError(f"{path} is not the file its manifest lists: size or sha256 differs{self.remedy}")
        return data

    def read_all(self) -> dict[str, bytes]:
        """All of its files, each checked."""
        return {name: self.read(name) for name in self.files}


def _of_a_run(folder: Path) -> str:
    """What to do with what `diffrec fit` wrote, where it is that."""
    is_run = os.path.isfile(folder / "checkpoints" / "best.ckpt")
    what = "run" if is_run else "checkpoint" if folder.suffix == ".ckpt" else ""
    return f"; it is a {what}, of which 'diffrec zoo save {folder}' makes an entry" if what else ""


def is_name(text: str) -> bool:
    """May an entry have this name?"""
    return _NAME.fullmatch(text) is not None


def sha256(data: bytes) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def is_revision(text: str) -> bool:
    """Has this the form of a revision?"""
    return _SHA256.fullmatch(text) is not None


def manifest_bytes(contents: Mapping[str, bytes]) -> bytes:
    """The entry manifest of these files."""
    return manifest_of({name: FileRecord.of(data) for name, data in contents.items()})


def manifest_of(files: Mapping[str, FileRecord]) -> bytes:
    """The entry manifest that lists these records."""
    return to_json({"schema_version": SCHEMA_VERSION, "files": {name: vars(file) for name, file in files.items()}})


def parse_manifest(data: bytes, where: str) -> dict[str, FileRecord]:
    """The records of an entry manifest; IntegrityError where it is not one, byte for byte."""
    manifest = record(from_json(data, where), where, {"schema_version": int, "files": dict})
    check_version(manifest["schema_version"], where)
    if to_json(manifest) != data:
        raise IntegrityError(f"{where} was changed after it was written: it is not in the form that diffrec writes")
    return parse_files(manifest["files"], where)


def parse_files(value: Mapping[str, object], where: str) -> dict[str, FileRecord]:
    """The records of FILES, with or without GOLDEN, which leaves no room for a path; IntegrityError otherwise."""
    if wrong := sorted((value.keys() - set(FILES)) | (set(REQUIRED) - value.keys())):
        raise IntegrityError(f"{where} must list {', '.join(FILES)}; unexpected or missing: {short(wrong)}")
    files = {name: FileRecord.parse(value[name], f"{where}: {name}") for name in FILES if name in value}
    for name, file in files.items():
        if file.size > LARGEST[name]:
            raise IntegrityError(f"{where}: {name} has {file.size:,} bytes; at most {LARGEST[name]:,} are allowed")
    return files


def check_version(version: int, where: str) -> None:
    """IntegrityError for a format of another time."""
    if version != SCHEMA_VERSION:
        raise IntegrityError(f"{where} has schema_version {short(version)}; this diffrec reads {SCHEMA_VERSION}")


def read_file(path: Path, largest: int, remedy: str = "") -> bytes:
    """The bytes of a regular file of at most `largest` bytes; IntegrityError for anything else, links too."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise IntegrityError(f"{path} is not a regular file{remedy}")
        if status.st_size > largest:
            raise IntegrityError(f"{path} has {status.st_size:,} bytes, more than the {largest:,} expected{remedy}")
        return path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}{remedy}") from error
