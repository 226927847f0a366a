"""`diffrec zoo refresh`: entries in the form that they are written in today, without training anything."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffrec.cli.entries import facts_of
from diffrec.cli.printable import print_line

if TYPE_CHECKING:
    from diffrec.bench.result import Result
    from diffrec.zoo.config import Evaluation, Training
    from diffrec.zoo.entry import Entry

HELP = "write entries of the zoo again as they are written today (golden lists, card, types), weights and metrics kept"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which entries, and where the records are."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="all entries of the zoo folder if none is given")
    parser.add_argument("--dtype", choices=("float16",),
                        help="round the weights to it, measured with and without and refused where it costs "
                             "accuracy")  # fmt: skip
    parser.add_argument("--results", type=Path, metavar="DIR",
                        help="records that say what was measured on what (default: benchmarks/results)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Refresh the entries and the list of the zoo."""
    from diffrec.bench.result import read_results
    from diffrec.cli.zoo import write_index
    from diffrec.paths import resource_dir
    from diffrec.zoo.entry import Entry
    from diffrec.zoo.index import read_index, zoo_dir
    from diffrec.zoo.saving import refresh

    root = zoo_dir()
    results = read_results(args.results or resource_dir("benchmarks") / "results")
    for name in args.names or [name for name in read_index(root) if (root / name).is_dir()]:
        entry = Entry.open(root / name)
        changed = refresh(entry, *_facts(entry, results))
        if args.dtype:
            changed = _narrow(Entry.open(root / name), args.dtype) or changed
        size = sum(file.size for file in Entry.open(root / name).files.values())
        print_line(f"{name}: {'written again' if changed else 'as it was'}, {size:,} bytes")
    return write_index()


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


def _facts(entry: Entry, results: Sequence[Result]) -> tuple[Training | None, Evaluation | None]:
    """Training and evaluation of the record with these weights and metrics, nothing where there is none."""
    from diffrec.bench.provenance import weights_sha256
    from diffrec.zoo.config import Measured
    from diffrec.zoo.entry import METRICS
    from diffrec.zoo.loading import load

    weights = weights_sha256(load(entry.folder, offline=True))
    metrics = Measured.parse(entry.read(METRICS), str(entry.folder / METRICS)).metrics
    found = (result for result in results if result.weights_sha256 == weights and result.metrics == metrics)
    return next((facts_of(result, entry.folder.name) for result in found), (None, None))
