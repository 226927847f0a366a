"""Which datasets there are, by name. Standard library only: `diffrec data list` must start at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffrec.errors import IntegrityError, NotFoundError, UsageError, listed, near_match
from diffrec.paths import cache_dir, data_dir
from diffrec.strict_json import from_json, open_record, short

Origin = Literal["registered", "folder", "imported"]

REGISTERED: Mapping[str, Mapping[str, int]] = {
    "ml-100k": {"users": 943, "items": 1682, "interactions": 100_000},
    "synthetic": {"users": 200, "items": 100, "interactions": 3011},
}
LICENCES = {
    "ml-100k": (
        "GroupLens usage licence: research use, acknowledge the source in publications, "
        "no redistribution and no commercial use without permission"
    ),
    "synthetic": "generated, no restrictions",
}

_COUNTS = ("users", "items", "interactions")
_STATED = dict.fromkeys(("name", "kind", "homepage", "licence", "published_by", "fetched_from"), str) | {
    "statistics": dict,
    "sources": list,
    "files": dict,
}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")


@dataclass(frozen=True)
class Entry:
    """A dataset that `load_dataset` can load.

    folder: where it lies, None while there is nothing on disk; kind: in words;
    counts: users, items and interactions as far as they are stated without reading the data; licence: of the data, ""
    where none is stated.
    """

    name: str
    origin: Origin
    folder: Path | None
    kind: str
    counts: Mapping[str, int]
    licence: str = ""

    @property
    def is_here(self) -> bool:
        """Whether it loads without a download."""
        return self.folder is not None or self.name == "synthetic"


def dataset_dir(name: str = "") -> Path:
    """The folder of one dataset in the cache; without a name, the folder that holds them all."""
    return cache_dir() / "datasets" / name


def entries() -> dict[str, Entry]:
    """All datasets by name: registered ones, then folders of DIFFREC_DATA, then imported ones.

    Where two share a name the earlier origin wins.
    """
    cached = {folder.name: folder for folder in _dataset_folders(dataset_dir())}
    found = [
        Entry(name, "registered", cached.get(name), "", counts, LICENCES[name]) for name, counts in REGISTERED.items()
    ]
    found += [_entry(folder, "folder") for folder in _dataset_folders(data_dir())]
    found += [_entry(folder, "imported") for folder in cached.values()]
    return {entry.name: entry for entry in reversed(found)}


def find(name: str) -> Entry:
    """The dataset of that name; NotFoundError lists the names there are and says how to import one."""
    known = entries()
    if name in known:
        return known[name]
    raise NotFoundError(
        f"no dataset {name!r}; there are: {listed(known, name)}{near_match(name, known)}\n"
        f"'diffrec data import FILE --name NAME' brings your own; DIFFREC_DATA may name a folder of datasets"
    )


def check_new_name(name: str) -> None:
    """Raise UsageError unless `name` may be given to an imported dataset."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"the name {name!r} is not allowed; use at most 96 of a-z, 0-9, '.', '_' and '-', beginning with a-z or 0-9"
        )
    if name in REGISTERED:
        raise UsageError(f"{name!r} is a registered dataset; choose another name")


def read_description(folder: Path) -> dict:
    """The `source.json` of a folder, an empty dict where there is none.

    IntegrityError where it is not JSON, or where what is read of it has the wrong type.
    """
    path = folder / "source.json"
    if not path.exists():
        return {}
    stated = open_record(from_json(path.read_bytes(), str(path)), str(path), _STATED)
    open_record(stated.get("statistics", {}), f"{path}: statistics", dict.fromkeys(_COUNTS, int))
    for source in stated.get("sources", []):
        open_record(source, f"{path}: sources", {"repo": str})
    for name, file in stated.get("files", {}).items():
        open_record(file, f"{path}: {short(name)}", {"sha256": str})
    return stated


def _entry(folder: Path, origin: Origin) -> Entry:
    """What source.json says; a damaged one must not hide the other datasets, so it is the `kind` here."""
    try:
        stated = read_description(folder)
    except IntegrityError as error:
        return Entry(folder.name, origin, folder, str(error), {})
    counts = {key: value for key, value in stated.get("statistics", {}).items() if key in _COUNTS}
    return Entry(folder.name, origin, folder, stated.get("kind", ""), counts, stated.get("licence", ""))


def _dataset_folders(parent: Path | None) -> list[Path]:
    """The folders below `parent` that hold interactions, by name."""
    if parent is None or not parent.is_dir():
        return []
    return sorted(folder for folder in parent.iterdir() if folder.name[0] != "." and shape_of(folder))


def shape_of(folder: Path) -> Literal["log", "sequences", "parts"] | None:
    """How a folder stores its interactions, by the names of its files; None where it holds none."""
    if (folder / "interactions.parquet").exists():
        return "log"
    if (folder / "sequences.parquet").exists():
        return "sequences"
    return "parts" if (folder / "train.parquet").exists() and (folder / "test.parquet").exists() else None
