"""`diffrec zoo build`: an entry from its recipe, and whether it is byte for byte the one that is there."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffrec.cli.entries import save_entry
from diffrec.cli.printable import print_line
from diffrec.errors import NotFoundError, UsageError, check_sizes, near_match

if TYPE_CHECKING:
    from diffrec.bench.result import Result
    from diffrec.bench.suite import Cell, Suite
    from diffrec.zoo.benchmark import Benchmark
    from diffrec.zoo.config import Measured
    from diffrec.zoo.entry import Entry

HELP = "train an entry from its recipe, measure and save it; exit code 1 where it is not byte for byte the one there"
_COMMAND = re.compile(r"diffrec zoo build \S+ --suite (\S+) --seed (\d+)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which entry, by which recipe, and where to."""
    parser.add_argument("name", metavar="NAME",
                        help="<row>.<dataset> of a suite, with another word behind a dot if you like")  # fmt: skip
    parser.add_argument("--suite", metavar="SUITE",
                        help="the suite whose row and dataset it is, a name or a YAML file (default: the one that the "
                             "entry states, else the only one with that row)")  # fmt: skip
    parser.add_argument("--seed", type=int, metavar="N", help="default: that of the entry, else the row's first")
    parser.add_argument("--dtype", choices=("float16",),
                        help="of the stored weights, refused where it costs accuracy (default: as the entry has "
                             "them)")  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("runs/zoo"), metavar="DIR",
                        help="where the entry goes, and below 'runs' its checkpoints (default: runs/zoo)")  # fmt: skip
    parser.add_argument("--results", type=Path, metavar="DIR",
                        help="records that say how the row does with other seeds, its controls and popularity "
                             "(default: benchmarks/results)")  # fmt: skip
    parser.add_argument("--replace", action="store_true", help="put it into the zoo, in the place of the one there")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Train, measure, save, compare; 1 where another entry of that name is there."""
    from diffrec.bench.runner import run_cell
    from diffrec.cli.bench import training_progress
    from diffrec.zoo.entry import Entry, is_name
    from diffrec.zoo.index import zoo_dir

    if not is_name(args.name):
        raise UsageError(f"the name {args.name[:60]!r} must be made of a-z, 0-9, '.', '_' and '-'")
    check_sizes(least=0, **{"--seed": args.seed or 0})
    there = _there(args.name)
    suite, seed, dtype = (None, None, None) if there is None else (*recipe_of(there), _dtype(there))
    cell = find_cell(args.name, args.suite or suite, seed if args.seed is None else args.seed)
    print_line(f"{args.name}: {cell.model.name} on {cell.dataset.name}, suite {cell.suite}, seed {cell.seed}")
    progress = training_progress()
    with _threads(there):
        trained = run_cell(cell, args.output / "runs", None if args.quiet else progress)
        benchmark = _benchmark(trained.result, args.name, args.results, there)
        built = Entry.open(save_entry(trained, args.output / args.name, args.dtype or dtype, benchmark))
    metric, seconds = trained.result.headline, trained.result.train_seconds
    print_line(f"{built.folder}: {metric} {_measured(built).metrics[metric]:.4f}, trained in {seconds:.0f} s")
    code = 0 if there is None else _compare(there, built)
    if args.replace:
        from diffrec.cli.zoo import write_index
        from diffrec.files import write_folder
        from diffrec.zoo.entry import MANIFEST

        write_folder(zoo_dir() / args.name, {**built.read_all(), MANIFEST: (built.folder / MANIFEST).read_bytes()})
        return write_index()
    return code


def _benchmark(result: Result, name: str, results: Path | None, there: Entry | None) -> Benchmark | None:
    """What records say of the row, else what the entry that is there and comes from the same run says of it."""
    from diffrec.bench.result import read_results
    from diffrec.cli.entries import recorded
    from diffrec.paths import resource_dir

    folder = results or resource_dir("benchmarks") / "results"
    beside = (folder / result.suite / result.dataset).glob("*/seed*.json")
    found = recorded(read_results(folder, sorted(beside)), result.suite, result.seed, name, result.metrics)
    if found is None and there is not None and recipe_of(there) == (result.suite, result.seed):
        return _measured(there).benchmark
    return found


def find_cell(name: str, suite: str | None, seed: int | None) -> Cell:
    """The run of a suite that an entry of that name comes from.

    seed: instead of the first of the row. Raises NotFoundError where no suite has such a row, UsageError where several
    have.
    """
    from diffrec.bench.suite import find_suite, load_suite
    from diffrec.bench.tuning import shipped, tuned
    from diffrec.paths import resource_dir

    paths = [find_suite(suite)] if suite else sorted((resource_dir("benchmarks") / "suites").glob("*.yaml"))
    suites = [load_suite(path) for path in paths]
    found = [(suite, row, dataset) for suite in suites for row, dataset in _rows(suite) if _is_of(name, row, dataset)]
    longest = max((len(row) + len(dataset) for _, row, dataset in found), default=0)
    found = [(suite, row, dataset) for suite, row, dataset in found if len(row) + len(dataset) == longest]
    if not found:
        known = sorted({f"{row}.{dataset}" for suite in suites for row, dataset in _rows(suite)})
        raise NotFoundError(f"no suite has a row and dataset for {name!r}{near_match(name, known)}")
    if len(found) > 1:
        rows = [s.name for s, *_ in found]
        raise UsageError(f"{name} may come from {', '.join(rows[:-1])} or {rows[-1]}; say which with --suite")
    [(chosen, row, dataset)] = found
    cells = list(tuned(chosen.only([row], [], [dataset]), shipped()).cells())
    cells = [cell for cell in cells if cell.model.name == row]
    return cells[0] if seed is None else replace(cells[0], seed=seed)


def _rows(suite: Suite) -> Iterator[tuple[str, str]]:
    """Model and dataset of every row."""
    return iter({(cell.model.name, cell.dataset.name): None for cell in suite.cells()})


def _is_of(name: str, row: str, dataset: str) -> bool:
    return f"{name}.".startswith(f"{row}.{dataset}.")


def recipe_of(entry: Entry) -> tuple[str | None, int | None]:
    """Suite and seed that an entry states, as `entries.facts_of` writes them; None where it states none."""
    found = _COMMAND.fullmatch(_measured(entry).training.command or "")
    return (found[1], int(found[2])) if found else (None, None)


def _there(name: str) -> Entry | None:
    """The entry of that name, if there is one on this machine."""
    from diffrec.zoo.finding import find_entry
    from diffrec.zoo.index import on_this_machine, read_index

    rows = read_index()
    return find_entry(name, offline=True) if name in rows and on_this_machine(rows)[name] else None


def _measured(entry: Entry) -> Measured:
    from diffrec.zoo.config import Measured
    from diffrec.zoo.entry import METRICS

    return Measured.parse(entry.read(METRICS), str(entry.folder / METRICS))


def _dtype(entry: Entry) -> str | None:
    from diffrec.zoo.config import Config
    from diffrec.zoo.entry import CONFIG

    return Config.parse(entry.read(CONFIG), str(entry.folder / CONFIG)).dtype


@contextmanager
def _threads(there: Entry | None) -> Iterator[None]:
    """As many threads as the entry that is there was made with: sums are rounded in their order."""
    import torch

    before, on = torch.get_num_threads(), None if there is None else _measured(there).evaluation
    try:
        if on is not None and on.device == "cpu":
            torch.set_num_threads(on.threads)
        yield
    finally:
        torch.set_num_threads(before)


def _compare(there: Entry, built: Entry) -> int:
    """Tell file by file whether two entries are one; 0 where they are."""
    from diffrec.bench.rerun import unlike
    from diffrec.zoo.entry import CONFIG, GOLDEN, VOCABULARY, WEIGHTS

    if there.revision == built.revision:
        print_line(f"byte for byte the entry in {there.folder}")
        return 0
    print_line(f"not the entry in {there.folder}:")
    for name in {**there.files, **built.files}:
        old, new = there.files.get(name), built.files.get(name)
        sizes = [f"{file.size:,} bytes" if file else "none" for file in (old, new)]
        print_line(f"  {name:18} {'equal' if old == new else f'{sizes[0]} there, {sizes[1]} here'}")
    old, new = _measured(there), _measured(built)
    if all(there.files.get(name) == built.files.get(name) for name in (WEIGHTS, CONFIG, VOCABULARY, GOLDEN)):
        print_line("  it is the same model: what differs is told about how it was made and measured")
    if old.metrics.keys() == new.metrics.keys():
        worst = max(new.metrics, key=lambda name: abs(new.metrics[name] - old.metrics[name]))
        print_line(f"  the metrics differ by at most {abs(new.metrics[worst] - old.metrics[worst]):.1e} ({worst})")
    if old.evaluation is not None and new.evaluation is not None:
        machines = [{**vars(on), **on.packages, "packages": None} for on in (old.evaluation, new.evaluation)]
        for line in unlike(machines[1], machines[0]):
            print_line(f"  here is {line}")
    return 1
