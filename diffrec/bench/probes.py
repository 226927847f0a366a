"""What a trained model's headline number rests on: five questions, each answered from the test cases.

They are asked after selection and choose nothing; to pick a number of steps, say, look at validation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from diffrec.baselines.item_knn import cosine
from diffrec.baselines.sequential_rules import count_rules
from diffrec.bench.provenance import code_version, device_name
from diffrec.bench.subject import Subject
from diffrec.data.ragged import Ragged
from diffrec.data.splits import Cases
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import check_sizes, choose
from diffrec.metrics.beyond_accuracy import intra_list_diversity, popularity_buckets, popularity_miscalibration
from diffrec.metrics.functional import metric_names, metrics_from_ranks
from diffrec.recommender import Recommender

RULE_WINDOW = 10  # events between the two items of a training rule, as in `SequentialRules`
POPULARITY_BUCKETS = 5
HISTORY_LENGTHS = (0, 1, 5, 10, 20, 50, 100)  # the shortest history of each slice
_ROWS_AT_ONCE = 1024  # targets or cases whose sparse or padded rows are held together


@dataclass(frozen=True)
class Shuffled:
    """The test cases with their histories shuffled.

    last: how many of the latest events changed places, None for all; metrics: as in `Evaluation`;
    lost: share of the headline metric, negative where it grew, None where there was nothing to lose;
    standard_error: of `lost`, from the differences between the cases, None where `lost` is.
    """

    last: int | None
    metrics: Mapping[str, float]
    lost: float | None
    standard_error: float | None


@dataclass(frozen=True)
class Order:
    """Does the order of a history matter?

    metrics: of the cases as they are; whole: with all events of a history shuffled; window: with only those
    shuffled that the model reads, so that it reads the same items: what is left of the loss is order, not
    recency. None where the model reads every history to its end.
    """

    metrics: Mapping[str, float]
    whole: Shuffled
    window: Shuffled | None


@dataclass(frozen=True)
class Slice:
    """The targets of one kind, as if there were no others.

    low, high: least and largest count or length in the slice, None where it has no such bounds; cases: those
    with such a target; targets: how many; hits: of them among the first k of the headline metric;
    metrics: means over `cases`, empty where there are none. Where every case has one target, metrics weighed
    by `cases` add up to those of the whole; hits always add up.
    """

    name: str
    low: int | None
    high: int | None
    cases: int
    targets: int
    hits: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Memorisation:
    """Targets that some item of the history was followed by in training, up to `window` events later, and others.

    Cold targets are among the others.
    """

    window: int
    seen: Slice
    unseen: Slice


@dataclass(frozen=True)
class Slices:
    """Targets by how often they were met in training, and by the length of the history they follow.

    popularity: `popularity_buckets` from the most popular items on, then the cold ones; low and high are
    training interactions; history_length: those that occur of `HISTORY_LENGTHS`; low and high are events.
    """

    popularity: tuple[Slice, ...]
    history_length: tuple[Slice, ...]


@dataclass(frozen=True)
class Lists:
    """What the lists of length k are like; see `metrics.beyond_accuracy`. None: no list has two items, or any."""

    k: int
    coverage: float
    gini: float
    novelty: float
    popularity: float
    intra_list_diversity: float | None
    popularity_miscalibration: float | None


@dataclass(frozen=True)
class Steps:
    """One point of accuracy against cost.

    num_inference_steps: steps of the reverse loop; chosen: whether the model takes that many by itself;
    denoiser_calls: per request, two a step with guidance; guidance_scale: 1 without; ms_per_user: scoring and
    ranking, in batches.
    """

    num_inference_steps: int
    chosen: bool
    denoiser_calls: int
    guidance_scale: float
    metrics: Mapping[str, float]
    ms_per_user: float


@dataclass(frozen=True)
class Report:
    """The answers for one model, None for what was not asked, with what they rest on.

    metrics: of the test cases as they are; test_cases: how many there are.
    """

    model: str
    dataset: str
    dataset_sha256: str
    protocol: str
    headline: str
    seed: int
    batch_size: int
    code_version: str
    device: str
    threads: int
    test_cases: int
    metrics: Mapping[str, float]
    order: Order | None
    memorisation: Memorisation | None
    slices: Slices | None
    lists: Lists | None
    steps: tuple[Steps, ...] | None


def order(subject: Subject) -> Order:
    """Ask again with every history shuffled; items, mask and noise of a request stay."""
    window, history = subject.model.max_history_length, subject.split.test.history
    cut = window is not None and bool((history.lengths > window).any())
    return Order(subject.evaluation.metrics, _ask_shuffled(subject), _ask_shuffled(subject, window) if cut else None)


def _ask_shuffled(subject: Subject, last: int | None = None) -> Shuffled:
    as_is, asked = subject.evaluation, subject.evaluate(shuffled(subject.split.test, subject.seed, last))
    headline = subject.protocol.headline
    if (had := as_is.metrics[headline]) == 0:
        return Shuffled(last, asked.metrics, None, None)
    lost = (as_is.values[headline] - asked.values[headline]) / had
    lost = lost[~np.isnan(lost)]
    return Shuffled(last, asked.metrics, float(lost.mean()), float(lost.std() / len(lost) ** 0.5))


def shuffled(cases: Cases, seed: int = 0, last: int | None = None) -> Cases:
    """The cases with the events of each history in another order, drawn from `(cases.key, seed)`.

    last: only that many of the latest events change places with one another; None: all do.
    """
    history = cases.history
    row, place = history.row_of_entry, history.position_of_entry
    event = torch.from_numpy(cases.key[row] + ((place + 1) << 32))  # users are numbered below 2^32
    draw = RequestNoise.from_keys(event, seed).normal(1, torch.float64)[:, 0].numpy()
    if last is not None:
        draw = np.where(place < history.lengths[row] - last, -np.inf, draw)
    return replace(cases, history=Ragged(history.values[np.lexsort((draw, row))], history.offsets))


def memorisation(subject: Subject, window: int = RULE_WINDOW) -> Memorisation:
    """Tell targets apart by whether counting the training sequences could have found them.

    A rule i -> j is a training sequence with j at most `window` events after i; a target is seen where any
    event of its history has a rule to it. The whole history counts, whatever the model reads of it.
    """
    check_sizes(window=window)
    rules = count_rules(subject.split.train, subject.model.num_items, window)
    seen = reachable(rules, subject.split.test)
    return Memorisation(window, _slice(subject, "rule seen", seen), _slice(subject, "rule not seen", ~seen))


def reachable(rules: sp.csr_array, cases: Cases) -> np.ndarray:
    """(target entries,) bool: does any item i of the history have rules[i, target] > 0?

    rules: (N, N) without negative entries.
    """
    leading_to, asked = rules.T.tocsr(), cases.history.to_csr(len(rules.indptr) - 1)
    row, column = cases.target.row_of_entry, cases.target.values - 1
    found = [np.zeros(0, dtype=bool)]
    for first in range(0, len(row), _ROWS_AT_ONCE):
        part = slice(first, first + _ROWS_AT_ONCE)
        found.append(leading_to[column[part]].multiply(asked[row[part]]).sum(1) > 0)
    return np.concatenate(found)


def slices(subject: Subject) -> Slices:
    """Metrics by popularity of the target and by length of the history."""
    target = subject.split.test.target
    bucket = popularity_buckets(subject.item_counts, POPULARITY_BUCKETS)
    lengths = subject.split.test.history.lengths
    length_slice = np.digitize(lengths, HISTORY_LENGTHS)
    return Slices(
        tuple(
            _slice(subject, name, bucket[target.values - 1] == number, subject.item_counts[bucket == number])
            for number, name in enumerate(_bucket_names())
        ),
        tuple(
            _slice(
                subject, _range(number), length_slice[target.row_of_entry] == number, lengths[length_slice == number]
            )
            for number in np.unique(length_slice).tolist()
        ),
    )


def _bucket_names() -> list[str]:
    names = [f"bucket {number}" for number in range(1, POPULARITY_BUCKETS + 1)]
    return [f"{names[0]}, most popular", *names[1:-1], f"{names[-1]}, least popular", "cold"]


def _range(number: int) -> str:
    """The name of a slice of HISTORY_LENGTHS, counted from 1."""
    low = HISTORY_LENGTHS[number - 1]
    if number == len(HISTORY_LENGTHS):
        return f"{low} or more events"
    high = HISTORY_LENGTHS[number] - 1
    return "no events" if high == 0 else f"{low} to {high} events"


def _slice(subject: Subject, name: str, asked: np.ndarray, bounds: np.ndarray | None = None) -> Slice:
    """asked: (target entries,) bool; bounds: the counts or lengths that are in the slice."""
    ranks = subject.evaluation.ranks
    asked = asked & ~np.isnan(ranks.values)
    part = Ragged.from_groups(ranks.row_of_entry[asked], ranks.values[asked], len(ranks))
    low, high = (None, None) if bounds is None or not len(bounds) else (int(bounds.min()), int(bounds.max()))
    return Slice(
        name=name,
        low=low,
        high=high,
        cases=int((part.lengths > 0).sum()),
        targets=len(part.values),
        hits=int((part.values <= subject.cutoff).sum()),
        metrics=_means(part.take(np.flatnonzero(part.lengths)), subject.protocol.cutoffs),
    )


def _means(ranks: Ragged, cutoffs: Sequence[int]) -> dict[str, float]:
    """Every metric as a mean over the rows, each of which has a rank; nothing for no rows."""
    names = metric_names(cutoffs)
    values = np.empty((len(names), len(ranks)))
    by_length = np.argsort(-ranks.lengths, kind="stable")  # little is padded where lengths are alike
    for first in range(0, len(ranks), _ROWS_AT_ONCE):
        rows = by_length[first : first + _ROWS_AT_ONCE]
        part = ranks.take(rows)
        padded = np.full((len(rows), int(part.lengths[0])), np.nan)
        padded[part.row_of_entry, part.position_of_entry] = part.values
        values[:, rows] = torch.stack([*metrics_from_ranks(torch.from_numpy(padded), cutoffs).values()]).numpy()
    return dict(zip(names, values.mean(1).tolist(), strict=True)) if len(ranks) else {}


def lists(subject: Subject) -> Lists:
    """Coverage, inequality, novelty, popularity, diversity and calibration of the lists of the headline metric.

    Two items are alike as far as the same training users have them: cosine of the co-occurrences.
    """
    k, beyond = subject.cutoff, subject.evaluation.beyond_accuracy
    top_items, train = subject.evaluation.top_items[:, :k], subject.split.train
    diversity = intra_list_diversity(top_items, cosine(train, subject.model.num_items, shrink=0.0))
    history = subject.split.test.history
    off = popularity_miscalibration(top_items, history, subject.item_counts, POPULARITY_BUCKETS)
    return Lists(
        k=k,
        coverage=beyond[f"coverage@{k}"],
        gini=beyond[f"gini@{k}"],
        novelty=beyond[f"novelty@{k}"],
        popularity=beyond[f"popularity@{k}"],
        intra_list_diversity=None if np.isnan(diversity) else diversity,
        popularity_miscalibration=None if np.isnan(off) else off,
    )


def steps(subject: Subject, grid: Sequence[int] | None = None) -> tuple[Steps, ...]:
    """Accuracy and time for every number of inference steps in `grid`, all else as the model samples by itself.

    grid: None for 1, 2, 5, 10, ... all and the model's own number. The model is left as it was.
    Raises UsageError for a model that takes no steps, or a number that it cannot take.
    """
    model, (own, every) = subject.model, subject.steps
    if grid is not None:
        check_sizes(grid=list(grid))
    numbers = sorted({*_one_two_five(every), own, every} if grid is None else set(grid))
    for number in numbers:
        with model.sampling(num_inference_steps=number):
            pass  # refuses what cannot be
    cases = subject.split.test
    with model.sampling(num_inference_steps=numbers[0]):
        subject.evaluate(cases.take(np.arange(min(len(cases), subject.batch_size))))  # what is slow the first time
    return tuple(_point(subject, model, number, number == own) for number in numbers)


def _one_two_five(below: int) -> Iterator[int]:
    """1, 2, 5, 10, 20, 50, ... less than `below`."""
    decade = 1
    while decade < below:
        yield from (digit * decade for digit in (1, 2, 5) if digit * decade < below)
        decade *= 10


def _point(subject: Subject, model: Recommender, number: int, chosen: bool) -> Steps:
    with model.sampling(num_inference_steps=number):
        asked, calls = subject.evaluate(subject.split.test), model.denoiser_calls
    guidance = getattr(model, "guidance_scale", 1.0)
    return Steps(number, chosen, calls, guidance, asked.metrics, asked.ms_per_user)


PROBES: Mapping[str, Callable[[Subject], object]] = {
    probe.__name__: probe for probe in (order, memorisation, slices, lists, steps)
}


def examine(
    subject: Subject,
    only: Sequence[str] | None = None,
    *,
    window: int = RULE_WINDOW,
    grid: Sequence[int] | None = None,
    report: Callable[[str, int, int], None] = lambda name, number, count: None,
) -> Report:
    """Ask the questions named in `only`; by default all, and of the steps where the model takes any.

    window: of `memorisation`; grid: of `steps`; report: gets the name of each question before it is asked,
    and which of how many it is, from 1.
    """
    takes_steps = subject.model.num_steps is not None
    names = only or [name for name in PROBES if name != "steps" or takes_steps]
    for name in names:
        choose("probe", name, PROBES)
    ask = {**PROBES, "memorisation": partial(memorisation, window=window), "steps": partial(steps, grid=grid)}
    answers: dict[str, Any] = dict.fromkeys(PROBES)
    for number, name in enumerate(names, start=1):
        report(name, number, len(names))
        answers[name] = ask[name](subject)
    return Report(
        model=type(subject.model).__name__,
        dataset=subject.dataset.name,
        dataset_sha256=subject.dataset.sha256,
        protocol=subject.protocol.id,
        headline=subject.protocol.headline,
        seed=subject.seed,
        batch_size=subject.batch_size,
        code_version=code_version(),
        device=device_name(subject.model.device),
        threads=torch.get_num_threads(),
        test_cases=len(subject.split.test),
        metrics=subject.evaluation.metrics,
        **answers,
    )
