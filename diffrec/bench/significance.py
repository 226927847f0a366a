"""Per-user values of a table's rows -> which differences are real. Pure functions: no files, no models, no clock.

A row is (users,) or (seeds, users), the second averaged over seeds first. Users without a target are NaN and
are left out; every row must be of the same users. Values are metrics of the order of 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from diffrec.errors import UsageError, check_sizes, choose

ALPHA = 0.05
RESAMPLES = 10_000
_COUNTS_AT_ONCE = 1 << 20  # of users x resamples; 8 MiB
_DIGITS = 12  # sums in another order differ by less: users who tie must tie, and what cancels must be 0


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


def compare(
    values: Mapping[str, np.ndarray], reference: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Comparison, ...]:
    """The row `reference` against every other row, in the order of `values`.

    All rows meet the same resamples, which depend on the number of users and the seed only: the interval
    of a pair is the same whatever else stands in the table. p_bootstrap is 2 / (resamples + 1) at least. Raises
    UsageError for rows of different users, NotFoundError for an unknown reference.
    """
    return corrected(uncorrected(values, reference, resamples, seed))


def uncorrected(values: Mapping[str, np.ndarray], reference: str, resamples: int, seed: int) -> tuple[Comparison, ...]:
    """`compare` with p_holm as it is before any correction."""
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


def corrected(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """The comparisons of one look, with their p-values corrected together."""
    together = holm([found.p_holm for found in comparisons])
    return tuple(replace(found, p_holm=p) for found, p in zip(comparisons, together, strict=True))


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
