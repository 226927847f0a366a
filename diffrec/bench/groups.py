"""Accuracy by how often training met the true item, from the ranks that lie beside the results: no model is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from diffrec.bench.leaderboard import comparable
from diffrec.bench.ranks import ranks_of
from diffrec.bench.result import Result
from diffrec.data.protocol import get_protocol
from diffrec.data.sources import load_dataset
from diffrec.data.splits import Split
from diffrec.errors import IntegrityError, choose
from diffrec.metrics.functional import CUTOFF_METRICS
from diffrec.typing import Tensor

BOUNDS = (0, 1, 5, 20, 100)  # the least number of training interactions of each group; the first group is cold


@dataclass(frozen=True, eq=False)
class Row:
    """A model, its value in each group as a mean over targets, draws and seeds, and how many seeds that are."""

    model: str
    values: tuple[float, ...]
    seeds: int


@dataclass(frozen=True, eq=False)
class Groups:
    """The rows of one dataset and protocol, best over all targets first.

    bounds: the least number of training interactions of each group; targets: how many there are in each; the last of
    both, and of the values of a row, stands for all targets.
    """

    suite: str
    dataset: str
    protocol: str
    metric: str
    bounds: tuple[int, ...]
    targets: tuple[int, ...]
    rows: tuple[Row, ...]


def by_training_count(
    results: Iterable[Result], folder: Path, metric: str = "ndcg@10", bounds: Sequence[int] = BOUNDS
) -> list[Groups]:
    """A table for each dataset and protocol of the results below `folder`; results without ranks are left out.

    Every true item is a case of its own, ranked among all candidates, so that with one target a user a mean over groups
    is the metric of the leaderboard. A group that holds no target is NaN. Raises NotFoundError for a metric that there
    is not, IntegrityError where ranks are of another number of targets than the dataset has.
    """
    name, _, k = metric.partition("@")
    measured, cutoff = CUTOFF_METRICS[choose("metric", name, CUTOFF_METRICS)], int(k or 10)
    split_of = cache(lambda dataset, protocol: get_protocol(protocol).apply(load_dataset(dataset)))
    tables = []
    for comparable_results in comparable(results):
        first = comparable_results[0]
        held = [(result, ranks) for result in comparable_results if (ranks := ranks_of(result, folder)) is not None]
        if not held:
            continue
        group = groups_of(split_of(first.dataset, first.protocol), bounds)
        sizes = np.bincount(group, minlength=len(bounds))
        values: dict[str, list[np.ndarray]] = {}
        for result, ranks in held:
            draws = [_means(draw.values, group, len(bounds), measured, cutoff, result) for draw in ranks.draws]
            values.setdefault(result.model, []).append(np.mean(draws, axis=0))
        rows = [Row(model, tuple(np.mean(each, axis=0).tolist()), len(each)) for model, each in values.items()]
        rows.sort(key=lambda row: -row.values[-1])
        counts = (*sizes.tolist(), len(group))
        place = (first.suite, first.dataset, first.protocol)
        tables.append(Groups(*place, f"{name}@{cutoff}", tuple(bounds), counts, tuple(rows)))
    return tables


def groups_of(split: Split, bounds: Sequence[int] = BOUNDS) -> np.ndarray:
    """(targets,) the group of every true item of the test, in the order of the cases; repeats in training count."""
    items = split.test.target.values
    counts = np.bincount(split.train.values, minlength=int(items.max(initial=0)) + 1)[items]
    return np.searchsorted(np.asarray(bounds), counts, side="right") - 1


def _means(
    ranks: np.ndarray,
    group: np.ndarray,
    size: int,
    measured: Callable[[Tensor, int], Tensor],
    cutoff: int,
    result: Result,
) -> np.ndarray:
    """The mean of each group, and of all."""
    if len(ranks) != len(group):
        raise IntegrityError(f"{result.path} ranks {len(ranks):,} targets, {result.dataset} has {len(group):,}")
    values = measured(torch.from_numpy(ranks.astype(np.float64))[:, None], cutoff).numpy()
    there = ~np.isnan(values)
    sums = np.bincount(group[there], values[there], minlength=size)
    counts = np.bincount(group[there], minlength=size)
    with np.errstate(invalid="ignore"):
        return np.append(sums / counts, values[there].mean())
