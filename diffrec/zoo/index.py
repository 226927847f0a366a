"""zoo/manifest.json: every entry with its revision and metrics, so that listing reads one small file. No torch here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diffrec.errors import IntegrityError
from diffrec.files import write_file
from diffrec.paths import resource_dir
from diffrec.strict_json import from_json, numbers, record, short, to_json
from diffrec.zoo.cache import ZooCache
from diffrec.zoo.config import Config, Measured
from diffrec.zoo.entry import (
    CARD,
    CONFIG,
    MANIFEST,
    METRICS,
    SCHEMA_VERSION,
    Entry,
    FileRecord,
    check_version,
    is_name,
    parse_files,
    read_file,
)
from diffrec.zoo.headings import DATA, LICENCE, TERMS, fact, sections

_LARGEST = 1 << 24
_NONE = type(None)
# in old lists
_ABSENT = {"dataset_sha256": None, "licence": None, "terms": None, "ms_per_user": {}, "device": None, "sd": {}}


@dataclass(frozen=True)
class Listing:
    """One row of the zoo.

    revision: sha256 of the entry's manifest; metrics: name -> value under `protocol`; dataset_sha256: of its content;
    licence: of the weights; terms: of the data; ms_per_user: milliseconds for ten items by batch size, empty where not
    measured, on `device`: `cpu`, or the accelerator by name; sd: standard deviation of every metric over the seeds of
    the row, empty for one.
    """

    revision: str
    files: Mapping[str, FileRecord]
    class_path: str
    dataset: str | None
    protocol: str | None
    parameters: int
    denoiser_calls: int
    metrics: Mapping[str, float]
    dataset_sha256: str | None = None
    licence: str | None = None
    terms: str | None = None
    ms_per_user: Mapping[str, float] = field(default_factory=dict)
    device: str | None = None
    sd: Mapping[str, float] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    @classmethod
    def of(cls, entry: Entry) -> Listing:
        """The row of an entry, all of whose files are checked."""
        contents = entry.read_all()
        config = Config.parse(contents[CONFIG], str(entry.folder / CONFIG))
        measured = Measured.parse(contents[METRICS], str(entry.folder / METRICS))
        timed = measured.benchmark if measured.benchmark and measured.benchmark.ms_per_user else None
        return cls(
            revision=entry.revision,
            files=entry.files,
            class_path=config.class_path,
            dataset=config.dataset and config.dataset.name,
            protocol=config.protocol,
            parameters=config.parameters,
            denoiser_calls=config.denoiser_calls,
            metrics=measured.metrics,
            dataset_sha256=config.dataset and config.dataset.sha256,
            licence=LICENCE,
            terms=fact(sections(contents[CARD].decode(errors="replace")).get(DATA, ""), TERMS),
            ms_per_user=timed.ms_per_user if timed else {},
            device=timed and timed.device,
            sd=measured.benchmark.sd if measured.benchmark else {},
        )

    @classmethod
    def parse(cls, value: object, where: str) -> Listing:
        """From its JSON form; IntegrityError where it is not one."""
        maybe = dict.fromkeys(("dataset", "protocol", "dataset_sha256", "licence", "terms", "device"), (str, _NONE))
        kinds = {"revision": str, "files": dict, "class_path": str, "parameters": int, "denoiser_calls": int,
                 "metrics": dict, "ms_per_user": dict, "sd": dict, **maybe}  # fmt: skip
        fields = record({**_ABSENT, **value} if isinstance(value, dict) else value, where, kinds)
        fields["files"] = parse_files(fields["files"], where)
        for name in ("ms_per_user", "metrics", "sd"):
            fields[name] = numbers(fields[name], where)
        return cls(**fields)

    def plain(self) -> dict[str, object]:
        """Its JSON form."""
        return {**vars(self), "files": {name: vars(file) for name, file in self.files.items()}}


def zoo_dir() -> Path:
    """The folder of the entries that come with the project."""
    return resource_dir("zoo")


def read_index(root: Path | None = None) -> dict[str, Listing]:
    """The rows of `root`/manifest.json by name, none where there is no such file; `root` is the zoo of the project."""
    path = (root or zoo_dir()) / MANIFEST
    if not path.exists():
        return {}
    where = str(path)
    index = record(from_json(read_file(path, _LARGEST), where), where, {"schema_version": int, "entries": dict})
    check_version(index["schema_version"], where)
    for name in index["entries"]:
        if not is_name(name):
            raise IntegrityError(f"{where} lists the name {short(name)}, which is not allowed")
    return {name: Listing.parse(value, f"{where}: {name}") for name, value in index["entries"].items()}


def on_this_machine(rows: Mapping[str, Listing]) -> dict[str, bool]:
    """Whether the files of each entry are here, in the cache or in the zoo of the project."""
    cache, root = ZooCache.at(None), zoo_dir()
    return {name: (root / name).is_dir() or cache.folder(name, row.revision).is_dir() for name, row in rows.items()}


def rebuild_index(
    root: Path | None = None, forget: Collection[str] = (), elsewhere: Path | None = None
) -> dict[str, Listing]:
    """Write `root`/manifest.json from the entry folders in `root`, and return its rows.

    elsewhere: a folder of entries that are listed too, but whose files do not come with the project. What was listed
    stays so where its folder is not here, unless its name is in `forget`. Raises IntegrityError where a file is not
    what the manifest of its entry says, or the list that is there is damaged.
    """
    root = root or zoo_dir()
    here = {**(_rows(elsewhere) if elsewhere else {}), **_rows(root)}
    kept = {name: row for name, row in read_index(root).items() if name not in forget}
    rows = dict(sorted({**kept, **here}.items()))
    plain = {name: row.plain() for name, row in rows.items()}
    write_file(root / MANIFEST, to_json({"schema_version": SCHEMA_VERSION, "entries": plain}))
    return rows


def _rows(root: Path) -> dict[str, Listing]:
    folders = [folder for folder in root.iterdir() if folder.is_dir() and is_name(folder.name)]
    return {folder.name: Listing.of(Entry.open(folder)) for folder in folders}
