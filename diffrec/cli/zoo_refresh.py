"""`diffrec zoo refresh`: entries in the form that they are written in today, without training anything."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from diffrec.cli.entries import facts_of, recorded
from diffrec.cli.printable import print_line
from diffrec.errors import DiffrecError

if TYPE_CHECKING:
    from diffrec.bench.result import Result
    from diffrec.data.dataset import Dataset
    from diffrec.recommender import Recommender
    from diffrec.zoo.entry import Entry
    from diffrec.zoo.saving import Known

HELP = "write entries of the zoo again as they are written today (golden lists, card, types), weights and metrics kept"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which entries, and where the records are."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="all entries of the zoo folder if none is given")
    parser.add_argument("--dtype", choices=("float16",),
                        help="round the weights to it, measured with and without and refused where it costs "
                             "accuracy")  # fmt: skip
    parser.add_argument("--results", type=Path, metavar="DIR",
                        help="records that say what was measured on what, and beside it (default: "
                             "benchmarks/results)")  # fmt: skip
    parser.add_argument("--check", action="store_true",
                        help="write nothing: exit code 1 where a card, a configuration or metrics.json would be "
                             "another one")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Refresh the entries and the list of the zoo, or say which of them are behind."""
    from diffrec.bench.result import read_results
    from diffrec.cli.zoo import write_index
    from diffrec.errors import UsageError
    from diffrec.paths import resource_dir
    from diffrec.zoo.entry import Entry
    from diffrec.zoo.index import read_index, zoo_dir
    from diffrec.zoo.loading import load
    from diffrec.zoo.saving import outdated, refresh

    if args.check and args.dtype:
        raise UsageError("--check writes nothing, so it does not go with --dtype")
    root, code = zoo_dir(), 0
    results = read_results(args.results or resource_dir("benchmarks") / "results")
    for name in args.names or [name for name in read_index(root) if (root / name).is_dir()]:
        entry = Entry.open(root / name)
        model = load(entry.folder, offline=True)
        known = known_of(entry, model, results)
        if args.check:
            behind = outdated(entry, model, known)
            code = 1 if behind else code
            print_line(f"{name}: {' and '.join(behind)} would be written anew" if behind else f"{name}: up to date")
            continue
        changed = refresh(entry, known)
        if args.dtype:
            changed = _narrow(Entry.open(root / name), args.dtype) or changed
        size = sum(file.size for file in Entry.open(root / name).files.values())
        print_line(f"{name}: {'written again' if changed else 'as it was'}, {size:,} bytes")
    return code if args.check else write_index()


def _narrow(entry: Entry, dtype: str) -> bool:
    """Round the weights of an entry that has others, whose metrics are then those of this machine."""
    from diffrec.cli.zoo_verify import ELSEWHERE, measured_here
    from diffrec.errors import IntegrityError
    from diffrec.zoo.saving import narrow, rounded
    from diffrec.zoo.verifying import verify

    verified = verify(entry)
    if verified.config.dtype == dtype:
        return False
    float32, _ = measured_here(verified, verified.model)
    stated = verified.measured.metrics
    if wrong := [metric for metric, value in stated.items() if abs(float32[metric] - value) > ELSEWHERE]:
        raise IntegrityError(f"{entry.folder.name}: {', '.join(wrong)} did not come out again within {ELSEWHERE:g}")
    metrics, evaluation = measured_here(verified, rounded(verified.model, dtype))
    return narrow(entry, dtype, metrics, float32, evaluation)


def known_of(entry: Entry, model: Recommender, results: Sequence[Result]) -> Known:
    """What records and the dataset say of an entry: training and evaluation from the record with these weights and
    metrics, of two suites with the same run from that of its own; the rest from that of its suite and seed. model: as
    loaded from the entry."""
    from diffrec.bench.provenance import weights_sha256
    from diffrec.cli.zoo_build import recipe_of
    from diffrec.zoo.config import Config, Measured
    from diffrec.zoo.entry import CONFIG, METRICS
    from diffrec.zoo.saving import Known

    name, weights = entry.folder.name, weights_sha256(model)
    measured = Measured.parse(entry.read(METRICS), str(entry.folder / METRICS))
    of = Config.parse(entry.read(CONFIG), str(entry.folder / CONFIG)).dataset
    suite, seed = recipe_of(entry)
    same = [result for result in results if result.weights_sha256 == weights and result.metrics == measured.metrics]
    same.sort(key=lambda result: (result.suite, result.seed) != (suite, seed))
    training, evaluation = facts_of(same[0], name) if same else (None, None)
    benchmark = recorded(results, suite, seed, name, measured.float32 or measured.metrics)
    return Known(training, evaluation, benchmark, None if of is None else _dataset(of.name))


@cache
def _dataset(name: str) -> Dataset | None:
    """The dataset of that name, if it is on this machine."""
    from diffrec.cli.submit import local_dataset

    try:
        return local_dataset(name)
    except DiffrecError:
        return None
