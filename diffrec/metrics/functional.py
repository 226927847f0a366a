"""Full ranking as pure functions: scores -> ranks of the true items -> values per user.

Column j of a score matrix is item number j + 1; 0 is padding in every list of item numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import pad

from diffrec.errors import DiffrecError
from diffrec.typing import Bool, Float, Int, PerExample, Scores, Targets, Tensor

_SCORES_AT_ONCE = 1 << 19  # scores worked on at a time, so that the passes over them stay in cache: twice as fast
_ON_A_DEVICE = 1 << 26  # where every part is a few calls and a wait instead
_FEW_TARGETS = 6  # up to here one pass per target is faster than sorting the row

Ranks = Float[Tensor, "batch targets"]


@dataclass(frozen=True)
class TargetRanks:
    """Places of the true items among the candidates, 1 is best.

    All (batch, targets) float64: `mean` of the places a tie allows (half-integers occur), the best
    (`optimistic`) and the worst (`pessimistic`). NaN at padding and where a target is listed again;
    +inf where the target is not a candidate.
    """

    mean: Ranks
    optimistic: Ranks
    pessimistic: Ranks


def rows_at_once(scores: Scores) -> int:
    """How many rows of a batch to work on at a time, on the device where they lie."""
    return max(1, (_SCORES_AT_ONCE if scores.device.type == "cpu" else _ON_A_DEVICE) // scores.shape[1])


def hide(scores: Scores, excluded: Int[Tensor, "batch excluded"]) -> Scores:
    """A copy of `scores` with the excluded item numbers at -inf; 0 in `excluded` is ignored."""
    rows, slots = excluded.nonzero(as_tuple=True)
    hidden = scores.clone()
    hidden[rows, excluded[rows, slots] - 1] = -torch.inf
    return hidden


def all_finite(scores: Scores) -> bool:
    """Is no score NaN or infinite? One pass without a temporary copy."""
    return not scores.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(scores))).all())


def target_ranks(scores: Scores, target: Targets, excluded: Int[Tensor, "batch excluded"] | None = None) -> TargetRanks:
    """Rank every true item among the items that are not excluded.

    rank = 1 + #greater + #equal / 2, bounds 1 + #greater and 1 + #greater + #equal, counted over the
    other candidates. scores: (batch, N), compared in their own dtype; target: (batch, targets) and
    excluded: (batch, excluded) item numbers. The ranks lie on the CPU, for not every device has float64.
    Raises DiffrecError on NaN or infinite scores.
    """
    if not all_finite(scores):
        raise DiffrecError("the scores hold NaN or infinite values; a ranking needs finite scores")
    if excluded is None:
        excluded = target[:, :0]
    target = _first_mentions(target)
    rows = rows_at_once(scores)
    parts = [_counts(*part) for part in zip(scores.split(rows), target.split(rows), excluded.split(rows), strict=True)]
    greater, others_equal, is_candidate = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    target = target.cpu()
    best = (1 + greater).to(torch.float64).masked_fill(~is_candidate, torch.inf).masked_fill(target == 0, torch.nan)
    return TargetRanks(best + others_equal / 2, best, best + others_equal)


def _first_mentions(target: Targets) -> Targets:
    """The true items with repeats in a row set to 0: the truth of a user is a set."""
    in_order, order = target.sort(dim=1, stable=True)
    repeats = pad(in_order[:, 1:] == in_order[:, :-1], (1, 0)) if target.shape[1] else target.bool()
    return torch.zeros_like(target).scatter(1, order, in_order.masked_fill(repeats, 0))


def _counts(
    scores: Scores, target: Targets, excluded: Int[Tensor, "batch excluded"]
) -> tuple[Int[Tensor, "batch targets"], Int[Tensor, "batch targets"], Bool[Tensor, "batch targets"]]:
    """Greater candidates, other equal candidates, and is the target a candidate (of finite score)?"""
    candidates = hide(scores, excluded)
    own = candidates.gather(1, (target - 1).clamp(min=0))
    if target.shape[1] <= _FEW_TARGETS:
        greater, equal = torch.zeros_like(target), torch.zeros_like(target)
        for column in range(target.shape[1]):
            score = own[:, column, None]
            greater[:, column] = (candidates > score).sum(1, dtype=torch.int32)
            equal[:, column] = (candidates == score).sum(1, dtype=torch.int32)
    else:
        in_order = _sorted_rows(candidates)
        up_to = torch.searchsorted(in_order, own, right=True)
        greater, equal = candidates.shape[1] - up_to, up_to - torch.searchsorted(in_order, own)
    return greater, equal - 1, torch.isfinite(own)


def _sorted_rows(scores: Scores) -> Scores:
    """Rising scores in every row. On the CPU by numpy, whose sort uses vector instructions and no index."""
    if scores.device.type == "cpu" and scores.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.sort(scores.detach().numpy(), axis=1))
    return scores.sort(dim=1).values


# One value per user from ranks; NaN for users without a target. True items that tie with one another
# share a place, which can lift `recall_capped` and `ndcg` above 1.


def recall(ranks: Ranks, k: int) -> PerExample:
    """hits / |T|: the share of a user's true items in the first k."""
    return _hits(ranks, k) / _num_targets(ranks)


def recall_capped(ranks: Ranks, k: int) -> PerExample:
    """hits / min(|T|, k): 1 for a full list of true items, as GiffCF counts recall."""
    return _hits(ranks, k) / _num_targets(ranks).clamp(max=k)


def hit_rate(ranks: Ranks, k: int) -> PerExample:
    """1 if any true item is in the first k, else 0."""
    return _hits(ranks, k).clamp(max=1) / _num_targets(ranks).clamp(max=1)


def ndcg(ranks: Ranks, k: int) -> PerExample:
    """Sum of 1 / log2(rank + 1) over the hits, by its maximum for min(|T|, k) hits.

    Source: Järvelin and Kekäläinen, ACM TOIS 20 (2002), with binary gains and log2(rank + 1).
    """
    gain = (1 / torch.log2(ranks + 1)).masked_fill(~(ranks <= k), 0).sum(1)
    return gain / _ideal_gains(k).to(ranks)[_num_targets(ranks).clamp(max=k)]


def _ideal_gains(k: int) -> Float[Tensor, " places"]:
    """(k + 1,) float64: the best gain of 0..k hits. On the CPU, because CUDA has no deterministic cumsum."""
    places = torch.arange(1, k + 1, dtype=torch.float64, device="cpu")
    return pad((1 / torch.log2(places + 1)).cumsum(0), (1, 0))


def mrr(ranks: Ranks) -> PerExample:
    """1 / (rank of the best true item), without cutoff."""
    return (1 / _best(ranks)).masked_fill(_num_targets(ranks) == 0, torch.nan)


def mrr_at(ranks: Ranks, k: int) -> PerExample:
    """1 / (rank of the best true item) if that rank is at most k, else 0."""
    return mrr(ranks).masked_fill(_best(ranks) > k, 0).masked_fill(_num_targets(ranks) == 0, torch.nan)


CUTOFF_METRICS: dict[str, Callable[[Ranks, int], PerExample]] = {
    "recall": recall,
    "recall_capped": recall_capped,
    "hit_rate": hit_rate,
    "ndcg": ndcg,
    "mrr": mrr_at,
}


def metric_names(cutoffs: Sequence[int]) -> tuple[str, ...]:
    """The names of `metrics_from_ranks`, in its order."""
    return (*(f"{name}@{k}" for k in cutoffs for name in CUTOFF_METRICS), "mrr")


def metrics_from_ranks(ranks: Ranks, cutoffs: Sequence[int]) -> dict[str, PerExample]:
    """Every metric per user by name: `recall@10`, ..., `mrr`.

    ranks: (batch, targets) as in a field of TargetRanks. Values: (batch,), NaN for users without target.
    """
    return {name: metric_from_ranks(ranks, name) for name in metric_names(cutoffs)}


def metric_from_ranks(ranks: Ranks, name: str) -> PerExample:
    """One of `metrics_from_ranks`, by a name of `metric_names`."""
    metric, _, cutoff = name.partition("@")
    return CUTOFF_METRICS[metric](ranks, int(cutoff)) if cutoff else mrr(ranks)


def _best(ranks: Ranks) -> PerExample:
    return pad(ranks.masked_fill(ranks.isnan(), torch.inf), (0, 1), value=torch.inf).amin(1)


def _hits(ranks: Ranks, k: int) -> PerExample:
    return (ranks <= k).sum(1, dtype=ranks.dtype)


def _num_targets(ranks: Ranks) -> Int[Tensor, " batch"]:
    return (~ranks.isnan()).sum(1)
