"""Tables as text: the cells that every format shares, and Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict

from diffrec.bench.comparison import MIN_SEEDS, SHOWN, WITHOUT_DIFFUSION
from diffrec.bench.leaderboard import Row, Statistic, Table
from diffrec.bench.result import Decoding

COSTS = ("calls", "ms/user", "params", "train")
_NAMES = {"ndcg": "NDCG", "recall": "Recall", "hit_rate": "Hit rate", "mrr": "MRR"}
LEGEND = (
    "± is the standard deviation over seeds; a seed whose lists depend on sampling noise counts with its mean over the "
    "draws of it. calls: denoiser calls per request. ms/user: one request at a "
    "time, ten items. ° needs no training by gradients; └ is a control for the row above it, named <row>-<control>; ★ "
    "is the best row or not distinguishable from it (paired bootstrap and Wilcoxon over users, Holm, .05). ‡ marks "
    "costs on an accelerator."
)


def header(table: Table) -> tuple[str, ...]:
    """The names of the columns."""
    return ("model", "seeds", *map(metric_name, table.columns), *(["beams"] if _has_beams(table) else []), *COSTS)


def _has_beams(table: Table) -> bool:
    return any(row.num_beams for row in table.rows)


def metric_name(metric: str) -> str:
    """`ndcg@10` as people write it: `NDCG@10`."""
    name, at, cutoff = metric.partition("@")
    return _NAMES.get(name, name) + at + cutoff


def shown_name(row: Row, table: Table) -> str:
    """The name of a row; of a control below its row `└ noise-off` for `diffrec-noise-off`."""
    if row.role != "control":
        return row.model
    below = any(other.model == row.control_of for other in table.rows)
    return "└ " + (row.model.removeprefix(f"{row.control_of}-") if below else row.model)


def cells(row: Row, table: Table) -> tuple[str, ...]:
    """One row as text, in the order of `header`."""
    level = table.level or ()
    return (
        shown_name(row, table) + ("°" if row.role == "training-free" else "") + ("★" if row.model in level else ""),
        str(len(row.seeds)),
        *(accuracy(row.metrics[column]) + ("" if row.reaches(column) else "†") for column in table.columns),
        *([str(row.num_beams or "-")] if _has_beams(table) else []),
        str(row.denoiser_calls),
        _significant(row.ms_per_user) + ("" if row.device == "cpu" else "‡"),
        count(row.parameters),
        duration(row.train_seconds),
    )


def caption(table: Table) -> str:
    """What the numbers of a table rest on, and on lines of their own what rows earned, papers say, the table lacks."""
    lacks = "; ".join(name if reason is None else f"{name} ({reason})" for name, reason in table.lacks.items())
    return (
        f"{table.test_users:,} test users, sorted for {table.headline}; data sha256 {table.dataset_sha256[:12]}, "
        f"suite version {table.suite_version}; measured on {' and '.join(table.machines)}."
    ) + "".join(
        f"\n{line}"
        for line in (
            *_machines(table),
            *_badges(table),
            *_trials(table),
            *_decoding(table),
            *_reported(table),
            *([f"lacks: {lacks}"] if lacks else []),
        )
    )


def _machines(table: Table) -> list[str]:
    """Where costs of several machines stand in one table, which those are and how many rows each measured."""
    if len(table.timed_on) < 2:
        return []
    named = ", ".join(f"{name} ({rows} row{'s' * (rows != 1)})" for name, rows in table.timed_on.items())
    return [f"ms/user and train are of several machines, and compare within one only: {named}"]


def _badges(table: Table) -> list[str]:
    """`beats counting: sasrec (1 seed)`, for every badge that a trained row may earn, and whom nobody tested for it."""
    if not table.badges:
        return []
    earned = {badge: [model for model, badges in table.badges.items() if badge in badges] for badge in SHOWN}
    said = [
        f"{badge}: {', '.join(model + _few_seeds(table, model, badge) for model in sorted(models)) or 'no row'}"
        for badge, models in earned.items()
    ]
    if table.untested:
        said.append(f"not tested for lack of controls: {', '.join(sorted(table.untested))}")
    return ["; ".join(said)]


def _few_seeds(table: Table, model: str, badge: str) -> str:
    """` (1 seed)` where the row, or one of its controls that the badge is about, has fewer than MIN_SEEDS."""
    names = {model, *(f"{model}-{control}" for control in WITHOUT_DIFFUSION if badge == "diffusion helps")}
    fewest = min(len(row.seeds) for row in table.rows if row.model in names)
    return f" ({fewest} seed{'s' * (fewest > 1)})" if fewest < MIN_SEEDS else ""


def _trials(table: Table) -> list[str]:
    """Which rows were searched for, and with how many settings; controls have those of their rows."""
    own = [row for row in table.rows if row.role != "control" and row.model != "popularity"]
    counts = sorted({row.trials for row in own}, reverse=True)
    kinds = {number: ", ".join(sorted(row.model for row in own if row.trials == number)) for number in counts}
    searched = "; ".join(f"{number} of {names}" for number, names in kinds.items() if number)
    stated = f"settings stated by a paper or a recipe: {kinds[0]}" if 0 in kinds else ""
    said = [f"settings tried on validation: {searched}" if searched else "", stated]
    return ["; ".join(filter(None, said))] if any(said) else []


def _decoding(table: Table) -> list[str]:
    """What beams are, and one line for each row over semantic IDs of which it was counted where they ended."""
    told = [
        "beams: tuples of codes that are kept from code to code. A list has no more items from them: a metric "
        "marked † has a cutoff above that, and is what it is at as many places as beams"
    ]
    for row in table.rows:
        if row.decoding is not None:
            told.append(f"codes of {row.model}: {'; '.join(_decoded(row.decoding))}")
    return told[0 if _has_beams(table) else 1 :]


def _decoded(decoding: Decoding) -> list[str]:
    """What was counted of one row."""
    words = [f"{decoding.colliding:.1%} of the items share their codes with another"]
    if (beams := decoding.beams) is not None:
        short = ", ".join(f"{share:.1%} of {cutoff} places" for cutoff, share in beams.short.items() if share)
        words += [
            f"of the beams {beams.invalid:.1%} are no item{' (by construction)' * beams.constrained}, "
            f"{beams.repeated:.1%} end at the item of a better one, {beams.lost:.1%} end nowhere, "
            f"{beams.shared:.1%} end at codes of several items",
            f"lists with fewer items from beams than places: {short or 'none'}",
        ]
    return words


def _reported(table: Table) -> list[str]:
    """One line for each number of a paper, with ours and how far apart they are."""
    return [
        f"reported for {row.model}: {metric_name(said.metric)} {_decimal(said.value)} ({said.status}: {said.source}); "
        f"here {_decimal(row.metrics[said.metric].mean)}, {row.metrics[said.metric].mean / said.value - 1:+.1%}"
        for row in table.rows
        for said in row.reported
        if said.metric in row.metrics
    ]


def _decimal(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def accuracy(statistic: Statistic) -> str:
    """`.0862 ±.0012`, or `.0862` where there is one seed."""
    spread = "" if statistic.spread is None else f" ±{statistic.spread:.4f}".replace("±0.", "±.")
    return _decimal(statistic.mean) + spread


def count(number: int) -> str:
    """`12`, `3.4k`, `7.9M` or `2.1G`."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= 0.9995 * size:  # where three digits round up to it
            return f"{number / size:.3g}{letter}"
    return str(number)


def duration(seconds: float) -> str:
    """`0.4 s`, `61 s`, `12 min` or `3.1 h`."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def _significant(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.3g}"


def markdown(tables: Sequence[Table]) -> str:
    """The content of `benchmarks/LEADERBOARD.md`."""
    parts = [
        "# Leaderboard",
        "Made from the files in `results/` by `diffrec leaderboard --write`; do not edit. Rows are compared "
        f"inside one table only. {LEGEND}",
        "Below a table: *beats counting* names the trained rows that are better than every row without training "
        "(°) in it, *diffusion helps* the diffusion rows that are better than all of their controls without diffusion, "
        "both by those tests, corrected over all comparisons of the table, and by a bootstrap that draws seeds before "
        f"users; fewer than {MIN_SEEDS} seeds, of the row or of those controls, are said. "
        "*Not tested* are rows of which a declared control was not run; "
        "*reported* is what a source states beside what came out here, with the kind of source; *lacks* "
        "says why a row that every table should have is not there.",
    ]
    for table in tables:
        parts += [f"## {_escaped(table.title)}", markdown_table(table), *map(_escaped, caption(table).splitlines())]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """One table."""
    names = header(table)
    return markdown_rows([names, ("---", *["---:"] * (len(names) - 1)), *(cells(row, table) for row in table.rows)])


def markdown_rows(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the second of them the rule below the header."""
    return "\n".join("| " + " | ".join(map(_escaped, line)) + " |" for line in lines)


def _escaped(text: str) -> str:
    """Markdown and HTML of foreign names, made harmless."""
    for character, instead in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("[", "\\["), ("`", "\\`"), ("\n", " ")):
        text = text.replace(character, instead)
    return text


def to_json(tables: Sequence[Table]) -> str:
    """All tables with all metrics."""
    return json.dumps([asdict(table) for table in tables], indent=2) + "\n"


def to_csv(tables: Sequence[Table]) -> str:
    """One line a row, all tables below one another; of a metric the mean, `_sd` over seeds, `_draw_sd` over draws."""
    metrics = sorted({name for table in tables for row in table.rows for name in row.metrics})
    columns = ["suite", "dataset", "protocol", "model", "role", "control_of", "seeds", "draws", "denoiser_calls"]
    columns += [
        "ms_per_user",
        "parameters",
        "train_seconds",
        "device",
        "processor",
        "threads",
        "num_beams",
        "trials",
        *(c for m in metrics for c in (m, f"{m}_sd", f"{m}_draw_sd")),
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for table in tables:
        writer.writerows({key: csv_cell(value) for key, value in _flat(table, row).items()} for row in table.rows)
    return text.getvalue()


def csv_cell(value: object) -> object:
    """`value`, or, where a spreadsheet would take its text for a formula, that behind an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _flat(table: Table, row: Row) -> dict[str, object]:
    values = {m: s.mean for m, s in row.metrics.items()} | {f"{m}_sd": s.spread for m, s in row.metrics.items()}
    names = {"suite": table.suite, "dataset": table.dataset, "protocol": table.protocol}
    values |= {f"{m}_draw_sd": (row.draw_spread or {}).get(m) for m in row.metrics}
    nested = ("metrics", "seeds", "draw_spread", "reported", "decoding")
    plain = {key: value for key, value in vars(row).items() if key not in nested}
    return {**names, **plain, "seeds": len(row.seeds), **values}
