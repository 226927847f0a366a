"""One scoring pass over the cases of a protocol: metrics with their bounds, ranks and lists of every user."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch

from diffrec.data.batch import Batch
from diffrec.data.datamodule import EvaluationBatches
from diffrec.data.ragged import Ragged
from diffrec.data.splits import Cases
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import UsageError, choose
from diffrec.lists import top_k
from diffrec.metrics.beyond_accuracy import at_cutoffs
from diffrec.metrics.functional import CUTOFF_METRICS, TargetRanks, metric_names, metrics_from_ranks, target_ranks
from diffrec.recommender import Recommender
from diffrec.typing import Float, Int, Scores, Tensor


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model did on some cases; all rows are in the order of the cases.

    metrics: means over the cases with a target, ties by mean rank; optimistic, pessimistic: the same
    with ties broken for and against the model; over_all_cases: cases without a target count as 0;
    beyond_accuracy: `coverage@k`, `gini@k` and, with item counts, `novelty@k`, `popularity@k`;
    ranks: float32 mean ranks aligned with `cases.target` (NaN: a target listed again, inf: no candidate);
    top_items: (cases, largest cutoff) int32 item numbers, 0 where the candidates ran out;
    told_apart: (cases,) how many of them score above the lowest score of the case, which all that a search did not find
    share; values: name -> (cases,) float64, NaN without a target; seconds: scoring and ranking together.
    """

    metrics: Mapping[str, float]
    optimistic: Mapping[str, float]
    pessimistic: Mapping[str, float]
    over_all_cases: Mapping[str, float]
    beyond_accuracy: Mapping[str, float]
    ranks: Ragged
    top_items: np.ndarray
    told_apart: np.ndarray
    values: Mapping[str, np.ndarray]
    num_users: int
    batch_size: int
    seconds: float

    @property
    def ms_per_user(self) -> float:
        """Milliseconds per case at this batch size."""
        return 1000 * self.seconds / self.num_users


def evaluate(
    model: Recommender,
    cases: Cases,
    cutoffs: Sequence[int],
    *,
    batch_size: int = 512,
    seed: int = 0,
    item_counts: np.ndarray | None = None,
) -> Evaluation:
    """Score every case once and rank all items.

    Noise belongs to `(cases.key, seed)`, so lists do not depend on the batch size. item_counts: (N,)
    training interactions per item. Raises UsageError for a model in training mode or no cases,
    DiffrecError for non-finite scores.
    """
    if model.training:
        raise UsageError(f"{type(model).__name__} is in training mode; call .eval() before evaluating it")
    if not len(cases):
        raise UsageError("there are no cases to evaluate")
    batches = EvaluationBatches(cases, batch_size, model.max_history_length)
    record = _Record(cases, cutoffs)
    start = time.perf_counter()
    with torch.inference_mode():
        for number in range(len(batches)):
            record.add(batches.rows(number), *_rank(model, batches[number].to(model.device), max(cutoffs), seed))
    return record.result(model.num_items, item_counts, batch_size, time.perf_counter() - start)


def measure_one(model: Recommender, cases: Cases, metric: str, *, batch_size: int = 512, seed: int = 0) -> float:
    """The mean of one metric `name@k`, equal to that of `evaluate`, without lists and everything else."""
    name, k = metric.partition("@")[0], int(metric.partition("@")[2])
    choose("metric", name, CUTOFF_METRICS)
    batches = EvaluationBatches(cases, batch_size, model.max_history_length)
    values = np.empty(len(cases))
    with torch.inference_mode():
        for number in range(len(batches)):
            batch = batches[number].to(model.device)
            ranks = _ranks(model, batch, seed)
            values[batches.rows(number)] = CUTOFF_METRICS[name](ranks.mean, k).cpu().numpy()
    return float(values[cases.target.lengths > 0].mean())


def seed_of(seed: int, draw: int) -> int:
    """The seed of the noise of one draw, of a run with `seed`."""
    return seed + (draw << 32)


def mean_metrics(model: Recommender, cases: Cases, cutoffs: Sequence[int], seed: int, draws: int) -> dict[str, float]:
    """The metrics of `evaluate`, each the mean of so many draws of the noise."""
    tests = [evaluate(model, cases, cutoffs, seed=seed_of(seed, draw)).metrics for draw in range(draws)]
    return {name: fmean(test[name] for test in tests) for name in tests[0]}


def per_user(evaluation: Evaluation, name: str) -> np.ndarray:
    """(cases,) values of one metric, NaN for cases without a target; what significance tests compare."""
    return evaluation.values[choose("metric", name, evaluation.values)]


def _rank(
    model: Recommender, batch: Batch, k: int, seed: int
) -> tuple[TargetRanks, Int[Tensor, "batch k"], Int[Tensor, " batch"]]:
    assert batch.seen is not None
    scores = _scores(model, batch, seed)
    best = top_k(scores, batch.seen, k)
    told_apart = (best.scores > scores.amin(1, keepdim=True)).sum(1)
    return target_ranks(scores, batch.target, batch.seen), best.items, told_apart


def _ranks(model: Recommender, batch: Batch, seed: int) -> TargetRanks:
    return target_ranks(_scores(model, batch, seed), batch.target, batch.seen)


def _scores(model: Recommender, batch: Batch, seed: int) -> Scores:
    assert batch.key is not None  # evaluation batches have keys
    return model.checked_scores(batch.history, RequestNoise.from_keys(batch.key, seed), batch.times)


class _Record:
    """Results of the batches, put where their cases are."""

    def __init__(self, cases: Cases, cutoffs: Sequence[int]) -> None:
        self.target, self.cutoffs, self.names = cases.target, cutoffs, metric_names(cutoffs)
        self.mean, self.optimistic, self.pessimistic = (np.empty((len(self.names), len(cases))) for _ in range(3))
        self.ranks = np.empty(len(cases.target.values), dtype=np.float32)
        self.top_items = np.empty((len(cases), max(cutoffs)), dtype=np.int32)
        self.told_apart = np.empty(len(cases), dtype=np.int64)

    def add(
        self, rows: np.ndarray, ranks: TargetRanks, items: Int[Tensor, "batch k"], told_apart: Int[Tensor, " batch"]
    ) -> None:
        self.top_items[rows] = items.cpu().numpy()
        self.told_apart[rows] = told_apart.cpu().numpy()
        self.mean[:, rows] = self._values(ranks.mean)
        self.optimistic[:, rows] = self._values(ranks.optimistic)
        self.pessimistic[:, rows] = self._values(ranks.pessimistic)
        part = self.target.take(rows)
        entries = self.target.offsets[rows][part.row_of_entry] + part.position_of_entry
        self.ranks[entries] = ranks.mean.cpu().numpy()[part.row_of_entry, part.position_of_entry]

    def _values(self, ranks: Float[Tensor, "batch targets"]) -> np.ndarray:
        return torch.stack([*metrics_from_ranks(ranks, self.cutoffs).values()]).cpu().numpy()

    def result(self, num_items: int, item_counts: np.ndarray | None, batch_size: int, seconds: float) -> Evaluation:
        metrics = self._means(self.mean)
        share = float((self.target.lengths > 0).mean())
        return Evaluation(
            metrics=metrics,
            optimistic=self._means(self.optimistic),
            pessimistic=self._means(self.pessimistic),
            over_all_cases={name: value * share for name, value in metrics.items()},
            beyond_accuracy=at_cutoffs(self.top_items, self.cutoffs, num_items, item_counts),
            ranks=Ragged(self.ranks, self.target.offsets),
            top_items=self.top_items,
            told_apart=self.told_apart,
            values=dict(zip(self.names, self.mean, strict=True)),
            num_users=len(self.target),
            batch_size=batch_size,
            seconds=seconds,
        )

    def _means(self, values: np.ndarray) -> dict[str, float]:
        means = values[:, self.target.lengths > 0].mean(1)
        return dict(zip(self.names, means.tolist(), strict=True))
