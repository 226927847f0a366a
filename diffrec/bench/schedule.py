"""What is left of a suite, what it is likely to cost, and how it is told; who runs it is an `Executor`."""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from diffrec.bench.leaderboard import Statistic
from diffrec.bench.render import accuracy, duration
from diffrec.bench.result import Result, read_result
from diffrec.bench.suite import Cell
from diffrec.errors import IntegrityError
from diffrec.paths import resource_dir


@dataclass(frozen=True)
class Folders:
    """results: one JSON a cell; runs: checkpoints, logs, and `failures.log`."""

    results: Path
    runs: Path

    @property
    def failures(self) -> Path:
        """Where tracebacks are kept."""
        return self.runs / "failures.log"

    def lock(self, cell: Cell) -> Path:
        """What a process holds while it runs the cell; short, whatever the names."""
        return self.results / f".{hashlib.sha256(str(cell.path).encode()).hexdigest()[:16]}.lock"

    def log(self, cell: Cell) -> Path:
        """What the worker of a cell writes to stdout and stderr."""
        return self.runs / cell.path.with_suffix("") / "log.txt"


@dataclass(frozen=True)
class Task:
    """A cell that is to run. seen: the `stamp` of its result when that was decided."""

    cell: Cell
    seen: str | None


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: a new result, one that was there already (`reused`), or an error."""

    cell: Cell
    result: Result | None
    reused: bool = False
    error: str | None = None


@runtime_checkable
class Executor(Protocol):
    """Runs tasks and yields an outcome for each, in the order in which they end.

    lanes: how many run at a time. Whatever ends the iteration early stops what still runs.
    """

    @property
    def lanes(self) -> int: ...
    def run(self, tasks: Sequence[Task], board: Board) -> Generator[Outcome, None, None]: ...


def stamp(path: Path) -> str | None:
    """Changes whenever the file is written anew; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return f"{status.st_ino} {status.st_mtime_ns} {status.st_size}"


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Costs:
    """Seconds that a model took on a dataset: in cells of this command, else in stored results, else in shipped ones.

    Stored are the seconds of training and test alone, of whatever machine and suite.
    """

    def __init__(self, results: Path) -> None:
        self.results = results
        self.stored: dict[tuple[str, str], list[float]] = {}
        self.here: dict[tuple[str, str], list[float]] = {}

    def of(self, cell: Cell) -> float | None:
        """The mean; None where nothing is known."""
        key = (cell.dataset.name, cell.model.name)
        if key not in self.stored:
            shipped = resource_dir("benchmarks") / "results"
            self.stored[key] = list(_seconds(self.results, *key)) or list(_seconds(shipped, *key))
        known = self.here.get(key) or self.stored[key]
        return statistics.fmean(known) if known else None

    def add(self, cell: Cell, seconds: float) -> None:
        """Learn from a cell that has ended."""
        self.here.setdefault((cell.dataset.name, cell.model.name), []).append(seconds)


def _seconds(results: Path, dataset: str, model: str) -> Iterable[float]:
    for path in sorted(results.glob(f"*/{dataset}/{model}/seed*.json")):
        with suppress(IntegrityError):  # the plan names the file, where it belongs to the suite
            result = read_result(path)
            yield result.train_seconds + result.evaluate_seconds


@dataclass(frozen=True)
class Estimate:
    """Of some cells: the seconds that are known, one cell after another, and how many nothing is known about."""

    seconds: float
    known: int
    unknown: int

    def over(self, lanes: int) -> str:
        """`about 2 min`, shared out over so many lanes."""
        if not self.known:
            return "time unknown"
        more = f" and {self.unknown} of unknown time" if self.unknown else ""
        return f"about {duration(self.seconds / max(1, min(lanes, self.known + self.unknown)))}{more}"


def estimate(seconds: Iterable[float | None]) -> Estimate:
    """The sum, and the number of those that are not known."""
    seconds = list(seconds)
    known = [value for value in seconds if value is not None]
    return Estimate(sum(known, 0.0), len(known), len(seconds) - len(known))


class Board:
    """Tells of every cell when it starts and how it ended, and how long the rest may take.

    cells: all, in order, each with the reason why it runs again or an empty text; tasks: those that run.
    """

    def __init__(
        self, cells: Mapping[Cell, str], tasks: Sequence[Task], costs: Costs, report: Callable[[str], None]
    ) -> None:
        self.places = {cell: f"[{number}/{len(cells)}] {cell}" for number, cell in enumerate(cells, start=1)}
        self.reasons, self.costs, self.report = cells, costs, report
        self.left = dict.fromkeys(task.cell for task in tasks)
        self.since: dict[Cell, float] = {}

    def starts(self, cell: Cell) -> None:
        """Before a cell runs."""
        self.since[cell] = time.monotonic()
        again = f" again, {self.reasons[cell]}" if self.reasons[cell] else ""
        self.report(f"{self.places[cell]}{again} ...")

    def waits(self, cell: Cell, who: str) -> None:
        """Somebody else runs it."""
        self.since.pop(cell, None)
        self.report(f"{self.places[cell]}: {who} is at it; its result is waited for")

    def ends(self, outcome: Outcome, lanes: int = 1) -> None:
        """After a cell, whether it ran or not; lanes: how many run at a time."""
        was_due = outcome.cell in self.left
        self.left.pop(outcome.cell, None)
        began = self.since.pop(outcome.cell, None)
        if began is not None and outcome.result is not None and not outcome.reused:
            self.costs.add(outcome.cell, time.monotonic() - began)
        rest = self.rest(lanes) if was_due else ""
        self.report(f"{self.places[outcome.cell]}: {summary(outcome)}{rest}")

    def rest(self, lanes: int) -> str:
        """`; 3 left, about 2 min`; empty at the end."""
        if not self.left:
            return ""
        return f"; {len(self.left)} left, {estimate(map(self._remaining, self.left)).over(lanes)}"

    def _remaining(self, cell: Cell) -> float | None:
        seconds = self.costs.of(cell)
        if seconds is None or cell not in self.since:
            return seconds
        return max(0.0, seconds - (time.monotonic() - self.since[cell]))


def summary(outcome: Outcome) -> str:
    """The headline metric, or what went wrong."""
    if outcome.result is None:
        return f"FAILED: {outcome.error}"
    result = outcome.result
    value = accuracy(Statistic(result.metrics[result.headline], None))
    return f"{result.headline} {value}" + (
        ", result was there" if outcome.reused else f", trained in {duration(result.train_seconds)}"
    )
