"""`diffrec bench run SUITE`: models x datasets x seeds, one result file each."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diffrec.cli.entries import entry_of, is_published, save_entry

if TYPE_CHECKING:
    from diffrec.bench.runner import Folders, Progress, Trained
    from diffrec.bench.suite import Cell, Suite

DEFAULT_RESULTS = Path("benchmarks/results")
HELP = "run a suite of benchmarks; what has a result already is not run again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The action run, with its suite."""
    from diffrec.paths import resource_dir

    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    names = ", ".join(sorted(path.stem for path in (resource_dir("benchmarks") / "suites").glob("*.yaml")))
    run_parser = actions.add_parser("run", help="train, select on validation, test once, write the results")
    run_parser.add_argument("suite", metavar="SUITE", help=f"{names}, or a YAML file")
    run_parser.add_argument("--results", type=Path, default=DEFAULT_RESULTS, metavar="DIR",
                            help="where the results go (default: benchmarks/results)")  # fmt: skip
    run_parser.add_argument("--runs", type=Path, default=Path("runs/bench"), metavar="DIR",
                            help="where logs and checkpoints go (default: runs/bench)")  # fmt: skip
    run_parser.add_argument("--zoo", type=Path, metavar="DIR",
                            help="keep the first seed of each trained model there; runs what is missing")  # fmt: skip
    run_parser.add_argument("--only", nargs="+", default=[], metavar="MODEL", help="only these models")
    run_parser.add_argument("--seeds", nargs="+", type=int, default=[], metavar="SEED",
                            help="only these seeds; rows that need no training always stay")  # fmt: skip
    run_parser.add_argument("--force", action="store_true", help="run even what has a result")
    run_parser.add_argument("--dry-run", action="store_true", help="list what would run and stop")
    run_parser.add_argument("--quiet", action="store_true", help="print failures only")


def run(args: argparse.Namespace) -> int:
    """Run the suite; 1 where a cell failed."""
    from diffrec.bench.runner import Folders, run_suite
    from diffrec.bench.suite import find_suite, load_suite

    suite = load_suite(find_suite(args.suite)).only(args.only, args.seeds)
    folders = Folders(args.results, args.runs)
    if args.dry_run:
        return _list(suite, folders, args.force)

    def missing(cell: Cell) -> bool:
        return args.zoo is not None and is_published(cell) and not entry_of(cell, args.zoo).exists()

    def keep(trained: Trained) -> None:
        if args.zoo is not None and is_published(trained.cell):
            save_entry(trained, entry_of(trained.cell, args.zoo))

    outcomes = run_suite(
        suite,
        folders,
        force=lambda cell: args.force or missing(cell),
        keep=keep,
        report=(lambda line: None) if args.quiet else print_line,
        progress=None if args.quiet else training_progress(),
    )
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    for outcome in failed:
        sys.stderr.write(f"failed: {outcome.cell}: {outcome.error}\n")
    if failed:
        sys.stderr.write(f"{len(failed)} of {len(outcomes)} failed; tracebacks are in {folders.failures}\n")
    where = "" if args.results == DEFAULT_RESULTS else f" --results {args.results}"
    print_line(f"results in {args.results}; 'diffrec leaderboard --suite {suite.name}{where}' shows them")
    return 1 if failed else 0


def print_line(line: str) -> None:
    """One line on stdout, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def training_progress() -> Progress | None:
    """A bar while a model trains, where somebody is watching; Lightning is quiet in any case."""
    from diffrec.training.progress import hush_lightning, progress_for

    hush_lightning()
    return (lambda monitor: progress_for(sys.stderr, monitor)) if sys.stderr.isatty() else None


def _list(suite: Suite, folders: Folders, force: bool) -> int:
    from diffrec.bench.result import Result
    from diffrec.bench.runner import plan

    for cell, there in plan(suite, folders.results).items():
        word = "has a result" if isinstance(there, Result) else there or "would run"
        print_line(f"{cell}: {'would run' if force else word}")
    return 0
