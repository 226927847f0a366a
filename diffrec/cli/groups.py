"""`diffrec bench groups`: how good each row is at items that training met never, seldom or often."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from diffrec.cli.leaderboard import default_results, read_chosen
from diffrec.errors import UsageError

if TYPE_CHECKING:
    from diffrec.bench.groups import Groups

HELP = "accuracy by how often training met the true item, cold items apart; from the ranks beside the results"
SCHEMA_VERSION = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which results, which metric, which groups."""
    parser.add_argument("--suite", metavar="NAME", help="only this suite")
    parser.add_argument("--dataset", metavar="NAME", help="only this dataset")
    parser.add_argument("--metric", default="ndcg@10", metavar="NAME", help="(default: ndcg@10)")
    text = "least numbers of training interactions of the groups (default: 0,1,5,20,100)"
    parser.add_argument("--bounds", type=_bounds, metavar="N,N,...", help=text)
    parser.add_argument("--format", choices=("table", "json"), default="table", help="(default: table)")
    parser.add_argument("--results", type=Path, metavar="DIR", help="(default: benchmarks/results)")


def run(args: argparse.Namespace) -> int:
    """Print a table for each dataset and protocol."""
    from diffrec.bench.groups import BOUNDS, by_training_count
    from diffrec.strict_json import to_json

    folder = args.results or default_results()
    tables = by_training_count(
        read_chosen(folder, args.suite, args.dataset), folder, args.metric, args.bounds or BOUNDS
    )
    if not tables:
        raise UsageError(f"no result below {folder} has ranks beside it")
    if args.format == "json":
        plain = [asdict(table) for table in tables]
        for table in plain:
            for row in table["rows"]:
                row["values"] = [None if math.isnan(value) else value for value in row["values"]]
        sys.stdout.write(to_json({"schema_version": SCHEMA_VERSION, "tables": plain}).decode())
    else:
        for table in tables:
            _print(table)
    return 0


def names_of(bounds: Sequence[int]) -> list[str]:
    """`cold`, `1-4`, `5+`."""
    ends = [*(bound - 1 for bound in bounds[1:]), None]
    spans = [f"{low}+" if high is None else str(low) if low == high else f"{low}-{high}"
             for low, high in zip(bounds, ends, strict=True)]  # fmt: skip
    return ["cold" if span == "0" else span for span in spans]


def _bounds(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(word) for word in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or numbers[0] != 0 or list(numbers) != sorted(set(numbers)):
        raise argparse.ArgumentTypeError(f"{text!r} is no rising list of whole numbers from 0, such as 0,1,5")
    return numbers


def _print(table: Groups) -> None:
    from rich.table import Table
    from rich.text import Text

    from diffrec.bench.render import metric_name
    from diffrec.cli.printable import printable, table_console

    console = table_console()
    about = f"{table.suite} · {table.dataset} · {table.protocol} · {metric_name(table.metric)} by training interactions"
    console.print(Text(printable(about), style="bold"))
    grid = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_column("model", no_wrap=True)
    for name in (*names_of(table.bounds), "all"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_row("targets", *(f"{number:,}" for number in table.targets), style="dim")
    for row in table.rows:
        numbers = ("-" if math.isnan(value) else f"{value:.4f}".removeprefix("0") for value in row.values)
        grid.add_row(printable(row.model), *numbers)
    console.print(grid)
