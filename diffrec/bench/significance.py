"""Per-user values of a table's rows -> which differences are real. Pure functions: no files, no models, no clock.

A row is (users,) or (seeds, users), the second averaged over seeds first. Users without a target are NaN and
are left out; every row must be of the same users. Values are metrics of the order of 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from diffrec.bench.comparison import MIN_SEEDS
from diffrec.errors import UsageError, check_sizes, choose

ALPHA = 0.05
RESAMPLES = 10_000
MIN_DRAWS, MIN_DATASETS = 3, 3  # what `beats strong AR` asks for, see `strong_across_datasets`
_COUNTS_AT_ONCE = 1 << 20  # of users x resamples; 8 MiB
_DIGITS = 12  # sums in another order differ by less: users who tie must tie, and what cancels must be 0

Badge = Literal["beats counting", "beats strong AR", "diffusion helps"]


@dataclass(frozen=True)
class Interval:
    """A difference of means with the ends of its 95 % percentile interval and its two-sided p-value."""

    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """`model` against `other` on the same users.

    difference: mean of model - other; low, high: its 95 % bootstrap interval over users, by itself;
    p_bootstrap, p_wilcoxon: two-sided and uncorrected; p_holm: the larger of the two (1 where they point
    in different directions), corrected by Holm over the comparisons made together.
    """

    model: str
    other: str
    users: int
    difference: float
    low: float
    high: float
    p_bootstrap: float
    p_wilcoxon: float
    p_holm: float

    @property
    def above(self) -> bool:
        """Is `model` better, by both tests, after correction? A significantly worse model is not."""
        return self.difference > 0 and self.p_holm < ALPHA


@dataclass(frozen=True)
class BestGroup:
    """best: the row of the highest mean; level: those not distinguishable from it; comparisons: of best with all."""

    best: str
    level: tuple[str, ...]
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Rivals:
    """The rows that a model has to beat for its badges, those of `beats strong AR` being counting and strong."""

    counting: Sequence[str]
    strong: Sequence[str]
    controls: Sequence[str]

    @property
    def kinds(self) -> dict[str, Sequence[str]]:
        """The names by their kind."""
        return {"counting": self.counting, "strong autoregressive": self.strong, "control": self.controls}

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [name for names in self.kinds.values() for name in names]


@dataclass(frozen=True)
class Verdict:
    """Does a model earn a badge?

    missing: what is needed and not there; not_beaten: rows, or datasets, that stand in the way;
    comparisons: what the verdict rests on.
    """

    badge: Badge
    granted: bool
    missing: tuple[str, ...]
    not_beaten: tuple[str, ...]
    comparisons: tuple[Comparison, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """`beats strong AR` on one dataset.

    seeds: the fewest training seeds among the model and the rows it has to beat that are trained;
    draws: sampling draws per seed of the model, None where it samples nothing.
    """

    verdict: Verdict
    seeds: int
    draws: int | None


def compare(
    values: Mapping[str, np.ndarray], reference: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Comparison, ...]:
    """The row `reference` against every other row, in the order of `values`.

    All rows meet the same resamples, which depend on the number of users and the seed only: the interval
    of a pair is the same whatever else stands in the table. p_bootstrap is 2 / (resamples + 1) at least. Raises
    UsageError for rows of different users, NotFoundError for an unknown reference.
    """
    return _corrected(_uncorrected(values, reference, resamples, seed))


def _uncorrected(values: Mapping[str, np.ndarray], reference: str, resamples: int, seed: int) -> tuple[Comparison, ...]:
    """The same with p_holm as it is before any correction."""
    means = _means(values)
    own = means.pop(choose("row", reference, means))
    if not means:
        return ()
    differences = np.round(own - np.stack([*means.values()]), _DIGITS)
    intervals = [
        _interval(*pair) for pair in zip(differences, bootstrap_means(differences, resamples, seed), strict=True)
    ]
    signed_rank = [_wilcoxon(row) for row in differences]
    return tuple(
        Comparison(reference, other, len(own), i.difference, i.low, i.high, i.p, test[1], _joint(i, *test))
        for other, i, test in zip(means, intervals, signed_rank, strict=True)
    )


def _corrected(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """The comparisons of one look, with their p-values corrected together."""
    corrected = holm([found.p_holm for found in comparisons])
    return tuple(replace(found, p_holm=p) for found, p in zip(comparisons, corrected, strict=True))


def best_group(values: Mapping[str, np.ndarray], *, resamples: int = RESAMPLES, seed: int = 0) -> BestGroup:
    """The best row by mean (ties: by name) and the rows that it is not `above`. Errors as `compare`."""
    means = {name: row.mean() for name, row in _means(values).items()}
    order = sorted(means, key=lambda name: (-means[name], name))
    comparisons = compare({name: values[name] for name in order}, order[0], resamples=resamples, seed=seed)
    return BestGroup(order[0], tuple(c.other for c in comparisons if not c.above), comparisons)


def two_level_bootstrap(
    values: Mapping[str, np.ndarray], reference: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """The row `reference` minus every other one as methods rather than as checkpoints: seeds are resampled, then users.

    values: (seeds, users); numbers of seeds may differ, and (users,) is one seed, as of a method that has
    none. Seeds of two rows are drawn apart, for a seed means nothing to the other method; users together.
    Of S seeds S - 1 are drawn: S of them would give the mean of few seeds (S - 1) / S of its variance.
    The interval of a pair is the same whatever else stands in the table.
    Source: McCarthy and Snowden, Vital and Health Statistics 2 (95), 1985. Errors as `compare`.
    """
    rows = _aligned(values)
    choose("row", reference, rows)
    resampled = bootstrap_means(np.concatenate([*rows.values()]), resamples, seed)
    parts = np.split(resampled, np.cumsum([len(row) for row in rows.values()])[:-1])
    streams = {name: 1 if name == reference else 2 for name in rows}  # users are drawn as in `compare`
    means = {
        name: _over_seeds(part, np.random.default_rng([seed, streams[name]]))
        for name, part in zip(rows, parts, strict=True)
    }
    return {
        name: _interval(rows[reference].mean(0) - row.mean(0), means[reference] - means[name])
        for name, row in rows.items()
        if name != reference
    }


def bootstrap_means(values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """(rows, users) -> (rows, resamples): means over as many users, drawn with replacement, the same for all rows.

    A resample is how often each user was drawn, so that all rows need one matrix product. The resamples
    depend on the number of users, the seed and NumPy's `default_rng`.
    """
    check_sizes(resamples=resamples)
    check_sizes(0, seed=seed)
    rows, users = values.shape
    rng = np.random.default_rng(seed)
    counts = np.empty((max(1, _COUNTS_AT_ONCE // users), users))
    means = np.empty((resamples, rows))
    for start in range(0, resamples, len(counts)):
        part = counts[: resamples - start]
        for row in part:  # one at a time, they stay in cache
            row[:] = np.bincount(rng.integers(0, users, users), minlength=users)
        means[start : start + len(part)] = part @ values.T / users
    return means.T


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """p-values corrected for having been looked at together, in their order; at most 1.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    raw = np.asarray(p, dtype=np.float64)
    order = np.argsort(raw, kind="stable")
    adjusted = np.empty_like(raw)
    adjusted[order] = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1)).clip(max=1)
    return tuple(adjusted.tolist())


def standard_error(values: np.ndarray) -> float:
    """Standard error over users of the mean of one row, what separates rows of different users."""
    return _standard_error(_means({"values": values})["values"])


def minimal_detectable_difference(
    model: np.ndarray, other: np.ndarray, *, alpha: float = ALPHA, power: float = 0.8
) -> float:
    """The true difference that a paired two-sided test at `alpha` would find with probability `power`.

    (z(1 - alpha / 2) + z(power)) standard errors of the differences as they are between these two rows.
    """
    means = _means({"model": model, "other": other})
    z = NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(power)
    return z * _standard_error(np.round(means["model"] - means["other"], _DIGITS))


def gate(
    values: Mapping[str, np.ndarray],
    rivals: Mapping[str, Rivals],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[Verdict, ...]]:
    """The badges that rows of one table earn: for each row of `rivals` one Verdict for each `Badge`, in their order.

    values: all rows of the table, of one dataset and protocol. A rival is beaten where the row is `above` it, all
    comparisons of the table being corrected together, and where the interval of `two_level_bootstrap` is above 0 too:
    the first is about these checkpoints, the second about their methods, whose seeds might have been others. No badge
    is granted where a rival is not in `values`, or none is named. `beats strong AR` is about this dataset: the badge
    itself is `strong_across_datasets`. Raises UsageError where a row is among its own rivals, and as `compare`.
    """
    found: list[Comparison] = []
    above: dict[tuple[str, str], bool] = {}
    for model, those in rivals.items():
        if model in those.names:
            raise UsageError(f"{model} is among the rows that it has to beat: {', '.join(those.names)}")
        choose("row", model, values)
        present = {name: values[name] for name in (model, *those.names) if name in values}
        found += _uncorrected(present, model, resamples, seed)
        methods = two_level_bootstrap(present, model, resamples=resamples, seed=seed)
        above |= {(model, other): interval.low > 0 for other, interval in methods.items()}
    by_model: dict[str, dict[str, Comparison]] = {model: {} for model in rivals}
    for comparison in _corrected(found):
        by_model[comparison.model][comparison.other] = comparison
    asks: dict[Badge, tuple[str, ...]] = {
        "beats counting": ("counting",),
        "beats strong AR": ("counting", "strong autoregressive"),
        "diffusion helps": ("control",),
    }
    return {
        model: tuple(
            _verdict(badge, {kind: those.kinds[kind] for kind in asks[badge]}, by_model[model], above) for badge in asks
        )
        for model, those in rivals.items()
    }


def strong_across_datasets(evidence: Mapping[str, Evidence], datasets: Sequence[str]) -> Verdict:
    """The badge `beats strong AR`: its verdict holds on at least three of `datasets`, at five seeds and three draws.

    evidence: dataset -> what `gate` says of it; missing datasets count against the model. Raises UsageError
    for fewer than three datasets or a verdict on another badge, NotFoundError for evidence of another dataset.
    """
    if len(set(datasets)) < MIN_DATASETS:
        raise UsageError(f"the gate needs at least {MIN_DATASETS} datasets, got {', '.join(datasets) or 'none'}")
    for name, item in evidence.items():
        choose("dataset of the gate", name, datasets)
        if item.verdict.badge != "beats strong AR":
            raise UsageError(f"{name}: the verdict must be on 'beats strong AR', got {item.verdict.badge!r}")
    faults = {name: _too_little(evidence.get(name)) for name in dict.fromkeys(datasets)}
    held = [name for name, fault in faults.items() if not fault and evidence[name].verdict.granted]
    return Verdict(
        "beats strong AR",
        granted=len(held) >= MIN_DATASETS,
        missing=tuple(f"{name}: {fault}" for name, fault in faults.items() if fault),
        not_beaten=tuple(name for name, fault in faults.items() if not fault and name not in held),
    )


def _aligned(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """name -> (seeds, users) float64 of the users with a target; UsageError where they are not the same."""
    rows = {name: np.atleast_2d(np.asarray(row, dtype=np.float64)) for name, row in values.items()}
    if not rows:
        raise UsageError("there are no rows to compare")
    first = next(iter(rows))
    for name, row in rows.items():
        if row.ndim != 2 or not row.size:
            raise UsageError(f"{name} must be (users,) or (seeds, users), got shape {np.shape(values[name])}")
        if row.shape[1] != rows[first].shape[1]:
            raise UsageError(
                f"rows of different users cannot be paired: {first} has {rows[first].shape[1]}, {name} {row.shape[1]}"
            )
        differ = int((np.isnan(row) != np.isnan(rows[first][0])).any(0).sum())
        if differ:
            raise UsageError(f"rows of different users cannot be paired: {differ} are NaN in {first} or {name} only")
        if np.isinf(row).any():
            raise UsageError(f"{name} holds infinite values; metrics are finite, or NaN for users without a target")
    with_target = ~np.isnan(rows[first][0])
    if with_target.sum() < 2:
        raise UsageError(f"at least 2 users with a target are needed, got {with_target.sum()}")
    return {name: row[:, with_target] for name, row in rows.items()}


def _means(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """name -> (users,) means over seeds."""
    return {name: row.mean(0) for name, row in _aligned(values).items()}


def _standard_error(row: np.ndarray) -> float:
    return float(row.std(ddof=1)) / math.sqrt(len(row))


def _over_seeds(means: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(seeds, resamples) -> (resamples,): the mean over seeds drawn anew for every resample."""
    seeds, resamples = means.shape
    drawn = max(1, seeds - 1)
    counts = rng.multinomial(drawn, np.full(seeds, 1 / seeds), resamples)
    return np.einsum("rs,sr->r", counts, means) / drawn


def _interval(differences: np.ndarray, resampled: np.ndarray) -> Interval:
    """From the (users,) differences and the (resamples,) resampled means.

    p: twice the share of resamples on the rarer side of 0, itself counted as one; what is 0 is on both.
    """
    low, high = np.quantile(resampled, [ALPHA / 2, 1 - ALPHA / 2])
    signs = np.sign(np.round(resampled, _DIGITS))
    rarer = min(np.sum(signs <= 0), np.sum(signs >= 0))
    p = min(1.0, 2 * float(rarer + 1) / (len(resampled) + 1))
    return Interval(float(differences.mean()), float(low), float(high), p)


def _wilcoxon(differences: np.ndarray) -> tuple[float, float]:
    """Sum of signed ranks and two-sided p of the signed-rank test; (0, 1) where nothing differs.

    Users with difference 0 are dropped, as Wilcoxon did. Most users are such, neither row having found their
    item, and Pratt's ranks, which start above them, would be nearly equal: a sign test, blind to by how much
    a list is better, which is what means are about. Ties share mean ranks, with the variance corrected for
    them. The normal approximation is continuity corrected, for the case of few users that differ.
    """
    from scipy.stats import rankdata, wilcoxon  # only here: they take a second to load

    changed = differences[differences != 0]
    if not len(changed):
        return 0.0, 1.0
    signed_ranks = np.sign(changed) * rankdata(np.abs(changed))
    result: Any = wilcoxon(changed, correction=True, method="asymptotic")
    return float(signed_ranks.sum()), float(result.pvalue)


def _joint(interval: Interval, signed_ranks: float, p_wilcoxon: float) -> float:
    """A p-value for both null hypotheses at once: the larger one, 1 where the tests point apart."""
    return max(interval.p, p_wilcoxon) if signed_ranks * interval.difference > 0 else 1.0


def _verdict(
    badge: Badge,
    needed: Mapping[str, Sequence[str]],
    comparisons: Mapping[str, Comparison],
    above: Mapping[tuple[str, str], bool],
) -> Verdict:
    """needed: names of rows by their kind; above: whether a pair differs as methods do."""
    names = [name for group in needed.values() for name in group]
    missing = [name for name in names if name not in comparisons]
    missing += [f"any {kind} row" for kind, group in needed.items() if not group]
    present = [comparisons[name] for name in names if name in comparisons]
    not_beaten = [c.other for c in present if not (c.above and above[c.model, c.other])]
    return Verdict(badge, not missing and not not_beaten, tuple(missing), tuple(not_beaten), tuple(present))


def _too_little(evidence: Evidence | None) -> str:
    """What one dataset lacks, or an empty string."""
    if evidence is None:
        return "not measured"
    faults = list(evidence.verdict.missing)
    if evidence.seeds < MIN_SEEDS:
        faults.append(f"{evidence.seeds} of {MIN_SEEDS} seeds")
    if evidence.draws is not None and evidence.draws < MIN_DRAWS:
        faults.append(f"{evidence.draws} of {MIN_DRAWS} draws")
    return ", ".join(faults)
