"""Runs the cells of a suite: build, fit, select on validation, test once, write the record."""

from __future__ import annotations

import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers import CSVLogger

from diffrec.bench.evaluate import evaluate
from diffrec.bench.leaderboard import Statistic
from diffrec.bench.provenance import PeakMemory, code_version, device_name, packages, split_counts
from diffrec.bench.render import accuracy, duration
from diffrec.bench.result import Bounds, Result, Role, Selection, read_result, sha256_of, write_result
from diffrec.bench.suite import Cell, Suite, SuiteDataset, SuiteModel
from diffrec.data.datamodule import EvaluationBatches
from diffrec.data.dataset import Dataset
from diffrec.data.sources import load_dataset
from diffrec.errors import DiffrecError, IntegrityError, UsageError
from diffrec.paths import naming
from diffrec.recommender import ClosedFormRecommender, Recommender, count_parameters
from diffrec.training.build import Run, build, new_run_dir
from diffrec.training.config import compose
from diffrec.training.fit import FitResult, fit, monitored

REQUESTS, BATCHES = 15, 3  # how many are timed, after one that is not
Progress = Callable[[str], Callback]


@dataclass(frozen=True)
class Outdated:
    """A result that is there but would not be the same today; reason: `dataset changed` and the like."""

    reason: str

    def __str__(self) -> str:
        return f"would run again, {self.reason}"


Planned = Result | Outdated | DiffrecError | None


@dataclass(frozen=True)
class Trained:
    """A finished cell. model: with the selected weights; log: the CSV of its training curve."""

    cell: Cell
    result: Result
    model: Recommender
    dataset: Dataset
    log: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: a new result, one that was there already (`reused`), or an error."""

    cell: Cell
    result: Result | None
    reused: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Folders:
    """results: one JSON a cell; runs: checkpoints, logs, and `failures.log`."""

    results: Path
    runs: Path

    @property
    def failures(self) -> Path:
        """Where tracebacks are kept."""
        return self.runs / "failures.log"


def overrides(cell: Cell) -> list[str]:
    """The words that a cell puts over its configurations; dataset, protocol and seed are the suite's."""
    return [
        *cell.model.overrides,
        f"--data.dataset={cell.dataset.name}",
        f"--data.protocol={cell.dataset.protocol}",
        f"--seed_everything={cell.seed}",
        f"--data.seed={cell.seed}",
    ]


def config_sha256(config: dict[str, object]) -> str:
    """Hash of everything but the seeds, so that the runs of a row share it."""
    data = config["data"]
    assert isinstance(data, dict)
    without_seeds = {key: value for key, value in config.items() if key != "seed_everything"}
    return sha256_of({**without_seeds, "data": {key: value for key, value in data.items() if key != "seed"}})


def plan(suite: Suite, results: Path) -> dict[Cell, Planned]:
    """Every cell with its result, None where there is none.

    A DiffrecError stands for a damaged file, or for a dataset that cannot be compared with the one of the
    result. Raises UsageError where a cell's configuration is wrong, so that a mistake in the last one is
    found before the first one runs.
    """
    dataset_sha256 = cache(lambda name: load_dataset(name).sha256)  # once a dataset, and only beside a result
    planned: dict[Cell, Planned] = {}
    expected: dict[tuple[SuiteDataset, SuiteModel], str] = {}
    for cell in suite.cells():
        row = (cell.dataset, cell.model)
        if row not in expected:  # the seeds of a row share it
            expected[row] = config_sha256(compose(cell.model.configs, overrides(cell)))
        planned[cell] = _stored(cell, results / cell.path, expected[row], dataset_sha256)
    return planned


def _stored(cell: Cell, path: Path, config: str, dataset_sha256: Callable[[str], str]) -> Planned:
    if not path.exists():
        return None
    try:
        result = read_result(path)
    except IntegrityError as error:
        return IntegrityError(f"{error}; --force measures it again")
    if result.config_sha256 != config:
        return Outdated("configuration changed")
    if result.suite_version != cell.suite_version:
        return Outdated("suite version changed")
    if result.control_of != cell.model.control_of:
        return Outdated("control changed")
    try:
        return result if result.dataset_sha256 == dataset_sha256(cell.dataset.name) else Outdated("dataset changed")
    except DiffrecError as error:
        return type(error)(f"{path} cannot be compared with its dataset: {error}")


def run_suite(
    suite: Suite,
    folders: Folders,
    *,
    force: Callable[[Cell], bool] = lambda cell: False,
    report: Callable[[str], None] = lambda line: None,
    progress: Progress | None = None,
    keep: Callable[[Trained], None] = lambda trained: None,
) -> list[Outcome]:
    """Run every cell that has no result of today's suite and data, one after another.

    A cell that fails is recorded and passed over.
    force: cells that run although they have a result; report: gets a line before and after each cell;
    progress: monitored metric -> callback that shows training; keep: gets each trained model, after its
    result is written. Raises UsageError where a configuration is wrong, before anything runs.
    """
    planned = plan(suite, folders.results)
    outcomes = []
    for number, (cell, there) in enumerate(planned.items(), start=1):
        place = f"[{number}/{len(planned)}] {cell}"
        if force(cell) or there is None or isinstance(there, Outdated):
            report(f"{place} again, {there.reason} ..." if isinstance(there, Outdated) else f"{place} ...")
            outcome = _attempt(cell, folders, progress, keep)
        elif isinstance(there, Result):
            outcome = Outcome(cell, there, reused=True)
        else:
            outcome = Outcome(cell, None, error=str(there))
        report(f"{place}: {_summary(outcome)}")
        outcomes.append(outcome)
    return outcomes


def _attempt(cell: Cell, folders: Folders, progress: Progress | None, keep: Callable[[Trained], None]) -> Outcome:
    try:
        trained = run_cell(cell, folders.runs, progress)
        write_result(trained.result, folders.results)
        keep(trained)
        return Outcome(cell, trained.result)
    except Exception as error:
        folders.runs.mkdir(parents=True, exist_ok=True)
        with naming(folders.failures), open(folders.failures, "a", encoding="utf-8") as log:
            log.write(f"{cell.suite} {cell}\n{traceback.format_exc()}\n")
        kind = "" if isinstance(error, DiffrecError) else f"{type(error).__name__}: "
        return Outcome(cell, None, error=kind + str(error).strip().partition("\n")[0])


def _summary(outcome: Outcome) -> str:
    if outcome.result is None:
        return f"FAILED: {outcome.error}"
    result = outcome.result
    value = accuracy(Statistic(result.metrics[result.headline], None))
    return f"{result.headline} {value}" + (
        ", result was there" if outcome.reused else f", trained in {duration(result.train_seconds)}"
    )


def run_cell(cell: Cell, runs: Path, progress: Progress | None = None) -> Trained:
    """Train one cell, select on validation, test once. Writes checkpoints and logs below `runs`, no result."""
    torch.manual_seed(cell.seed)
    run = build(cell.model.configs, overrides(cell), new_run_dir(runs / cell.path.with_suffix("")))
    if progress is not None:
        run.trainer.callbacks.append(progress(monitored(run)))  # pyright: ignore[reportAttributeAccessIssue]
    device = run.trainer.strategy.root_device
    memory = PeakMemory(device)
    fitted = fit(run)
    run.model.to(device).eval()
    result = _measure(cell, run, fitted, memory)
    log = next(logger for logger in run.trainer.loggers if isinstance(logger, CSVLogger)).log_dir
    return Trained(cell, result, run.model, run.data.dataset, Path(log) / "metrics.csv")


def _measure(cell: Cell, run: Run, fitted: FitResult, memory: PeakMemory) -> Result:
    if fitted.best is None:
        raise UsageError(f"no epoch of {cell} was validated; lower trainer.check_val_every_n_epoch")
    model, protocol, split = run.model, run.data.protocol, run.data.split
    size, counts = run.data.eval_batch_size, np.bincount(split.train.values, minlength=model.num_items + 1)[1:]
    valid = evaluate(model, split.valid, protocol.cutoffs, batch_size=size, seed=cell.seed)
    test = evaluate(model, split.test, protocol.cutoffs, batch_size=size, seed=cell.seed, item_counts=counts)
    return Result(
        suite=cell.suite,
        suite_version=cell.suite_version,
        dataset=cell.dataset.name,
        dataset_sha256=run.data.dataset.sha256,
        split_counts=split_counts(run.data.dataset, split),
        protocol=protocol.id,
        headline=protocol.headline,
        model=cell.model.name,
        role=_role(cell, model),
        control_of=cell.model.control_of,
        seed=cell.seed,
        config=run.config,
        config_sha256=config_sha256(run.config),
        code_version=code_version(),
        packages=packages(),
        selection=Selection(fitted.metric.removeprefix("valid/"), fitted.best, fitted.epoch),
        metrics=dict(test.metrics),
        bounds=Bounds(test.optimistic[protocol.headline], test.pessimistic[protocol.headline]),
        validation=dict(valid.metrics),
        beyond_accuracy=dict(test.beyond_accuracy),
        parameters=count_parameters(model),
        denoiser_calls=model.denoiser_calls,
        epochs=fitted.epochs,
        train_seconds=fitted.seconds,
        evaluate_seconds=test.seconds,
        ms_per_user=_latency(run),
        peak_memory_mib=memory.mebibytes(),
        device=device_name(model.device),
        threads=torch.get_num_threads(),
    )


def _role(cell: Cell, model: Recommender) -> Role:
    if cell.model.control_of is not None:
        return "control"
    return "training-free" if isinstance(model, ClosedFormRecommender) else "model"


def _latency(run: Run) -> dict[str, float]:
    """Milliseconds per user for ten items, for one user at a time and for a whole batch; medians."""
    one = EvaluationBatches(run.data.split.test, 1, run.model.max_history_length)
    spread = np.linspace(0, len(one) - 1, min(REQUESTS, len(one))).astype(int).tolist()
    many = EvaluationBatches(run.data.split.test, run.data.eval_batch_size, run.model.max_history_length)
    middle = (len(many) - 1) // 2  # the first batch has the longest histories
    return {
        "1": statistics.median(_timed(run.model, one, [spread[0], *spread])[1:]),
        str(len(many.rows(middle))): statistics.median(_timed(run.model, many, [middle] * (BATCHES + 1))[1:]),
    }


def _timed(model: Recommender, batches: EvaluationBatches, numbers: list[int]) -> list[float]:
    """Milliseconds per user of each of the batches."""
    times = []
    for number in numbers:
        history = batches[number].history
        start = time.perf_counter()
        model.recommend(history, k=10).items.cpu()
        times.append(1000 * (time.perf_counter() - start) / len(history))
    return times
