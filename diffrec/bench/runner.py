"""Runs the cells of a suite: build, fit, select on validation, test once, write the record."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger

from diffrec.bench import unfinished
from diffrec.bench.lock import holding, owner
from diffrec.bench.measure import measure
from diffrec.bench.ranks import UserRanks, to_parquet
from diffrec.bench.result import Result, read_result, write_result
from diffrec.bench.same_settings import same_settings
from diffrec.bench.schedule import Board, Costs, Executor, Folders, Outcome, Task, stamp
from diffrec.bench.suite import Cell, Suite, SuiteDataset, SuiteModel, training_free
from diffrec.bench.training import Progress, training
from diffrec.data.dataset import Dataset
from diffrec.data.protocol import get_protocol
from diffrec.data.sources import load_dataset
from diffrec.errors import DiffrecError, IntegrityError
from diffrec.paths import naming
from diffrec.recommender import Recommender
from diffrec.training.build import decoded
from diffrec.training.config import compose
from diffrec.training.fit import FitResult


@dataclass(frozen=True)
class Outdated:
    """A result that is there but would not be the same today; reason: `dataset changed` and the like."""

    reason: str

    def __str__(self) -> str:
        return f"would run again, {self.reason}"


Planned = Result | Outdated | DiffrecError | None


@dataclass(frozen=True)
class Trained:
    """A finished cell. ranks: of its test; model: with the selected weights; log: the CSV of its training curve."""

    cell: Cell
    result: Result
    ranks: UserRanks
    model: Recommender
    dataset: Dataset
    log: Path


def overrides(cell: Cell) -> list[str]:
    """The words that a cell puts over its configurations; dataset, protocol and seed are the suite's."""
    return [
        *cell.model.overrides_on(cell.dataset.name),
        f"--data.dataset={cell.dataset.name}",
        f"--data.protocol={cell.dataset.protocol}",
        f"--seed_everything={cell.seed}",
        f"--data.seed={cell.seed}",
    ]


def plan(suite: Suite, results: Path) -> dict[Cell, Planned]:
    """Every cell with its result, None where there is none.

    A DiffrecError stands for a damaged file, or for a dataset that cannot be compared with the one of the
    result. Raises UsageError where a cell's configuration is wrong, so that a mistake in the last one is
    found before the first one runs.
    """
    dataset_sha256 = cache(lambda name: load_dataset(name).sha256)  # once a dataset, and only beside a result
    planned: dict[Cell, Planned] = {}
    expected: dict[tuple[SuiteDataset, SuiteModel], dict[str, object]] = {}
    for cell in suite.cells():
        row = (cell.dataset, cell.model)
        if row not in expected:  # the seeds of a row share it
            expected[row] = compose(cell.model.configs, overrides(cell))
        planned[cell] = _stored(cell, results / cell.path, expected[row], dataset_sha256)
    return planned


def _stored(cell: Cell, path: Path, config: Mapping[str, object], dataset_sha256: Callable[[str], str]) -> Planned:
    if not path.exists():
        return None
    try:
        result = read_result(path)
    except IntegrityError as error:
        return IntegrityError(f"{error}; --force measures it again")
    if not same_settings(result.config, config):
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
    executor: Executor | None = None,
) -> list[Outcome]:
    """Run every cell that has no result of today's suite and data; the outcomes are in the order of the suite.

    A cell that fails is recorded and passed over; one that was interrupted goes on where it stopped.
    force: cells that run although they have a result; report: gets a line before and after each cell;
    progress: monitored metric -> callback that shows training; keep: gets each trained model, after its
    result is written; executor: who runs the cells, instead of this process one after another, and then it is
    the executor's affair what is shown and kept. Raises UsageError where a configuration is wrong, before
    anything runs; Ctrl-C comes through as KeyboardInterrupt, after a line that says what is finished.
    """
    planned = plan(suite, folders.results)
    tasks = due(planned, folders.results, force)
    executor = executor or InProcess(folders, progress, keep)
    reasons = {cell: there.reason if isinstance(there, Outdated) else "" for cell, there in planned.items()}
    board = Board(reasons, tasks, Costs(folders.results), report)
    outcomes = {cell: _settled(cell, there) for cell, there in planned.items() if cell not in board.left}
    for outcome in outcomes.values():
        board.ends(outcome)
    try:
        with closing(executor.run(tasks, board)) as running:
            for outcome in running:
                outcomes[outcome.cell] = outcome
                board.ends(outcome, executor.lanes)
    except KeyboardInterrupt:
        there = sum(outcome.result is not None for outcome in outcomes.values())
        report(f"stopped: {there} of {len(planned)} cells have a result; the same command goes on from here")
        raise
    return [outcomes[cell] for cell in planned]


def due(planned: Mapping[Cell, Planned], results: Path, force: Callable[[Cell], bool]) -> list[Task]:
    """The cells of a plan that are to run: without a result, with an old one, or forced."""
    cells = [cell for cell, there in planned.items() if there is None or isinstance(there, Outdated) or force(cell)]
    return [Task(cell, stamp(results / cell.path)) for cell in cells]


def _settled(cell: Cell, there: Planned) -> Outcome:
    """Of a cell that is not to run."""
    if isinstance(there, Result):
        return Outcome(cell, there, reused=True)
    return Outcome(cell, None, error=str(there))


@dataclass(frozen=True)
class InProcess:
    """Runs cells in this process, one after another; those that another process is at come last."""

    folders: Folders
    progress: Progress | None = None
    keep: Callable[[Trained], None] = lambda trained: None
    lanes: int = 1

    def run(self, tasks: Sequence[Task], board: Board) -> Generator[Outcome, None, None]:
        """As `Executor.run`."""
        elsewhere = []
        for task in tasks:
            board.starts(task.cell)
            outcome = attempt(task, self.folders, self.progress, self.keep)
            if outcome is None:
                elsewhere.append(task)
                board.waits(task.cell, owner(self.folders.lock(task.cell)))
            else:
                yield outcome
        for task in elsewhere:
            outcome = attempt(task, self.folders, self.progress, self.keep, wait=True)
            assert outcome is not None
            yield outcome


def attempt(
    task: Task,
    folders: Folders,
    progress: Progress | None = None,
    keep: Callable[[Trained], None] = lambda trained: None,
    wait: bool = False,
) -> Outcome | None:
    """Run a cell and write its result; None where another process is at it, unless we `wait` for that to end.

    A result that has come since the task was planned is taken as it is. What goes wrong is in the outcome, with
    the traceback in `folders.failures`.
    """
    cell = task.cell
    try:
        with holding(folders.lock(cell), wait) as mine:
            if not mine:
                return None
            if (there := come_since(task, folders.results)) is not None:
                return Outcome(cell, there, reused=True)
            with _alone(cell, folders):
                trained = run_cell(cell, folders.runs, progress)
            result = read_result(write_result(trained.result, to_parquet(trained.ranks), folders.results))
            keep(replace(trained, result=result))
            return Outcome(cell, result)
    except Exception as error:
        folders.runs.mkdir(parents=True, exist_ok=True)
        with naming(folders.failures), open(folders.failures, "a", encoding="utf-8") as log:
            log.write(f"{cell.suite} {cell}\n{traceback.format_exc()}\n")
        kind = "" if isinstance(error, DiffrecError) else f"{type(error).__name__}: "
        return Outcome(cell, None, error=kind + str(error).strip().partition("\n")[0])


@contextmanager
def _alone(cell: Cell, folders: Folders) -> Iterator[None]:
    """Within the block nobody trains the weights that the cell shares with the row that it is a control of."""
    if not _decodes(cell):
        yield
        return
    with holding(folders.lock(_of_weights(cell)), wait=True):
        yield


def _decodes(cell: Cell) -> bool:
    """Whether it measures the weights of the row that it is a control of, in another way."""
    return "decoding" in compose(cell.model.configs, overrides(cell))


def _of_weights(cell: Cell) -> Cell:
    """The cell whose weights are measured: itself, or of the row that it is a control of."""
    name = cell.model.control_of
    return cell if name is None or not _decodes(cell) else replace(cell, model=replace(cell.model, name=name))


def come_since(task: Task, results: Path) -> Result | None:
    """The valid result of today's suite and data that another process wrote after the task was planned."""
    path = results / task.cell.path
    if stamp(path) == task.seen:
        return None
    config = compose(task.cell.model.configs, overrides(task.cell))
    there = _stored(task.cell, path, config, lambda name: load_dataset(name).sha256)
    return there if isinstance(there, Result) else None


def run_cell(cell: Cell, runs: Path, progress: Progress | None = None) -> Trained:
    """Train one cell, select on validation, test once. Writes checkpoints and logs below `runs`, no result.

    A run of this cell that was interrupted after an epoch is taken up again, where nothing that numbers depend on
    has changed; the result is then that of an uninterrupted run, and its seconds of training are those of both.
    Under a protocol that trains on its validation items, another run comes first and chooses the number of epochs.
    A control that changes `decoding` only measures the weights of the row it is a control of, which are trained where
    `runs` does not have them.
    """
    family, words = runs / _of_weights(cell).path.with_suffix(""), overrides(cell)
    config, chosen = compose(cell.model.configs, words), _chosen(cell, family, progress)
    more = [] if chosen is None else _epochs(chosen.epoch)
    with training(cell.model.configs, [*words, *more], family, cell.seed, progress) as fitted:
        run, selected = fitted.run, fitted.result
        if chosen is not None:
            selected = replace(chosen, seconds=chosen.seconds + selected.seconds, checkpoint=selected.checkpoint)
        run = replace(run, model=decoded(run.model, config))
        result, ranks = measure(cell, run, config, selected, fitted.memory)
    log = next(logger for logger in run.trainer.loggers if isinstance(logger, CSVLogger)).log_dir
    return Trained(cell, result, ranks, run.model, run.data.dataset, unfinished.whole_log(Path(log) / "metrics.csv"))


def _chosen(cell: Cell, family: Path, progress: Progress | None) -> FitResult | None:
    """What the protocol that selects for this one comes to; None where validation is held out of training anyway.

    A closed form has no epochs to choose.
    """
    by = get_protocol(cell.dataset.protocol).selected_by
    if by is None or training_free(cell.model, cell.dataset):
        return None
    words = [*overrides(cell), f"--data.protocol={by}"]
    with training(cell.model.configs, words, family.with_name(f"{family.name}-selection"), cell.seed, progress) as run:
        return run.result


def _epochs(number: int) -> list[str]:
    """So many epochs, without a validation."""
    last = [f"--trainer.max_epochs={number}", f"--trainer.check_val_every_n_epoch={number + 1}"]
    return [*last, "--trainer.limit_val_batches=0"]
