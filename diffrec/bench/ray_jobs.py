"""Cells as tasks of a Ray cluster; Ray is imported when the first one is handed over."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diffrec.bench.jobs import Answer, Order, Work, logging_to, outcome_of, thread_environment
from diffrec.bench.lock import holding, owner
from diffrec.bench.schedule import Board, Folders, Outcome, Task
from diffrec.errors import DiffrecError, UsageError
from diffrec.files import write_file, write_folder

LOCAL = "local"
RETRIES = 3  # of a cell whose worker or machine is lost
_LOOK_AGAIN = 1.0  # seconds, at cells that another command runs
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_task_oom_retries": str(RETRIES),  # Ray itself would try for ever
}
_LOCAL_SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on every system: the one way to make Ray listen on 127.0.0.1 only
    "RAY_AUTH_MODE": "token",  # other users of this machine reach 127.0.0.1 too
}
Files = dict[str, bytes]


@dataclass(frozen=True)
class Delivery:
    """An answer with the files that belong to it, by their paths below the folder of results, or of models."""

    answer: Answer
    results: Files
    models: Files


@dataclass
class Cluster:
    """Runs cells as Ray tasks. address: of a cluster, or LOCAL for one that lives as long as this command.

    work: what a worker does with an order, a function of a module; cpus: of a cell, its threads; lanes: how many
    run at a time, chosen here for a local cluster and found out from any other. A cell whose worker is lost is run
    again, from its last checkpoint where the next worker sees the same folder of runs; a model that fails is not.
    Results come back through Ray and are written here, so that machines need share no folder.
    """

    address: str
    folders: Folders
    work: Work
    cpus: int
    gpus: float = 0.0
    models: Path | None = None
    lanes: int = 1
    running: dict[Any, tuple[Task, ExitStack]] = field(default_factory=dict, init=False)

    def run(self, tasks: Sequence[Task], board: Board) -> Generator[Outcome, None, None]:
        """As `Executor.run`. Raises UsageError for a local cluster that could never run a cell."""
        if not tasks:
            return
        with ExitStack() as locks, _connected(self.address, self.lanes * self.cpus) as ray:
            self._look_around(ray.cluster_resources(), len(tasks), board)
            remote = ray.remote(max_retries=RETRIES, num_cpus=self.cpus, num_gpus=self.gpus)(_attend)
            elsewhere: Sequence[Task] = ()
            left = tasks
            while left or self.running:
                left = yield from self._hand_over(remote, left, locks)
                for task in left:
                    if task not in elsewhere:
                        board.waits(task.cell, owner(self.folders.lock(task.cell)))
                elsewhere = left
                yield from self._finished(ray, _LOOK_AGAIN if left else None)

    def _look_around(self, resources: Mapping[str, float], tasks: int, board: Board) -> None:
        cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
        if self.address == LOCAL and gpus < self.gpus:
            raise UsageError(f"a cell is to have {self.gpus:g} GPUs, and this machine has {gpus:g}")
        fitting = [cpus // self.cpus, *([gpus // self.gpus] if self.gpus else [])]
        self.lanes = max(1, int(min(fitting)))
        each = f"{self.cpus} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")
        board.report(f"Ray cluster of {cpus:g} CPUs and {gpus:g} GPUs; {tasks} cells wait there for {each} each")

    def _hand_over(
        self, remote: Any, tasks: Sequence[Task], locks: ExitStack
    ) -> Generator[Outcome, None, Sequence[Task]]:
        """Submit tasks; returns those that another command is at, yields those that one has finished since."""
        from diffrec.bench.runner import come_since

        left = []
        for task in tasks:
            lock = locks.enter_context(ExitStack())
            if not lock.enter_context(holding(self.folders.lock(task.cell))):
                left.append(task)
            elif (there := come_since(task, self.folders.results)) is not None:
                lock.close()
                yield Outcome(task.cell, there, reused=True)
            else:
                self.running[remote.remote(self.work, self._order(task), os.getcwd())] = (task, lock)
        return left

    def _order(self, task: Task) -> Order:
        models = None if self.models is None else str(self.models)
        return Order(task, str(self.folders.results), str(self.folders.runs.absolute()), self.cpus, models)

    def _finished(self, ray: Any, timeout: float | None) -> Iterator[Outcome]:
        """Wait for a task to end, no longer than `timeout` seconds."""
        if not self.running:
            time.sleep(timeout or 0)
            return
        ended, _ = ray.wait(list(self.running), timeout=timeout)
        for reference in ended:
            task, lock = self.running.pop(reference)
            with lock:
                outcome = self._received(ray, reference, task)
            yield outcome

    def _received(self, ray: Any, reference: Any, task: Task) -> Outcome:
        try:
            delivery: Delivery = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            return Outcome(task.cell, None, error=f"{type(error.cause).__name__}: {error.cause}")
        except ray.exceptions.RayError as error:
            lost = f"its worker was lost {RETRIES + 1} times ({type(error).__name__})"
            return Outcome(task.cell, None, error=lost)
        try:
            _write_results(delivery.results, self.folders.results)
            if self.models is not None:
                _write_entries(delivery.models, self.models)
        except DiffrecError as error:
            return Outcome(task.cell, None, error=str(error))
        return outcome_of(delivery.answer, task, self.folders)


def check_installed() -> None:
    """UsageError where there is no Ray."""
    if find_spec("ray") is None:
        raise UsageError("--ray needs Ray, which is not installed: pip install 'diffrec[ray]'")


@contextmanager
def _connected(address: str, cpus: int) -> Iterator[Any]:
    """The module `ray`, connected within the block; a local cluster listens to this machine only, and ends with it."""
    check_installed()
    settings = _SETTINGS
    if address == LOCAL:
        settings = {**_SETTINGS, **_LOCAL_SETTINGS, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    import ray

    local = {"num_cpus": cpus, "include_dashboard": False}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **(local if address == LOCAL else {}))
    except (ConnectionError, ValueError) as error:
        raise UsageError(f"no Ray cluster at {address!r}: {str(error).partition(chr(10))[0]}") from error
    try:
        yield ray
    finally:
        ray.shutdown()  # ends what this process has handed over and still runs


def _attend(work: Work, order: Order, place: str) -> Delivery:
    """On a worker of the cluster: run a cell into a temporary folder. place: where relative paths begin."""
    with suppress(FileNotFoundError):  # on a machine that does not have it there are only shipped configurations
        os.chdir(place)
    os.environ.update(thread_environment(order.threads))  # torch is loaded by `work`
    with tempfile.TemporaryDirectory() as folder, logging_to(order.folders.log(order.task.cell)):
        results, models = Path(folder, "results"), Path(folder, "models")
        kept = None if order.models is None else str(models)
        answer = work(replace(order, task=replace(order.task, seen=None), results=str(results), models=kept))
        return Delivery(answer, _contents(results), _contents(models))


def _contents(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _write_results(files: Files, folder: Path) -> None:
    """Records come last: what they name is then there."""
    for name in sorted(files, key=lambda name: name.endswith(".json")):
        write_file(folder / name, files[name])


def _write_entries(files: Files, folder: Path) -> None:
    entries: dict[str, Files] = {}
    for name, content in files.items():
        entry, _, inside = name.partition("/")
        entries.setdefault(entry, {})[inside] = content
    for entry, contents in entries.items():
        write_folder(folder / entry, contents)
