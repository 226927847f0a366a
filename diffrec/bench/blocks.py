"""Tables inside other documents, between `<!-- table: quick/ml-100k -->` and `<!-- end -->`, made anew from results."""

from __future__ import annotations

import re
from collections.abc import Sequence

from diffrec.bench.leaderboard import Row, Table
from diffrec.bench.render import accuracy, markdown_rows, markdown_table, metric_name
from diffrec.errors import NotFoundError, near_match

_BLOCK = re.compile(r"(<!-- (table|training-free)(?:: ([^ ]+))? -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def filled(text: str, tables: Sequence[Table]) -> str:
    """`text` with every block made from `tables`; NotFoundError for one that is not among them.

    `table: <suite>/<dataset>` is one table, `training-free` has a line for every table and a column for every row
    that needs no training by gradients and that a quarter of the lines have, with the headline metric.
    """
    return _BLOCK.sub(lambda found: f"{found[1]}\n{_block(found[2], found[3], tables)}\n\n{found[5]}", text)


def _block(kind: str, name: str | None, tables: Sequence[Table]) -> str:
    if kind == "training-free":
        return _training_free(tables)
    names = {f"{table.suite}/{table.dataset}": table for table in tables}
    if name not in names:
        raise NotFoundError(f"no table {name!r}; there are: {', '.join(names)}{near_match(str(name), names)}")
    return markdown_table(names[name])


def _training_free(tables: Sequence[Table]) -> str:
    """Dataset, protocol, metric, then one column a row; the best of a line in bold, suites that agree share a line."""
    rows = [{row.model: row for row in table.rows if row.role == "training-free"} for table in tables]
    names = [name for name in _columns(rows) if sum(name in line for line in rows) >= max(2, len(rows) / 4)]
    lines = [("dataset", "protocol", "metric", *names), ("---", "---", "---", *["---:"] * len(names))]
    for table, line in zip(tables, rows, strict=True):
        best = max((line[name].metrics[table.headline].mean for name in names if name in line), default=0.0)
        values = [_value(line.get(name), table.headline, best) for name in names]
        lines.append((table.dataset, table.protocol, metric_name(table.headline), *values))
    return markdown_rows(list(dict.fromkeys(lines)))


def _columns(rows: Sequence[dict[str, Row]]) -> list[str]:
    """Every model of the lines, those of most lines first."""
    counts: dict[str, int] = {}
    for line in rows:
        for name in line:
            counts[name] = counts.get(name, 0) + 1
    return sorted(counts, key=lambda name: (-counts[name], name))


def _value(row: Row | None, metric: str, best: float) -> str:
    if row is None:
        return ""
    text = accuracy(row.metrics[metric])
    return f"**{text}**" if row.metrics[metric].mean == best else text
