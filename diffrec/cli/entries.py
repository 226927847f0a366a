"""A trained cell of a suite as an entry of the zoo; what `diffrec demo` and `diffrec bench run --zoo` keep."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffrec.bench.result import Result, Tree
    from diffrec.bench.runner import Trained
    from diffrec.bench.suite import Cell
    from diffrec.data.splits import Cases
    from diffrec.recommender import Recommender
    from diffrec.zoo.benchmark import Benchmark, Score
    from diffrec.zoo.config import Evaluation, Training

_SHOWN = 3  # settings in which a control differs


def entry_of(cell: Cell, folder: Path) -> Path:
    """`<model>.<dataset>` in `folder`."""
    return folder / f"{cell.model.name}.{cell.dataset.name}"


def is_published(cell: Cell) -> bool:
    """Rows that are trained, no controls, with their first seed: seeds are repeated to be compared, not chosen."""
    from diffrec.bench.suite import training_free

    first = cell.model.control_of is None and cell.seed == cell.model.seeds[0]
    return first and not training_free(cell.model, cell.dataset)


def save_entry(trained: Trained, entry: Path, dtype: str | None = None, benchmark: Benchmark | None = None) -> Path:
    """Write the model, without titles: the terms of the data may not allow to pass them on.

    dtype: of the stored weights, as for `zoo.save`; what it costs is measured. benchmark: what records say of the row,
    without which the run alone is told of.
    """
    from diffrec.zoo import save

    result = trained.result
    training, evaluation = facts_of(result, entry.name)
    metrics = result.metrics if dtype is None else _rounded_metrics(trained, dtype)
    return save(
        trained.model,
        entry,
        dataset=trained.dataset,
        protocol=result.protocol,
        metrics=metrics,
        training=vars(training),
        evaluation=evaluation,
        overwrite=True,
        dtype=dtype,
        float32=None if dtype is None else result.metrics,
        benchmark=benchmark or benchmark_of(result),
    )


def _rounded_metrics(trained: Trained, dtype: str) -> dict[str, float]:
    """The metrics of a trained model with rounded weights."""
    from diffrec.bench.evaluate import mean_metrics
    from diffrec.data.protocol import get_protocol
    from diffrec.zoo.saving import rounded

    result, protocol = trained.result, get_protocol(trained.result.protocol)
    cases, draws = protocol.apply(trained.dataset).test, len(result.draw_metrics)
    return mean_metrics(rounded(trained.model, dtype), cases, protocol.cutoffs, result.seed, draws)


def facts_of(result: Result, name: str) -> tuple[Training, Evaluation]:
    """What an entry says of its training and measuring: nothing that differs between two runs on one machine."""
    from diffrec.zoo.config import Evaluation, Training

    command = f"diffrec zoo build {name} --suite {result.suite} --seed {result.seed}"
    draws, machine = len(result.draw_metrics), (result.device, result.processor, result.threads)
    return Training(command, result.seed, result.epochs), Evaluation(result.seed, draws, *machine, result.packages)


def measured_now(
    model: Recommender, cases: Cases, cutoffs: Sequence[int], seed: int, draws: int
) -> tuple[dict[str, float], Evaluation]:
    """The metrics of a model on some cases, and what they were measured on: here and now."""
    import torch

    from diffrec.bench.evaluate import mean_metrics
    from diffrec.bench.provenance import device_name, packages, processor_name
    from diffrec.zoo.config import Evaluation

    metrics = mean_metrics(model, cases, cutoffs, seed, draws)
    machine = device_name(model.device), processor_name(), torch.get_num_threads()
    return metrics, Evaluation(seed, draws, *machine, packages())


def benchmark_of(own: Result, records: Sequence[Result] | None = None) -> Benchmark:
    """The row of a run among the records of its suite, of which it is one.

    records: those of any suites. Without them only the run itself is told of, but for its latency: two runs differ in
    that, and an entry holds nothing that two runs differ in.
    """
    from diffrec.zoo.benchmark import Benchmark, K

    place = (own.suite, own.dataset, own.dataset_sha256, own.protocol)
    beside = [own] if records is None else [
        other for other in records if (other.suite, other.dataset, other.dataset_sha256, other.protocol) == place
    ]  # fmt: skip
    row = [other for other in beside if (other.model, other.config_sha256) == (own.model, own.config_sha256)]
    controls = sorted({other.model for other in beside if other.control_of == own.model})
    of_controls = {name: [other for other in beside if other.model == name] for name in controls}
    popularity = [other for other in beside if other.model == "popularity" and other.role == "training-free"]
    draws = [draw[own.headline] for draw in own.draw_metrics]
    return Benchmark(
        suite=own.suite,
        headline=own.headline,
        row=_score(row, own),
        controls={name: _score(runs, own) for name, runs in of_controls.items()},
        popularity=_score(popularity, own) if popularity else None,
        sd={name: statistics.stdev(run.metrics[name] for run in row) for name in own.metrics} if len(row) > 1 else {},
        draw_sd=statistics.stdev(draws) if len(draws) > 1 else None,
        lists=_of_lists(own.beyond_accuracy, K),
        popular_lists=_of_lists(popularity[0].beyond_accuracy, K) if popularity else {},
        counts=own.split_counts,
        ms_per_user={} if records is None else own.ms_per_user,
        device=own.device,
        processor=own.processor,
        threads=own.threads,
    )


def _score(runs: Sequence[Result], own: Result) -> Score:
    from diffrec.zoo.benchmark import Score

    values = [run.metrics[own.headline] for run in runs]
    about = _apart(own.config["model"], runs[0].config["model"]) if runs[0].role == "control" else ""
    return Score(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, about)


def _apart(own: Tree, other: Tree) -> str:
    """In what the model of a control differs: its class, or else some of its settings."""
    if own["class_path"] != other["class_path"]:
        return other["class_path"].rpartition(".")[2]
    settings, others = own.get("init_args", {}), other.get("init_args", {})
    names = [name for name in sorted({**settings, **others}) if settings.get(name) != others.get(name)]
    # a record from before there was a setting had what is the default by now
    instead = {name: f", not {_word(settings[name])}" if name in settings else "" for name in names}
    told = [f"{name} {_word(others.get(name))}{instead[name]}" for name in names[:_SHOWN]]
    return "; ".join(told) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _word(value: object) -> str:
    """A setting, of a path the last part."""
    text = value.rpartition("/")[2] if isinstance(value, str) else f"{value:g}" if type(value) is float else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _of_lists(values: Mapping[str, float], k: int) -> dict[str, float]:
    """Beyond-accuracy numbers of lists of length k, by their names; none where lists of that length have none."""
    names = ("coverage", "gini", "novelty", "popularity")
    return {name: values[f"{name}@{k}"] for name in names} if all(f"{name}@{k}" in values for name in names) else {}


def recorded(
    records: Sequence[Result], suite: str | None, seed: int | None, name: str, metrics: Mapping[str, float]
) -> Benchmark | None:
    """What records say of the entry `name`, None where there is none of that suite and seed with these metrics.

    metrics: of its weights as they were trained; measured anew on another machine they differ a little.
    """
    from diffrec.cli.zoo_verify import ELSEWHERE

    for own in records:
        there = (own.suite, own.seed) == (suite, seed) and f"{name}.".startswith(f"{own.model}.{own.dataset}.")
        if there and abs(own.metrics[own.headline] - metrics.get(own.headline, float("inf"))) <= ELSEWHERE:
            return benchmark_of(own, records)
    return None
