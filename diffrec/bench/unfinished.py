"""Run folders of cells. One whose owner was stopped is taken up again where it goes on as if nothing had happened.

One that is finished says what it came to, for rows that measure the same weights in another way.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

import diffrec
from diffrec.bench.lock import holding
from diffrec.bench.provenance import device_name, packages
from diffrec.bench.result import sha256_of
from diffrec.errors import IntegrityError
from diffrec.files import write_file
from diffrec.strict_json import from_json, to_json
from diffrec.training.build import new_run_dir
from diffrec.training.checkpoint_io import read_checkpoint
from diffrec.training.fit import FitResult

NOTE = "unfinished.json"  # lies in a run folder from the first step of training to the end of the test
FINISHED = "finished.json"  # takes its place, with what training came to
Origin = dict[str, Any]


def origin(config: Mapping[str, Any]) -> Origin:
    """What two parts of one run have to share, but for the data: configuration, code, packages, device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "config_sha256": sha256_of(config),
        "code_sha256": code_sha256(),
        "packages": packages(),
        "device": device_name(device),
    }


def code_sha256() -> str:
    """Hash of the package's sources; unlike a revision it also tells uncommitted changes apart."""
    root = Path(diffrec.__file__).resolve().parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\n{path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


@contextmanager
def run_folder(family: Path, mine: Origin, dataset_sha256: Callable[[], str]) -> Iterator[Path]:
    """The newest unfinished folder in `family` of the same origin and data, else a new one; ours within the block.

    dataset_sha256: called where a folder may be taken up. A folder that another process is working in is passed by.
    """
    for folder in sorted(family.glob("version_*"), key=_number, reverse=True):
        if not _may_be_taken_up(folder, mine, dataset_sha256):
            continue
        with holding(folder / ".lock") as free:
            if free and _may_be_taken_up(folder, mine, dataset_sha256):  # nobody has finished it in the meantime
                yield folder
                return
    folder = new_run_dir(family)
    with holding(folder / ".lock"):
        yield folder


def last_checkpoint(folder: Path) -> Path | None:
    """Where training goes on, None where no epoch was finished."""
    path = folder / "checkpoints" / "last.ckpt"
    return path if path.is_file() else None


def begin(folder: Path, mine: Origin, dataset_sha256: str) -> None:
    """Note what the run in `folder` is, for a later process to take it up."""
    write_file(folder / NOTE, to_json({**mine, "dataset_sha256": dataset_sha256, "folder": os.path.realpath(folder)}))


def finish(folder: Path, fitted: FitResult) -> None:
    """There is nothing left to take up; note what training came to."""
    note = from_json((folder / NOTE).read_bytes(), str(folder / NOTE))
    assert isinstance(note, dict)
    came_to = {name: value for name, value in asdict(fitted).items() if name != "checkpoint"}
    write_file(folder / FINISHED, to_json({**note, "fitted": came_to}))
    (folder / NOTE).unlink()


def finished(family: Path, mine: Origin, dataset_sha256: Callable[[], str]) -> tuple[Path, FitResult] | None:
    """The newest finished folder in `family` of the same origin and data, with what its training came to."""
    for folder in sorted(family.glob("version_*"), key=_number, reverse=True):
        best = folder / "checkpoints" / "best.ckpt"
        if best.is_file() and (note := _note(folder / FINISHED, mine, dataset_sha256)) is not None:
            return folder, FitResult(checkpoint=best, **note["fitted"])
    return None


def _note(path: Path, mine: Origin, dataset_sha256: Callable[[], str]) -> dict[str, Any] | None:
    """What is noted of a folder, None where that is of another origin or of other data."""
    try:
        note = from_json(path.read_bytes(), str(path))
    except (IntegrityError, FileNotFoundError):  # damaged, or finished a moment ago
        return None
    here = {**mine, "folder": os.path.realpath(path.parent)}  # Lightning forgets the best value of one that was moved
    if not isinstance(note, dict) or {key: note.get(key) for key in here} != here:
        return None
    return note if note.get("dataset_sha256") == dataset_sha256() else None


def _may_be_taken_up(folder: Path, mine: Origin, dataset_sha256: Callable[[], str]) -> bool:
    if last_checkpoint(folder) is None or _note(folder / NOTE, mine, dataset_sha256) is None:
        return False
    try:
        read_checkpoint(folder / "checkpoints" / "last.ckpt")
    except IntegrityError:
        return False
    return True


def _number(folder: Path) -> int:
    number = folder.name.removeprefix("version_")
    return int(number) if number.isdigit() else -1


class Stopwatch(Callback):
    """Seconds of training; they are in every checkpoint, so that the parts of a run add up.

    earlier: of the parts before this one, up to the checkpoint that they were taken up from.
    """

    def __init__(self) -> None:
        self.earlier = 0.0
        self.started = time.perf_counter()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.started = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.earlier + time.perf_counter() - self.started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.earlier = state_dict["seconds"]


def whole_log(log: Path) -> Path:
    """The training curve of all parts of a run: `log`, the CSV of the last one, or one file made of theirs.

    Every part has a folder beside that of `log`. Of an epoch that was done again the last time counts.
    """
    logs = [path for path in log.parent.parent.glob("version_*/metrics.csv") if path.is_file()]
    parts = [_rows(path) for path in sorted(logs, key=lambda path: _number(path.parent))]
    if len(parts) < 2:
        return logs[0] if logs else log
    rows: list[dict[str, str]] = []
    for part in parts:
        first = min((int(row["epoch"]) for row in part), default=None)
        rows = [row for row in rows if first is None or int(row["epoch"]) < first] + part
    return _written(rows, log.parent.parent / "metrics.csv")


def _rows(log: Path) -> list[dict[str, str]]:
    with open(log, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _written(rows: list[dict[str, str]], path: Path) -> Path:
    text = io.StringIO()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue().encode())
    return path
