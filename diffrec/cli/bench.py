"""`diffrec bench`: run a suite, one result file a cell; compare the rows of its tables; probe a trained model."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from diffrec.cli import groups, probe, tune
from diffrec.cli.entries import entry_of, is_published
from diffrec.cli.leaderboard import compare_all, read_chosen
from diffrec.cli.printable import print_line
from diffrec.errors import IntegrityError, UsageError, check_numbers, check_sizes

if TYPE_CHECKING:
    from diffrec.bench.runner import Progress
    from diffrec.bench.schedule import Executor, Folders
    from diffrec.bench.suite import Cell, Suite
    from diffrec.bench.tuning import Ready

DEFAULT_RESULTS = Path("benchmarks/results")
HELP = "run suites of benchmarks, compare their rows user by user, and probe trained models"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions, each with its own."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_run(actions)
    text = "which rows of each table differ, user by user; a run does it for its own suite"
    compare_parser = actions.add_parser("compare", help=text)
    compare_parser.add_argument("--results", type=Path, default=DEFAULT_RESULTS, metavar="DIR",
                                help="where the results are (default: benchmarks/results)")  # fmt: skip
    tune.add_arguments(actions.add_parser("tune", help=tune.HELP, description=tune.HELP))
    probe.add_arguments(actions.add_parser("probe", help=probe.HELP, description=probe.HELP))
    groups.add_arguments(actions.add_parser("groups", help=groups.HELP, description=groups.HELP))


def _add_run(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from diffrec.paths import resource_dir

    names = ", ".join(sorted(path.stem for path in (resource_dir("benchmarks") / "suites").glob("*.yaml")))
    text = "train, select on validation, test once, write the results; what has a result is not run again, and what "
    run_parser = actions.add_parser("run", help=text + "was interrupted goes on")
    run_parser.add_argument("suite", metavar="SUITE", help=f"{names}, or a YAML file")
    run_parser.add_argument("--results", type=Path, default=DEFAULT_RESULTS, metavar="DIR",
                            help="where the results go (default: benchmarks/results)")  # fmt: skip
    run_parser.add_argument("--runs", type=Path, default=Path("runs/bench"), metavar="DIR",
                            help="where logs and checkpoints go (default: runs/bench)")  # fmt: skip
    run_parser.add_argument("--tuning", type=Path, metavar="DIR",
                            help="the settings of rows that were tuned (default: benchmarks/tuning)")  # fmt: skip
    run_parser.add_argument("--zoo", type=Path, metavar="DIR",
                            help="keep the first seed of each trained model there; runs what is missing")  # fmt: skip
    run_parser.add_argument("--only", nargs="+", default=[], metavar="MODEL", help="only these models")
    run_parser.add_argument("--datasets", nargs="+", default=[], metavar="NAME", help="only these datasets")
    run_parser.add_argument("--seeds", nargs="+", type=int, default=[], metavar="SEED",
                            help="only these seeds; rows that need no training always stay")  # fmt: skip
    run_parser.add_argument("--controls", action="store_true",
                            help="accompany every row with all controls that its configuration declares: noise-off, "
                                 "one-step")  # fmt: skip
    run_parser.add_argument("--force", action="store_true", help="run even what has a result")
    run_parser.add_argument("--dry-run", action="store_true", help="list what would run, with its cost, and stop")
    run_parser.add_argument("--quiet", action="store_true", help="print failures only")
    run_parser.add_argument("--jobs", type=int, default=1, metavar="N",
                            help="so many cells at a time, each in a process of its own with an equal share of the "
                                 "processor cores (default: 1, in this process, with its threads)")  # fmt: skip
    run_parser.add_argument("--ray", nargs="?", const="local", metavar="ADDRESS",
                            help="run the cells on a Ray cluster; without an address on one of this machine, "
                                 "with --jobs cells at a time. Needs the extra 'ray'")  # fmt: skip
    run_parser.add_argument("--cpus-per-cell", type=int, metavar="N",
                            help="with --ray: cores and threads of a cell (default: as with --jobs)")  # fmt: skip
    run_parser.add_argument("--gpus-per-cell", type=float, default=0.0, metavar="X",
                            help="with --ray: GPUs of a cell, 0.5 for two cells on one (default: 0)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """What the action asks for; 1 where a cell failed, else another number than 0 where one was left out."""
    actions = {"run": _run, "compare": _compare, "tune": tune.run, "probe": probe.run, "groups": groups.run}
    return actions[args.action](args)


def _compare(args: argparse.Namespace) -> int:
    for path in compare_all(read_chosen(args.results), args.results):
        print_line(str(path))
    return 0


def _run(args: argparse.Namespace) -> int:
    """Run the suite."""
    _check(args)
    from diffrec.bench.runner import run_suite
    from diffrec.bench.schedule import Folders
    from diffrec.bench.suite import find_suite, load_suite
    from diffrec.bench.tuning import ready, shipped

    loaded = load_suite(find_suite(args.suite))
    suite = loaded.with_controls() if args.controls else loaded
    asked = suite.only(args.only, args.seeds, args.datasets)
    found = ready(asked, args.tuning or shipped(), args.suite)
    suite, untuned = found.suite, list(found.without.values())
    if untuned and not any(suite.cells()):
        raise untuned[0].error
    folders = Folders(args.results, args.runs)

    def force(cell: Cell) -> bool:
        missing = args.zoo is not None and is_published(cell) and not entry_of(cell, args.zoo).exists()
        return args.force or missing

    if args.dry_run:
        return _list(asked, found, folders, force, args.jobs)
    outcomes = run_suite(
        suite,
        folders,
        force=force,
        report=(lambda line: None) if args.quiet else print_line,
        executor=_executor(args, folders),
    )
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    for outcome in failed:
        sys.stderr.write(f"failed: {outcome.cell}: {outcome.error}\n")
    if failed:
        sys.stderr.write(f"{len(failed)} of {len(outcomes)} failed; tracebacks are in {folders.failures}\n")
    for (dataset, row), why in found.without.items():
        sys.stderr.write(f"left out: {dataset} {row}, {why}\n")
    if len(failed) < len(outcomes):
        _compare_suite(args.results, suite.name)
    where = "" if args.results == DEFAULT_RESULTS else f" --results {args.results}"
    print_line(f"results in {args.results}; 'diffrec leaderboard --suite {suite.name}{where}' shows them")
    if failed:
        return 1
    return untuned[0].error.exit_code if untuned else 0


def _compare_suite(results: Path, suite: str) -> None:
    """Compare the rows of its tables; again, a little later, where another command replaced a result meanwhile."""
    for pause in (0.2, 1.0, 3.0):
        try:
            compare_all(read_chosen(results, suite), results)
            return
        except IntegrityError:
            time.sleep(pause)
    compare_all(read_chosen(results, suite), results)


def _check(args: argparse.Namespace) -> None:
    """What the parser cannot see, before anything heavy is loaded."""
    check_sizes(**{"--jobs": args.jobs})
    if args.ray is None:
        for name in ("cpus_per_cell", "gpus_per_cell"):
            if getattr(args, name):
                raise UsageError(f"--{name.replace('_', '-')} goes with --ray; --jobs shares the cores out by itself")
        return
    from diffrec.bench.ray_jobs import LOCAL, check_installed

    check_sizes(**{"--cpus-per-cell": 1 if args.cpus_per_cell is None else args.cpus_per_cell})
    check_numbers(0.0, **{"--gpus-per-cell": args.gpus_per_cell})
    if args.ray != LOCAL and args.jobs > 1:
        raise UsageError(f"--jobs is for this machine; the cluster at {args.ray} decides by --cpus-per-cell")
    check_installed()


def _executor(args: argparse.Namespace, folders: Folders) -> Executor:
    """Who runs the cells: this process, several, or a cluster."""
    from diffrec.bench.schedule import cores
    from diffrec.cli.bench_worker import COMMAND, keep_published, work

    share = max(1, cores() // args.jobs)
    if args.ray is not None:
        from diffrec.bench.ray_jobs import Cluster

        cpus = args.cpus_per_cell or share
        return Cluster(args.ray, folders, work, cpus, args.gpus_per_cell, args.zoo, args.jobs)
    if args.jobs > 1:
        from diffrec.bench.jobs import Processes

        return Processes(folders, args.jobs, share, COMMAND, args.zoo)
    from diffrec.bench.runner import InProcess

    return InProcess(folders, None if args.quiet else training_progress(), partial(keep_published, zoo=args.zoo))


def training_progress() -> Progress | None:
    """A bar while a model trains, where somebody is watching; Lightning is quiet in any case."""
    from diffrec.training.progress import hush_lightning, progress_for

    hush_lightning()
    return (lambda monitor: progress_for(sys.stderr, monitor)) if sys.stderr.isatty() else None


def _list(asked: Suite, found: Ready, folders: Folders, force: Callable[[Cell], bool], jobs: int) -> int:
    """The plan of the suite that is asked for, of which the rows that are `found` can run, and what it may cost."""
    from diffrec.bench.result import Result
    from diffrec.bench.runner import Outdated, due, plan
    from diffrec.bench.schedule import Costs, estimate

    planned = plan(found.suite, folders.results)
    costs = Costs(folders.results)
    seconds = {task.cell: costs.of(task.cell) for task in due(planned, folders.results, force)}
    for cell, there in planned.items():
        if cell in seconds:
            word = str(there) if isinstance(there, Outdated) else "would run"
            print_line(f"{cell}: {word}, {estimate([seconds[cell]]).over(1)}")
        else:
            print_line(f"{cell}: {'has a result' if isinstance(there, Result) else there}")
    left_out = {cell: why for cell in asked.cells() if (why := found.left_out(cell)) is not None}
    for cell, why in left_out.items():
        print_line(f"{cell}: {why}")
    total = estimate(seconds.values())
    shared = f"; with {jobs} jobs {total.over(jobs)}" if jobs > 1 and total.known else ""
    cost = f", {total.over(1)}{shared} (training and test, as stored results say)" if seconds else ""
    print_line(f"{len(seconds)} of {len(planned) + len(left_out)} cells would run{cost}")
    return 0
