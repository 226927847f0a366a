"""`diffrec leaderboard`: the table of all results, for a terminal, a file or a program."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffrec.errors import NotFoundError, UsageError
from diffrec.paths import resource_dir

if TYPE_CHECKING:
    from diffrec.bench.leaderboard import Table
    from diffrec.bench.result import Result

HELP = "show the results of the benchmark suites, one table for each dataset and protocol"
_DOUBTFUL = "was not committed or is unknown"
_NAME_WIDTH = 40  # longer names are broken
FORMATS = ("table", "markdown", "csv", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to show, sorted by what, in which format."""
    parser.add_argument("--suite", metavar="NAME", help="only this suite")
    parser.add_argument("--dataset", metavar="NAME", help="only this dataset")
    text = "a metric such as recall@10, or denoiser_calls, ms_per_user, parameters, train_seconds, model"
    parser.add_argument("--sort", metavar="COLUMN", help=f"{text} (default: the protocol's headline metric)")
    text = "metrics to show instead of NDCG@10 and recall, such as mrr recall@50"
    parser.add_argument("--metric", nargs="+", default=[], metavar="NAME", help=text)
    text = "instead: the paired difference of every row of its tables to this one, with intervals and p-values"
    parser.add_argument("--against", metavar="MODEL", help=text)
    text = "with --against: compare methods instead of these checkpoints: seeds are drawn anew as users are"
    parser.add_argument("--over-seeds", action="store_true", help=text)
    parser.add_argument("--format", choices=FORMATS, default="table", help="(default: table)")
    parser.add_argument("--results", type=Path, metavar="DIR", help="(default: benchmarks/results)")
    text = "also write pictures there, each with the CSV of what it shows"
    parser.add_argument("--plots", type=Path, metavar="DIR", help=text)
    parser.add_argument(
        "--write", action="store_true", help="write LEADERBOARD.md beside the results, and the tables of the README"
    )


def run(args: argparse.Namespace) -> int:
    """Print or write the tables. A table that may not be shown is an error, after those that may."""
    chosen = (args.suite, args.dataset, args.sort, args.metric, args.plots, args.against, args.over_seeds,
              args.format != "table")  # fmt: skip
    if args.write and any(chosen):
        raise UsageError("--write makes the whole LEADERBOARD.md; it takes no option but --results")
    if args.against and (args.sort or args.plots):
        raise UsageError("--against is sorted by the difference and draws nothing: leave out --sort and --plots")
    if args.over_seeds and not args.against:
        raise UsageError("--over-seeds says how --against compares: give --against MODEL, too")
    from diffrec.bench.leaderboard import with_metrics

    folder = args.results or default_results()
    results = read_chosen(folder, args.suite, args.dataset)
    if args.against:
        from diffrec.cli.against import show_against

        show_against(results, folder, args.against, args.metric, args.format, args.over_seeds)
        return 0
    tables, refused = make_tables(results, folder, args.sort)
    doubtful = [result for result in results if not result.repeatable]
    if args.write:
        if refused := [*refused, *_redo(doubtful, folder)]:
            raise UsageError("\n".join(refused))
        return _write(results, tables, folder)
    tables = [with_metrics(table, args.metric) for table in tables]
    show(tables, args.format)
    if args.plots:
        _draw(tables, args.plots)
    if pending := [table.title for table in tables if table.level is None and len(table.rows) > 1]:
        sys.stderr.write(f"note: rows not compared yet, 'diffrec bench compare' does: {', '.join(pending)}\n")
    if doubtful:
        sys.stderr.write(f"note: {len(doubtful)} of {len(results)} results rest on code that {_DOUBTFUL}\n")
    if refused:
        raise UsageError("\n".join(refused))
    return 0


def default_results() -> Path:
    """`benchmarks/results` here, where `diffrec bench run` writes, else the results that came with the package."""
    here = Path("benchmarks") / "results"
    return here if here.is_dir() else resource_dir("benchmarks") / "results"


def read_chosen(folder: Path, suite: str | None = None, dataset: str | None = None) -> list[Result]:
    """The results below `folder`, of one suite and dataset if told so; NotFoundError for what is not there."""
    from diffrec.bench.result import read_results, result_files
    from diffrec.errors import near_match

    files = result_files(folder)
    for what, asked, place in (("suite", suite, -4), ("dataset", dataset, -3)):
        there, where = {path.parts[place] for path in files}, folder / (suite or "") if what == "dataset" else folder
        if asked is not None and asked not in there:
            known = ", ".join(sorted(there)) or "none"
            raise NotFoundError(
                f"no results of {what} {asked!r} in {where}; there are: {known}{near_match(asked, there)}"
            )
        files = [path for path in files if asked in (None, path.parts[place])]
    if not files:
        raise NotFoundError(f"no results in {folder}; 'diffrec bench run quick' makes some")
    return read_results(folder, files)


def compare_all(results: Sequence[Result], folder: Path) -> list[Path]:
    """Compare the rows of every table whose results have changed since that was done; the files that say it."""
    from diffrec.bench.comparison import write_comparison
    from diffrec.bench.leaderboard import comparable

    written = [write_comparison(group, folder) for group in comparable(results)]
    return [path for path in written if path is not None]


def make_tables(results: Sequence[Result], folder: Path, sort: str | None = None) -> tuple[list[Table], list[str]]:
    """The tables of the results below `folder`, and why others are refused."""
    from diffrec.bench.comparison import stored
    from diffrec.bench.leaderboard import comparable, table, with_comparison, with_shipped_suite

    tables, refused = [], []
    for group in comparable(results):
        try:
            tables.append(with_comparison(with_shipped_suite(table(group, sort)), stored(group, folder)))
        except UsageError as error:
            refused.append(str(error))
    return tables, refused


def _redo(doubtful: Sequence[Result], folder: Path) -> Iterator[str]:
    """Which results may not be published, and the command that makes them anew: one line a suite."""
    from diffrec.cli.bench import DEFAULT_RESULTS

    where = "" if folder == DEFAULT_RESULTS else f" --results {folder}"
    for suite in sorted({result.suite for result in doubtful}):
        mine = [result for result in doubtful if result.suite == suite]
        models = " ".join(sorted({result.model for result in mine}))
        seeds = " ".join(str(seed) for seed in sorted({result.seed for result in mine}))
        yield (
            f"not published, for the code {_DOUBTFUL}: {', '.join(str(result.path) for result in mine)}; commit, then "
            f"'diffrec bench run {suite} --only {models} --seeds {seeds} --force{where}'"
        )


def _draw(tables: Sequence[Table], folder: Path) -> None:
    """Accuracy, accuracy against cost, and reported against reproduced."""
    from diffrec.bench.plots import accuracy_chart, cost_chart, reported_chart

    written = []
    for table in tables:
        name = f"{table.suite}.{table.dataset}"
        written += accuracy_chart(table, folder / f"{name}.accuracy.png")
        written += cost_chart(table, folder / f"{name}.cost.png")
    if any(row.reported for table in tables for row in table.rows):
        written += reported_chart(tables, folder / "reported.png")
    sys.stderr.write("".join(f"{path}\n" for path in written))


def show(tables: Sequence[Table], form: str = "table") -> None:
    """Print the tables in one of FORMATS."""
    from diffrec.bench.render import markdown, to_csv, to_json

    if form == "table":
        _print_tables(tables)
    else:
        sys.stdout.write({"markdown": markdown, "csv": to_csv, "json": to_json}[form](tables))


def _write(results: Sequence[Result], tables: Sequence[Table], folder: Path) -> int:
    from diffrec.bench.blocks import filled
    from diffrec.bench.leaderboard import publishable
    from diffrec.bench.render import markdown
    from diffrec.files import write_file

    publishable(tables)
    compare_all(results, folder)
    compared = make_tables(results, folder)[0]
    path, readme = folder.parent / "LEADERBOARD.md", folder.parent.parent / "README.md"
    write_file(path, markdown(compared).encode())
    sys.stdout.write(f"{path}\n")
    if readme.is_file() and (text := readme.read_text(encoding="utf-8")) != (new := filled(text, compared)):
        write_file(readme, new.encode())
        sys.stdout.write(f"{readme}\n")
    return 0


def _print_tables(tables: Sequence[Table]) -> None:
    from rich.table import Table as Grid
    from rich.text import Text

    from diffrec.bench.render import LEGEND, caption, cells, header
    from diffrec.cli.printable import page_console, printable

    console = page_console()
    for table in tables:
        names, rows = header(table), [[printable(cell) for cell in cells(row, table)] for row in table.rows]
        console.print(Text(printable(table.title), style="bold"))
        widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
        for columns in _side_by_side(widths, console.width):
            grid = Grid(box=None, padding=(0, 1, 0, 0), pad_edge=False)
            grid.add_column(names[0], overflow="fold", max_width=_NAME_WIDTH)
            for number in columns:
                grid.add_column(names[number], justify="right", no_wrap=True)
            for row, line in zip(table.rows, rows, strict=True):
                style = {"model": "bold", "control": "dim", "training-free": ""}[row.role]
                grid.add_row(*(Text(line[number], style=style) for number in (0, *columns)))
            console.print(grid)
        console.print(Text("\n".join([*map(printable, caption(table).splitlines()), ""]), style="dim"))
    if tables:
        console.print(Text(LEGEND, style="dim"))


def _side_by_side(widths: Sequence[int], room: int) -> list[list[int]]:
    """The columns beside the names in each block of a table whose columns have `widths`, names first. Where `room` is
    too narrow for one block, costs stand in their own."""
    from diffrec.bench.render import COSTS

    name, *others = (width + 1 for width in (min(widths[0], _NAME_WIDTH), *widths[1:]))
    if name + sum(others) - 1 <= room:
        return [list(range(1, len(widths)))]
    blocks, used = [], 0
    for number, width in enumerate(others, start=1):
        if number in (1, len(widths) - len(COSTS)) or used + width - 1 > room:
            blocks.append([])
            used = name
        blocks[-1].append(number)
        used += width
    return blocks
