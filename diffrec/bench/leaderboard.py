"""Result records -> tables. A pure function: nothing here knows a model, a clock or a machine."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from diffrec.bench.comparison import Comparison, granted, untested
from diffrec.bench.result import BEAM_SHARES, Decoding, Reported, Result, Role
from diffrec.bench.same_settings import same_settings
from diffrec.errors import UsageError, choose
from diffrec.paths import resource_dir

if TYPE_CHECKING:
    from diffrec.bench.suite import Suite

# Every published table has these rows, or its suite says why not.
REQUIRED: Mapping[str, Role] = {
    "popularity": "training-free",
    "markov": "training-free",
    "sequential-rules": "training-free",
    "item-knn": "training-free",
    "ease": "training-free",
    "sasrec": "model",
}
COSTS = ("denoiser_calls", "ms_per_user", "parameters", "train_seconds")


@dataclass(frozen=True)
class Statistic:
    """Mean over seeds and its standard deviation (divisor n - 1); None where there is one seed."""

    mean: float
    spread: float | None


@dataclass(frozen=True)
class Row:
    """A model over its seeds. ms_per_user: one request at a time; costs are means over seeds.

    draws: of the sampling noise in each run; draw_spread: by metric, the standard deviation over draws as a mean
    over seeds, None for a single draw; reported: what papers say of this row on these data, by the records or the
    suite; device: `cpu`, or the accelerators that its costs were measured on; processor, threads: the CPUs beside them
    and on how many threads, several where the seeds ran on several; num_beams, decoding: of models over semantic IDs,
    as in `Result`, None for all others; of `decoding` the mean over those seeds that counted it; trials: how many
    settings were tried on validation by `diffrec bench tune`, 0 where a paper or a recipe states them.
    """

    model: str
    role: Role
    control_of: str | None
    seeds: tuple[int, ...]
    metrics: dict[str, Statistic]
    draws: int
    draw_spread: dict[str, float] | None
    reported: tuple[Reported, ...]
    denoiser_calls: int
    ms_per_user: float
    parameters: int
    train_seconds: float
    device: str = "cpu"
    processor: str = ""
    threads: str = ""
    num_beams: int | None = None
    decoding: Decoding | None = None
    trials: int = 0

    def reaches(self, metric: str) -> bool:
        """Whether a list is as long as the cutoff of a metric; one written by beams has `num_beams` items at most."""
        cutoff = metric.partition("@")[2]
        return self.num_beams is None or not cutoff or int(cutoff) <= self.num_beams


@dataclass(frozen=True)
class Table:
    """The rows that may be compared: one suite, one dataset, one protocol. Controls follow their model.

    lacks: required models that have no row, with the reason that the suite states or None; shown: the metrics that
    are printed, see `columns`; level: the best row and those not distinguishable from it, None where the rows were
    not compared; badges: what trained rows earned here; untested: the diffusion rows whose controls were not all run;
    timed_on: on how many rows each machine measured costs, most first.
    """

    suite: str
    suite_version: int
    dataset: str
    dataset_sha256: str
    protocol: str
    headline: str
    test_users: int
    machines: tuple[str, ...]
    rows: tuple[Row, ...]
    lacks: dict[str, str | None]
    shown: tuple[str, ...] = ()
    level: tuple[str, ...] | None = None
    badges: dict[str, tuple[str, ...]] = field(default_factory=dict)
    untested: tuple[str, ...] = ()
    timed_on: dict[str, int] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """The metrics that are printed; if none is chosen NDCG@10 and the headline's recall, Recall@10 for an NDCG."""
        return self.shown or ("ndcg@10", self.headline if self.headline.startswith("recall") else "recall@10")

    @property
    def title(self) -> str:
        """Where the numbers belong."""
        return f"{self.suite} · {self.dataset} · {self.protocol}"


def leaderboard(results: Iterable[Result]) -> list[Table]:
    """One table for each (suite, dataset, protocol), by name."""
    return [table(group) for group in comparable(results)]


def comparable(results: Iterable[Result]) -> list[list[Result]]:
    """The results cut into groups of one suite, dataset and protocol."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.suite, result.dataset, result.protocol), []).append(result)
    return [groups[key] for key in sorted(groups)]


def table(results: Sequence[Result], sort: str | None = None) -> Table:
    """The table of results that share suite, dataset and protocol.

    sort: a metric, a cost or `model`; the headline metric unless given. Raises UsageError where the
    results differ in what they measured.
    """
    first = results[0]
    where = f"{first.suite}/{first.dataset} under {first.protocol}"
    _same(results, where)
    by_model: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda r: (r.model, r.seed)):
        by_model.setdefault(result.model, []).append(result)
    rows = [_row(seeds) for seeds in by_model.values()]
    return Table(
        suite=first.suite,
        suite_version=first.suite_version,
        dataset=first.dataset,
        dataset_sha256=first.dataset_sha256,
        protocol=first.protocol,
        headline=first.headline,
        test_users=first.split_counts["test_users"],
        machines=tuple(sorted({f"{r.device}, {_threads(r)}" for r in results})),
        rows=tuple(_ordered(rows, sort or first.headline)),
        lacks=dict.fromkeys(_lacking(results)),
        timed_on=_timed_on(results),
    )


def with_comparison(table: Table, comparison: Comparison | None) -> Table:
    """`table` with what the comparison of its rows says."""
    if comparison is None:
        return table
    level, badges = (comparison.best, *comparison.level), dict(granted(comparison))
    return replace(table, level=level, badges=badges, untested=untested(comparison))


def with_metrics(table: Table, metrics: Sequence[str]) -> Table:
    """`table` with these metrics printed; NotFoundError for one that not every row has."""
    there = sorted(set.intersection(*(set(row.metrics) for row in table.rows)))
    return replace(table, shown=tuple(choose("metric", name, there) for name in metrics))


def with_reasons(table: Table, without: Mapping[str, str]) -> Table:
    """`table` with the reasons that a suite states for the rows it lacks."""
    return replace(table, lacks={name: without.get(name) for name in table.lacks})


def with_suite(table: Table, suite: Suite) -> Table:
    """The same, and what papers say of its rows as the suite has it today; rows that it does not know keep theirs."""
    said = {model.name: model.reported_on(table.dataset) for model in suite.models if model.runs_on(table.dataset)}
    rows = (replace(row, reported=said.get(row.model, row.reported)) for row in table.rows)
    return with_reasons(replace(table, rows=tuple(rows)), suite.without)


def with_shipped_suite(table: Table) -> Table:
    """The same, from the suite of that name that ships with the project, if there is one."""
    suite = _shipped_suite(resource_dir("benchmarks") / "suites" / f"{table.suite}.yaml")
    return table if suite is None else with_suite(table, suite)


@cache
def _shipped_suite(path: Path) -> Suite | None:
    """Once for all tables of a suite."""
    if not path.is_file():
        return None
    from diffrec.bench.suite import load_suite  # which imports this module

    return load_suite(path)


def publishable(tables: Sequence[Table]) -> Sequence[Table]:
    """The same tables; UsageError where one lacks a required row and its suite does not say why."""
    faults = [
        f"{table.title} lacks {', '.join(missing)}: run them, or state 'without: {{{missing[0]}: reason}}' "
        f"in benchmarks/suites/{table.suite}.yaml"
        for table in tables
        if (missing := [name for name, reason in table.lacks.items() if reason is None])
    ]
    if faults:
        raise UsageError("\n".join(faults))
    return tables


def _same(results: Sequence[Result], where: str) -> None:
    """Refuse to mix: versions of the suite, contents of the dataset, protocols, configurations of a row."""
    for name in ("suite", "dataset", "protocol", "suite_version", "dataset_sha256", "headline"):
        values = sorted({str(getattr(result, name)) for result in results})
        if len(values) > 1:
            raise UsageError(f"{where}: results of different {name} are never put in one table: {', '.join(values)}")
    for model in {result.model for result in results}:
        mine = [result for result in results if result.model == model]
        first = mine[0]
        if any(
            (r.role, r.control_of) != (first.role, first.control_of)
            or (r.config_sha256 != first.config_sha256 and not same_settings(r.config, first.config))
            for r in mine
        ):
            raise UsageError(f"{where}: the seeds of {model} ran with different configurations; run them again")
        if len({r.seed for r in mine}) < len(mine):
            raise UsageError(f"{where}: {model} has two results of one seed")


def _timed_on(results: Sequence[Result]) -> dict[str, int]:
    """How many rows have costs of each machine, most first; threads are named where not all costs are of as many."""
    threads = len({result.threads for result in results}) > 1
    rows: dict[str, set[str]] = {}
    for result in results:
        processor = result.processor.replace("(R)", "").replace("(TM)", "") or "a processor without a name"
        name = processor if result.device == "cpu" else f"{result.device} beside {processor}"
        rows.setdefault(name + f" with {_threads(result)}" * threads, set()).add(result.model)
    return {name: len(rows[name]) for name in sorted(rows, key=lambda name: (-len(rows[name]), name))}


def _threads(result: Result) -> str:
    return f"{result.threads} thread{'s' * (result.threads != 1)}"


def _named(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))


def _lacking(results: Sequence[Result]) -> list[str]:
    """The required models without a row; a model of another kind under such a name does not count."""
    there = {(result.model, result.role) for result in results}
    return [name for name, role in REQUIRED.items() if (name, role) not in there]


def _row(results: Sequence[Result]) -> Row:
    """The seeds of one model."""
    first = results[0]
    names = [name for name in first.metrics if all(name in result.metrics for result in results)]
    return Row(
        model=first.model,
        role=first.role,
        control_of=first.control_of,
        seeds=tuple(result.seed for result in results),
        metrics={name: _statistic([result.metrics[name] for result in results]) for name in names},
        draws=len(first.draw_metrics),
        draw_spread=_draw_spread(results, names),
        reported=first.reported,
        denoiser_calls=first.denoiser_calls,
        ms_per_user=statistics.fmean(result.ms_per_user["1"] for result in results),
        parameters=first.parameters,
        train_seconds=statistics.fmean(result.train_seconds for result in results),
        device=_named(result.device for result in results),
        processor=_named(result.processor for result in results),
        threads=_named(str(result.threads) for result in results),
        num_beams=first.num_beams,
        trials=min(result.tuning_trials for result in results),
        decoding=_decoding([result.decoding for result in results if result.decoding is not None]),
    )


def _decoding(counted: Sequence[Decoding]) -> Decoding | None:
    """The mean of what was counted of several seeds."""
    if not counted:
        return None
    colliding = statistics.fmean(one.colliding for one in counted)
    beams = [one.beams for one in counted if one.beams is not None]
    if not beams:
        return Decoding(colliding, None)
    shares = {name: statistics.fmean(getattr(one, name) for one in beams) for name in BEAM_SHARES}
    short = {cutoff: statistics.fmean(one.short[cutoff] for one in beams) for cutoff in beams[0].short}
    return Decoding(colliding, replace(beams[0], **shares, short=short))


def _draw_spread(results: Sequence[Result], names: Sequence[str]) -> dict[str, float] | None:
    if min(len(result.draw_metrics) for result in results) < 2:
        return None
    return {
        name: statistics.fmean(statistics.stdev(draw[name] for draw in result.draw_metrics) for result in results)
        for name in names
    }


def _statistic(values: Sequence[float]) -> Statistic:
    return Statistic(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _ordered(rows: Sequence[Row], sort: str) -> list[Row]:
    """Best first, ties by name, every control right below its model."""
    key = _sort_key(rows, sort)
    models = {row.model for row in rows if row.role != "control"}
    leading = sorted((row for row in rows if row.control_of not in models), key=key)
    controls = sorted((row for row in rows if row.control_of in models), key=key)
    return [row for lead in leading for row in (lead, *(c for c in controls if c.control_of == lead.model))]


def _sort_key(rows: Sequence[Row], sort: str) -> Callable[[Row], tuple[float, str]]:
    metrics = sorted(set.intersection(*(set(row.metrics) for row in rows)))
    choose("column to sort by", sort, [*metrics, *COSTS, "model"])
    if sort == "model":
        return lambda row: (0, row.model)
    if sort in COSTS:
        return lambda row: (getattr(row, sort), row.model)
    return lambda row: (-row.metrics[sort].mean, row.model)
