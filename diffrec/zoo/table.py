"""The zoo as tables in a document, between `<!-- zoo -->` and `<!-- end of zoo -->`, made anew from the manifest."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from diffrec.zoo.index import Listing

_BLOCK = re.compile(r"(<!-- zoo -->\n).*?(<!-- end of zoo -->)", re.DOTALL)
_METRICS = ("ndcg@10", "recall@10", "recall@20")


def filled(text: str, rows: Mapping[str, Listing], absent: Collection[str] = ()) -> str:
    """`text` with its block made from the rows; as it is where it has none. absent: see `table`."""
    return _BLOCK.sub(lambda found: f"{found[1]}\n{folded(rows, absent)}\n\n{found[2]}", text)


def folded(rows: Mapping[str, Listing], absent: Collection[str] = ()) -> str:
    """A table for each dataset, each below a line that opens it."""
    parts = []
    for dataset in sorted({row.dataset or "" for row in rows.values()}):
        there = {name: row for name, row in rows.items() if (row.dataset or "") == dataset}
        models = "1 model" if len(there) == 1 else f"{len(there)} models"
        summary = f"<summary>{dataset or 'of no named dataset'}: {models}</summary>"
        parts.append(f"<details>{summary}\n\n{table(there, absent)}\n\n</details>")
    return "\n".join(parts)


def table(rows: Mapping[str, Listing], absent: Collection[str] = ()) -> str:
    """Markdown, a line an entry, best first under each protocol; absent: names without files, marked."""
    shown = [metric for metric in _METRICS if any(metric in row.metrics for row in rows.values())]
    head = ["name", "protocol", *(metric.replace("ndcg", "NDCG").replace("recall", "Recall") for metric in shown),
            "calls", "ms", "params", "size"]  # fmt: skip
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for name, row in sorted(rows.items(), key=lambda named: _place(*named)):
        metrics = [measured(row, metric).replace("0.", ".") for metric in shown]
        size = f"{short(row.size)}B" + "†" * (name in absent)
        cost = [str(row.denoiser_calls), milliseconds(row), short(row.parameters), size]
        lines.append([f"`{name}`", row.protocol or "", *metrics, *cost])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _place(name: str, row: Listing) -> tuple[str, float, str]:
    return row.protocol or "", -row.metrics.get(_METRICS[0], float("-inf")), name


def measured(row: Listing, metric: str) -> str:
    """`0.0903`, with ` ±0.0012` behind it where the spread over seeds is known; empty where not measured."""
    spread = f" ±{row.sd[metric]:.4f}" if metric in row.sd else ""
    return f"{row.metrics[metric]:.4f}{spread}" if metric in row.metrics else ""


def milliseconds(row: Listing) -> str:
    """For the list of one user, with a star where an accelerator made it; empty where not measured."""
    if (ms := row.ms_per_user.get("1")) is None:
        return ""
    return (f"{ms:#.2g}" if ms < 9.95 else f"{ms:.0f}") + "*" * (row.device != "cpu")


def short(count: int) -> str:
    """1234567 -> '1.2M'."""
    value, unit = float(count), ""
    for larger in ("k", "M", "G"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f}{unit}" if unit and value < 99.5 else f"{value:.0f}{unit}"
