"""`diffrec bench tune`: choose the settings of a suite's rows on validation, and keep all trials."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diffrec.cli.printable import print_line
from diffrec.errors import UsageError, check_sizes, choose

if TYPE_CHECKING:
    from diffrec.bench.searches import Places, Search

HELP = "choose the settings of a suite's rows on validation: the same number of trials for each, all of them kept"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("suites", nargs="+", metavar="SUITE", help="names, or YAML files; searches that share a "
                        "dataset and a class are done together")  # fmt: skip
    parser.add_argument("--only", nargs="+", default=[], metavar="MODEL", help="only these rows")
    parser.add_argument("--datasets", nargs="+", default=[], metavar="NAME", help="only these datasets")
    parser.add_argument("--trials", type=int, metavar="N", help="settings for each row (default: the suite's budget)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N",
                        help="so many processes, with an equal share of the processor cores (default: 1)")  # fmt: skip
    parser.add_argument("--tuning", type=Path, metavar="DIR",
                        help="where finished searches go (default: benchmarks/tuning)")  # fmt: skip
    parser.add_argument("--runs", type=Path, default=Path("runs/tune"), metavar="DIR",
                        help="where trials under way are kept (default: runs/tune)")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="list the searches and stop")


def run(args: argparse.Namespace) -> int:
    """Tune; 1 where a process was lost."""
    check_sizes(**{"--jobs": args.jobs})
    if args.trials is not None:
        check_sizes(**{"--trials": args.trials})
    from diffrec.bench.searches import Places, finished
    from diffrec.bench.tuning import shipped

    found, places = _searches(args), Places(args.tuning or shipped(), args.runs)
    if args.dry_run:
        for search in found:
            state = "done" if finished(search, places) is not None else f"{search.size} settings, {search.method}"
            print_line(f"{search}: {state}")
        return 0
    if args.jobs > 1 and (code := _in_processes(args)) != 0:
        return code
    _tune(found, places)
    return 0


def _searches(args: argparse.Namespace) -> list[Search]:
    from diffrec.bench.searches import searches
    from diffrec.bench.suite import find_suite, load_suite

    suites = [load_suite(find_suite(name)) for name in args.suites]
    for name in args.only:
        choose("model", name, [model.name for suite in suites for model in suite.models if model.search])
    for name in args.datasets:
        choose("dataset", name, [dataset.name for suite in suites for dataset in suite.datasets])
    found = [search for suite in suites for search in searches(suite, args.trials, args.datasets)]
    wanted = [search for search in found if not args.only or search.model.name in args.only]
    if not wanted:
        raise UsageError(f"{', '.join(args.suites)} have no row with a search space here")
    return wanted


def _tune(found: list[Search], places: Places) -> None:
    from diffrec.bench.tune import tune
    from diffrec.training.progress import hush_lightning

    hush_lightning()
    for search, tuning in zip(found, tune(found, places, print_line), strict=True):
        best = tuning.best
        settings = ", ".join(f"{name.rpartition('.')[2]}={value}" for name, value in best.settings.items())
        print_line(
            f"{search}: {tuning.metric} {best.value:.4f} on validation with {settings}, {len(tuning.trials)} trials"
        )


def _in_processes(args: argparse.Namespace) -> int:
    """The same command in several processes, which share the searches out by themselves."""
    from diffrec.bench.jobs import thread_environment
    from diffrec.bench.schedule import cores

    words = [*args.suites, "--runs", str(args.runs)]
    for name in ("only", "datasets"):
        words += [f"--{name}", *getattr(args, name)] if getattr(args, name) else []
    for name in ("trials", "tuning"):
        words += [f"--{name}", str(getattr(args, name))] if getattr(args, name) is not None else []
    command = [sys.executable, "-m", "diffrec.cli.main", "bench", "tune", *words]
    environment = {**os.environ, **thread_environment(max(1, cores() // args.jobs))}
    running = [subprocess.Popen(command, env=environment) for _ in range(args.jobs)]
    try:
        return max(abs(process.wait()) for process in running)
    finally:
        for process in running:
            process.kill()
