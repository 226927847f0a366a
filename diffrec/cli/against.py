"""`diffrec leaderboard --against ROW`: is each row of a table better or worse than one of them?"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffrec.bench.comparison import PairedDifference
    from diffrec.bench.result import Result

HEADER = ("model", "", "difference", "95 % interval", "p (Holm)", "MDD")


def show_against(
    results: Sequence[Result], folder: Path, row: str, metrics: Sequence[str], form: str, over_seeds: bool
) -> None:
    """Print, for each table that has the row, the paired difference of every other one; `form` as for the tables.

    over_seeds: of methods instead of checkpoints, see `comparison.against`.

    Raises NotFoundError where no table has it, UsageError for an unknown metric.
    """
    from diffrec.bench.comparison import against
    from diffrec.bench.leaderboard import comparable
    from diffrec.errors import choose

    choose("row", row, {result.model for result in results})
    found = [
        (group, metric, against(group, folder, row, metric, over_seeds))
        for group in comparable(results)
        if row in {result.model for result in group}
        for metric in metrics or (group[0].headline,)
    ]
    {"table": _tables, "markdown": _markdown, "csv": _csv, "json": _json}[form](row, found, over_seeds)


Found = Sequence[tuple[Sequence["Result"], str, tuple["PairedDifference", ...]]]


def _trained_once(group: Sequence[Result]) -> str:
    """The rows of a table of which nobody knows what another seed would give."""
    trained = Counter(result.model for result in group if result.role != "training-free")
    return ", ".join(sorted(model for model, seeds in trained.items() if seeds == 1))


def _title(first: Result, metric: str, row: str, over_seeds: bool) -> str:
    from diffrec.bench.render import metric_name

    what = f"{metric_name(metric)} minus that of {row}{', over seeds' if over_seeds else ''}"
    return f"{first.suite} · {first.dataset} · {first.protocol}: {what}"


def _cells(pair: PairedDifference) -> tuple[str, ...]:
    signs = (f"{number:+.4f}".replace("0.", ".", 1) for number in (pair.difference, pair.low, pair.high))
    difference, low, high = signs
    p = "< .001" if pair.p_holm < 0.001 else f"{pair.p_holm:.3f}".replace("0.", ".", 1)
    value, detectable = (f"{number:.4f}".replace("0.", ".", 1) for number in (pair.value, pair.detectable))
    return pair.model, value, difference, f"{low} to {high}", p, detectable


def _header(metric: str) -> tuple[str, ...]:
    from diffrec.bench.render import metric_name

    return tuple(name or metric_name(metric) for name in HEADER)


def _tables(row: str, found: Found, over_seeds: bool) -> None:
    from rich.table import Table as Grid
    from rich.text import Text

    from diffrec.cli.printable import page_console, printable

    console = page_console()
    for group, metric, pairs in found:
        grid = Grid(box=None, padding=(0, 1, 0, 0), pad_edge=False)
        for number, name in enumerate(_header(metric)):
            grid.add_column(name, justify="right" if number else "left", no_wrap=number > 0, overflow="fold")
        for pair in pairs:
            grid.add_row(*(Text(printable(cell), style="bold" if pair.p_holm < 0.05 else "") for cell in _cells(pair)))
        console.print(Text(printable(_title(group[0], metric, row, over_seeds)), style="bold"))
        console.print(grid)
        if over_seeds and (once := _trained_once(group)):
            console.print(Text(printable(f"One seed, which tells nothing of others: {once}."), style="dim"))
        console.print()
    text = "Paired over users, rows as means over their seeds; p: the larger of bootstrap and Wilcoxon, corrected."
    if over_seeds:
        text = "Of methods, not of these checkpoints: seeds and users are drawn anew; p: of that bootstrap, corrected."
    console.print(Text(text, style="dim"))
    text = "MDD: the minimal detectable difference, which a test over these users would find four times in five."
    console.print(Text(text, style="dim"))


def _markdown(row: str, found: Found, over_seeds: bool) -> None:
    for group, metric, pairs in found:
        lines = [
            f"**{_title(group[0], metric, row, over_seeds)}**",
            "",
            "| " + " | ".join(_header(metric)) + " |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        lines += ["| " + " | ".join(_cells(pair)) + " |" for pair in pairs]
        sys.stdout.write("\n".join(lines) + "\n\n")


def _records(row: str, found: Found, over_seeds: bool) -> list[dict[str, Any]]:
    said = {"against": row, "over_seeds": over_seeds}
    return [
        {"suite": group[0].suite, "dataset": group[0].dataset, "protocol": group[0].protocol, "metric": metric, **said}
        | asdict(pair)
        for group, metric, pairs in found
        for pair in pairs
    ]


def _csv(row: str, found: Found, over_seeds: bool) -> None:
    from diffrec.bench.render import csv_cell

    records = _records(row, found, over_seeds)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*records[0]] if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in record.items()} for record in records)
    sys.stdout.write(text.getvalue())


def _json(row: str, found: Found, over_seeds: bool) -> None:
    sys.stdout.write(json.dumps(_records(row, found, over_seeds), indent=2, allow_nan=False) + "\n")
