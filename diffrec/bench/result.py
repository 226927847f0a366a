"""The result record: one JSON file for each (suite, dataset, model, seed), with everything it rests on.

Beside it lies the rank of every true item (`ranks`), which the record names by its hash.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from statistics import fmean
from typing import Any, Literal

from diffrec.bench.strict import json_schema, parse
from diffrec.errors import IntegrityError
from diffrec.files import write_file
from diffrec.strict_json import from_json

SCHEMA_VERSION = 2
_ROUNDING = 1e-12  # of a mean of numbers up to 1
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")  # of suites, datasets and models: they become folders
MAY_EXCEED_ONE = ("recall_capped", "ndcg")  # where true items tie with one another, see metrics/functional.py
_LATER = ("decoding", "rests_on")  # fields that records from before do not have
BEAM_SHARES = ("invalid", "repeated", "lost", "shared")
TIMINGS = ("evaluate_seconds", "ms_per_user", "peak_memory_mib", "train_seconds")

Role = Literal["model", "control", "training-free"]
Status = Literal["source", "log", "secondary", "measured"]
Tree = dict[str, Any]  # of JSON values


@dataclass(frozen=True)
class Selection:
    """Which epoch was kept (1 is the first), the validation value that chose it, and how the model samples.

    num_inference_steps, guidance_scale: None for a model that does not iterate, or has no guidance.
    """

    metric: str
    value: float
    epoch: int
    num_inference_steps: int | None
    guidance_scale: float | None


@dataclass(frozen=True)
class Bounds:
    """The headline metric with every tie counted for (`optimistic`) and against (`pessimistic`) the model."""

    optimistic: float
    pessimistic: float


@dataclass(frozen=True)
class Reported:
    """A number that a paper gives for this row, with where it stands and how far it can be trusted.

    status: `source` (paper or official table read), `log` (a training log of the official code), `secondary`
    (somebody else's run), `measured` (official code run on this file).
    """

    metric: str
    value: float
    status: Status
    source: str


@dataclass(frozen=True)
class Beams:
    """What the beams of a model over semantic IDs ended at, over all test requests and draws.

    num_beams: kept from code to code; constrained: only tuples of items are written, so that `invalid` is 0 by
    construction. Shares of all beams that were asked for: invalid, at a tuple that no item has, which is taken for the
    nearest; repeated, at the tuple of a better beam; lost, where fewer tuples went on than there are beams; shared,
    at a tuple that several items have. short: by cutoff, the share of the lists that hold fewer items from beams than
    that, for the places behind them are misses.
    """

    num_beams: int
    constrained: bool
    invalid: float
    repeated: float
    lost: float
    shared: float
    short: dict[str, float]


@dataclass(frozen=True)
class Decoding:
    """How a model over semantic IDs came to its lists.

    colliding: share of the items that share their tuple with another; beams: None where every item is scored.
    """

    colliding: float
    beams: Beams | None


@dataclass(frozen=True)
class RestsOn:
    """What a run was given besides its dataset, each by its sha256.

    items: the ids of the items in the order of their numbers; split: the training, validation and test parts as the
    protocol made them (`Split.sha256`); read: by the key of the configuration that names it, as `model.item_vectors`,
    the tensors of item vectors or codes, or the weights of a model that was learnt from.
    """

    items: str
    split: str
    read: dict[str, str]


@dataclass(frozen=True)
class Result:
    """One run: trained, selected on validation, tested once.

    headline: the metric that ranks under the protocol; metrics, validation: mean over users, ties by
    mean rank, in 0..1 but for MAY_EXCEED_ONE; draw_metrics: `metrics` is the mean of these, one for each draw
    of the sampling noise, a single one where lists do not depend on noise; bounds and beyond_accuracy (coverage,
    novelty and the like of the test lists) are means over draws too; ranks_sha256: of the file of ranks, None
    in records from before there was one; weights_sha256: of the selected weights (`provenance.weights_sha256`).

    config_sha256: of everything in `config` but the seed; deviations: from the original, as the file of the model
    lists them; tuning_trials: how many settings were tried on validation to choose this one; reported: what papers
    say. denoiser_calls: network evaluations per request; ms_per_user: by batch size, median of several requests
    for ten items; peak_memory_mib: of the process (of the accelerator, where one is used) during the run, 0 where
    the system does not count it; processor: the model of the CPU, empty where the system does not tell.
    decoding: of models over semantic IDs, None for all others and in records from before it was counted; rests_on: None
    in records from before it was kept.

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
    draw_metrics: tuple[dict[str, float], ...]
    bounds: Bounds
    ranks_sha256: str | None
    weights_sha256: str | None
    deviations: tuple[str, ...]
    tuning_trials: int
    reported: tuple[Reported, ...]
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
    processor: str
    threads: int
    decoding: Decoding | None = None
    rests_on: RestsOn | None = None

    @property
    def num_beams(self) -> int | None:
        """How many beams wrote the lists, None where every item is scored; without `decoding` as configured."""
        if self.decoding is not None:
            return None if self.decoding.beams is None else self.decoding.beams.num_beams
        stated: Tree = {}
        for part in (self.config.get("model"), self.config.get("decoding")):
            given = part.get("init_args", part) if isinstance(part, dict) else {}
            stated |= given if isinstance(given, dict) else {}
        beams = stated.get("num_beams")
        return beams if type(beams) is int and not stated.get("exact") else None

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


def ranks_path(record: Path) -> Path:
    """The file of ranks beside a record."""
    return record.with_suffix(".ranks.parquet")


def write_result(result: Result, ranks: bytes, folder: Path) -> Path:
    """Write the record and its ranks below `folder`; each file appears whole or not at all. Returns the record's path.

    ranks: as of `ranks.to_parquet`; their hash is put into the record. Raises IntegrityError for what `read_result`
    would refuse.
    """
    path = folder / result.path
    result = replace(result, ranks_sha256=hashlib.sha256(ranks).hexdigest())
    tree = as_json(result)
    _check(parse(tree, Result, str(path), IntegrityError), path)
    record = {"schema_version": SCHEMA_VERSION, **tree}
    record["record_sha256"] = sha256_of(record)
    write_file(ranks_path(path), ranks)  # first, for the record is what says that the cell is finished
    write_file(path, (json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())
    return path


def as_json(result: Result) -> Tree:
    """The fields of a result as a JSON tree; `_LATER` ones where they are known, so others stay as they were."""
    tree = json.loads(json.dumps(asdict(result)))
    return {name: value for name, value in tree.items() if name not in _LATER or value is not None}


def read_result(path: Path) -> Result:
    """Read one record; IntegrityError names the file and the first thing that is wrong with it."""
    record = from_json(path.read_bytes(), str(path))
    if not isinstance(record, dict):
        raise IntegrityError(f"{path} is not a result record but a JSON {type(record).__name__}")
    version = record.pop("schema_version", None)
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise IntegrityError(f"{path} has schema_version {version!r}; this diffrec reads 1 to {SCHEMA_VERSION}")
    checksum = record.pop("record_sha256", None)
    result = parse(_upgraded(record, version), Result, str(path), IntegrityError)
    if checksum != sha256_of({"schema_version": version, **record}):
        raise IntegrityError(f"{path} was changed after it was written: its record_sha256 does not match")
    _check(result, path)
    return result


def _upgraded(record: Tree, version: int) -> Tree:
    """A record of an earlier version as one of today's; what was not written down is empty."""
    if version == SCHEMA_VERSION or not isinstance(record.get("selection"), dict):
        return record
    added = {"ranks_sha256": None, "weights_sha256": None, "deviations": [], "tuning_trials": 0, "reported": []}
    selection = {**record["selection"], "num_inference_steps": None, "guidance_scale": None}
    return {**record, **added, "selection": selection, "draw_metrics": [record.get("metrics")], "processor": ""}


def schema() -> Tree:
    """The JSON Schema of a record, as `benchmarks/result.schema.json` ships it."""
    tree = json_schema(Result)
    seals = {"schema_version": {"const": SCHEMA_VERSION}, "record_sha256": {"type": "string"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A result of the diffrec benchmark",
        **tree,
        "properties": {**seals, **tree["properties"]},
        "required": [*seals, *tree["required"]],
    }


def result_files(folder: Path) -> list[Path]:
    """The records below `folder`: `<suite>/<dataset>/<model>/seed<k>.json`."""
    return sorted(folder.glob("*/*/*/seed*.json"))


def read_results(folder: Path, files: Sequence[Path] | None = None) -> list[Result]:
    """All records below `folder`, or these, in the order of their paths; each must lie where its fields say."""
    results = []
    for path in result_files(folder) if files is None else files:
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
    if not result.draw_metrics or any(draw.keys() != result.metrics.keys() for draw in result.draw_metrics):
        raise IntegrityError(f"{path}: draw_metrics must hold the metrics of one draw at least")
    for name, value in result.metrics.items():
        if abs(value - fmean(draw[name] for draw in result.draw_metrics)) > _ROUNDING:
            raise IntegrityError(f"{path}: {name} is not the mean of its draws")
    if not result.bounds.pessimistic <= result.metrics[result.headline] <= result.bounds.optimistic:
        raise IntegrityError(f"{path}: {result.headline} lies outside its own bounds")
    if result.decoding is not None:
        beams = result.decoding.beams
        shares = [*(getattr(beams, name) for name in BEAM_SHARES), *beams.short.values()] if beams else []
        if not all(0 <= share <= 1 for share in (result.decoding.colliding, *shares)):
            raise IntegrityError(f"{path}: the shares of decoding must lie in 0..1")
    if (result.control_of is not None) != (result.role == "control"):
        raise IntegrityError(f"{path}: role {result.role!r} does not go with control_of {result.control_of!r}")


def _may_exceed_one(name: str) -> bool:
    return name.partition("@")[0] in MAY_EXCEED_ONE
