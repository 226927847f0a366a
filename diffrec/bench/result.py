"""The result record: one JSON file for each (suite, dataset, model, seed), with everything it rests on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from diffrec.bench.strict import parse
from diffrec.errors import IntegrityError
from diffrec.files import write_file
from diffrec.strict_json import from_json

SCHEMA_VERSION = 1
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")  # of suites, datasets and models: they become folders
MAY_EXCEED_ONE = ("recall_capped", "ndcg")  # where true items tie with one another, see metrics/functional.py
TIMINGS = ("evaluate_seconds", "ms_per_user", "peak_memory_mib", "train_seconds")

Role = Literal["model", "control", "training-free"]
Tree = dict[str, Any]  # of JSON values


@dataclass(frozen=True)
class Selection:
    """Which epoch was kept (1 is the first), and the validation value that chose it."""

    metric: str
    value: float
    epoch: int


@dataclass(frozen=True)
class Bounds:
    """The headline metric with every tie counted for (`optimistic`) and against (`pessimistic`) the model."""

    optimistic: float
    pessimistic: float


@dataclass(frozen=True)
class Result:
    """One run: trained, selected on validation, tested once.

    headline: the metric that ranks under the protocol; metrics, validation: mean over users, ties by
    mean rank, in 0..1 but for MAY_EXCEED_ONE; beyond_accuracy: coverage, novelty and the like of the test
    lists; config_sha256: of everything in `config` but the seed; denoiser_calls: network evaluations per
    request; ms_per_user: by batch size, median of several requests for ten items; peak_memory_mib: of the
    process (of the accelerator, where one is used) during the run, 0 where the system does not count it.

    Only the fields in `TIMINGS` differ between two runs of the same code on the same machine.
    """

    suite: str
    suite_version: int
    dataset: str
    dataset_sha256: str
    split_counts: dict[str, int]
    protocol: str
    headline: str
    model: str
    role: Role
    control_of: str | None
    seed: int
    config: Tree
    config_sha256: str
    code_version: str
    packages: dict[str, str]
    selection: Selection
    metrics: dict[str, float]
    bounds: Bounds
    validation: dict[str, float]
    beyond_accuracy: dict[str, float]
    parameters: int
    denoiser_calls: int
    epochs: int
    train_seconds: float
    evaluate_seconds: float
    ms_per_user: dict[str, float]
    peak_memory_mib: float
    device: str
    threads: int

    @property
    def repeatable(self) -> bool:
        """Whether `code_version` says which code ran: no uncommitted change, no revision that is unknown."""
        return not self.code_version.endswith((".dirty", "+unknown"))

    @property
    def path(self) -> PurePosixPath:
        """Where it lies below the results folder."""
        return result_path(self.suite, self.dataset, self.model, self.seed)


def result_path(suite: str, dataset: str, model: str, seed: int) -> PurePosixPath:
    """Where a result lies below the results folder."""
    return PurePosixPath(suite, dataset, model, f"seed{seed}.json")


def write_result(result: Result, folder: Path) -> Path:
    """Write the record below `folder`; the file appears whole or not at all. Returns its path.

    Raises IntegrityError for what `read_result` would refuse.
    """
    path, tree = folder / result.path, asdict(result)
    _check(parse(tree, Result, str(path), IntegrityError), path)
    record = {"schema_version": SCHEMA_VERSION, **tree}
    record["record_sha256"] = sha256_of(record)
    write_file(path, (json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())
    return path


def read_result(path: Path) -> Result:
    """Read one record; IntegrityError names the file and the first thing that is wrong with it."""
    record = from_json(path.read_bytes(), str(path))
    if not isinstance(record, dict):
        raise IntegrityError(f"{path} is not a result record but a JSON {type(record).__name__}")
    version = record.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise IntegrityError(f"{path} has schema_version {version!r}; this diffrec reads {SCHEMA_VERSION}")
    checksum = record.pop("record_sha256", None)
    result = parse(record, Result, str(path), IntegrityError)
    if checksum != sha256_of({"schema_version": version, **record}):
        raise IntegrityError(f"{path} was changed after it was written: its record_sha256 does not match")
    _check(result, path)
    return result


def read_results(folder: Path) -> list[Result]:
    """All records below `folder`, in the order of their paths; each must lie where its fields say."""
    results = []
    for path in sorted(folder.glob("*/*/*/seed*.json")):
        result = read_result(path)
        if path.relative_to(folder).as_posix() != str(result.path):
            raise IntegrityError(f"{path} holds the result that belongs at {result.path}")
        results.append(result)
    return results


def sha256_of(tree: Mapping[str, Any]) -> str:
    """Hash of a JSON tree, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _check(result: Result, path: Path) -> None:
    """What types cannot say."""
    for name in (result.suite, result.dataset, result.model):
        if not NAME.fullmatch(name):
            raise IntegrityError(f"{path}: the name {name[:60]!r} must be made of a-z, 0-9, '.', '_' and '-'")
    measured = [*result.metrics.items(), *result.validation.items()]
    if wrong := [name for name, value in measured if value < 0 or (value > 1 and not _may_exceed_one(name))]:
        raise IntegrityError(
            f"{path}: metrics lie in 0..1 ({' and '.join(MAY_EXCEED_ONE)} may be larger), but not {', '.join(wrong)}"
        )
    if result.headline not in result.metrics:
        raise IntegrityError(f"{path} has no value for its headline metric {result.headline}")
    if not result.bounds.pessimistic <= result.metrics[result.headline] <= result.bounds.optimistic:
        raise IntegrityError(f"{path}: {result.headline} lies outside its own bounds")
    if (result.control_of is not None) != (result.role == "control"):
        raise IntegrityError(f"{path}: role {result.role!r} does not go with control_of {result.control_of!r}")


def _may_exceed_one(name: str) -> bool:
    return name.partition("@")[0] in MAY_EXCEED_ONE
