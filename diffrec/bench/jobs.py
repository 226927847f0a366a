"""Cells in worker processes: each in an interpreter of its own, with its threads, its log and a line to its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from diffrec.bench.lock import held, owner
from diffrec.bench.result import read_result
from diffrec.bench.schedule import Board, Folders, Outcome, Task
from diffrec.bench.strict import parse
from diffrec.errors import DiffrecError

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_LOOK_AGAIN = 1.0  # seconds, at a cell that another command runs


@dataclass(frozen=True)
class Order:
    """What a worker is to do. models: where it keeps trained models, for whoever wants them."""

    task: Task
    results: str
    runs: str
    threads: int
    models: str | None

    @property
    def folders(self) -> Folders:
        """Where the worker reads and writes."""
        return Folders(Path(self.results), Path(self.runs))


@dataclass(frozen=True)
class Answer:
    """What became of an order: a new result, one that has come since, an error, or another process at work."""

    state: Literal["done", "there", "failed", "busy"]
    error: str | None = None


Work = Callable[[Order], Answer]


@dataclass(frozen=True)
class Processes:
    """Runs cells in `lanes` worker processes at a time.

    command: starts a worker, which calls `serve`; models: as in `Order`. A worker that is killed is the failure of
    its cell. Workers end when this process does, however that happens.
    """

    folders: Folders
    lanes: int
    threads: int
    command: Sequence[str]
    models: Path | None = None

    def run(self, tasks: Sequence[Task], board: Board) -> Generator[Outcome, None, None]:
        """As `Executor.run`."""
        workers, waiting, waits = _Workers(self.command), deque(tasks), set[Task]()
        running: dict[Future[Answer], Task] = {}
        with ThreadPoolExecutor(self.lanes) as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < self.lanes:
                        task = waiting.popleft()
                        if task not in waits:
                            board.starts(task.cell)
                        running[pool.submit(self._one, workers, task, task in waits)] = task
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        task = running.pop(future)
                        if (answer := future.result()).state != "busy":
                            yield outcome_of(answer, task, self.folders)
                            continue
                        waiting.append(task)
                        if task not in waits:
                            waits.add(task)
                            board.waits(task.cell, owner(self.folders.lock(task.cell)))
            finally:
                workers.stop()

    def _one(self, workers: _Workers, task: Task, later: bool) -> Answer:
        """later: another command was at it when we looked last."""
        if later:
            time.sleep(_LOOK_AGAIN)
        if held(self.folders.lock(task.cell)):
            return Answer("busy")
        models = None if self.models is None else str(self.models)
        order = Order(task, str(self.folders.results), str(self.folders.runs), self.threads, models)
        return workers.ask(order)


def outcome_of(answer: Answer, task: Task, folders: Folders) -> Outcome:
    """The outcome that an answer stands for, with the result that the worker has written."""
    if answer.error is not None:
        return Outcome(task.cell, None, error=answer.error)
    try:
        return Outcome(task.cell, read_result(folders.results / task.cell.path), reused=answer.state == "there")
    except (DiffrecError, OSError) as error:
        return Outcome(task.cell, None, error=f"the worker has finished, but its result cannot be read: {error}")


class _Workers:
    """The processes that run now; `stop` ends them, and none starts after it."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self.running: set[subprocess.Popen[str]] = set()
        self.stopped = False
        self.guard = threading.Lock()

    def ask(self, order: Order) -> Answer:
        """Start a worker, give it the order and wait for its answer."""
        log = order.folders.log(order.task.cell)
        log.parent.mkdir(parents=True, exist_ok=True)
        process = self._start(log, order.threads)
        if process is None:
            return Answer("failed", "stopped before it began")
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with suppress(BrokenPipeError):  # where it has died already
                process.stdin.write(json.dumps(asdict(order)) + "\n")
                process.stdin.flush()  # and stays open: its end tells the worker that we are gone
            return _answer(process.stdout.read(), process.wait(), log)
        finally:
            with self.guard:
                self.running.discard(process)
            process.stdout.close()
            with suppress(BrokenPipeError):  # of an order that nobody has read
                process.stdin.close()

    def stop(self) -> None:
        """End all of them; what they have done so far is on the disk."""
        with self.guard:
            self.stopped = True
            for process in self.running:
                process.kill()

    def _start(self, log: Path, threads: int) -> subprocess.Popen[str] | None:
        with self.guard, open(log, "ab") as file:
            if self.stopped:
                return None
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env={**os.environ, **thread_environment(threads)},
                text=True,
                start_new_session=True,  # Ctrl-C is for this process, which then stops its workers
            )
            self.running.add(process)
            return process


def thread_environment(threads: int) -> dict[str, str]:
    """The variables that libraries read when they are loaded."""
    return dict.fromkeys(_THREADS, str(threads))


def _answer(text: str, code: int, log: Path) -> Answer:
    if code < 0:
        name = signal.Signals(-code).name
        why = ", as the system does where memory runs out" if name == "SIGKILL" else ""
        return Answer("failed", f"its worker was ended by {name}{why}; the log is {log}")
    if code > 0 or not text.strip():
        return Answer("failed", f"its worker ended with code {code} and without an answer; the log is {log}")
    return parse(json.loads(text), Answer, "the answer of a worker", DiffrecError)


def serve(work: Work) -> int:
    """The life of a worker: read one order from stdin, do it, write the answer to stdout.

    What is written to stdout and stderr meanwhile goes to the log. The process ends at once when its parent does.
    """
    line = b""
    while not line.endswith(b"\n"):
        if not (more := os.read(0, 1 << 16)):
            return 1
        line += more
    order = parse(json.loads(line), Order, "an order", DiffrecError)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    answer = os.fdopen(os.dup(1), "w")  # a descriptor that no further process inherits
    os.dup2(2, 1)
    answer.write(json.dumps(asdict(work(order))))
    answer.close()
    return 0


def _end_with_parent() -> None:
    while os.read(0, 1 << 16):
        pass
    os._exit(1)


@contextmanager
def logging_to(log: Path) -> Iterator[None]:
    """Everything that this process writes to stdout and stderr goes to the end of `log` within the block."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in enumerate(kept, start=1):
            os.dup2(copy, number)
            os.close(copy)
