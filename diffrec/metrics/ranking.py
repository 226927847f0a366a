"""Ranking metrics accumulated over batches and devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import Module
from torchmetrics import Metric

from diffrec.errors import DiffrecError
from diffrec.metrics.functional import metric_names, metrics_from_ranks, target_ranks
from diffrec.typing import Float, Int, Scores, Targets, Tensor


class RankingMetrics(Metric):
    """Means of the full-ranking metrics over all users with at least one target.

    num_items: N, the width of the scores; cutoffs: lengths of list. Ties count by mean rank
    (`functional.target_ranks`); sums and counts are kept, so the batch size does not matter. They go where
    the model goes, but stay on the CPU where it goes to MPS, which has no float64.
    """

    higher_is_better = True
    full_state_update = False
    total: Tensor
    users: Tensor

    def __init__(self, num_items: int, cutoffs: tuple[int, ...] = (10, 20)) -> None:
        super().__init__()
        self.num_items, self.cutoffs, self.names = num_items, cutoffs, metric_names(cutoffs)
        self.add_state("total", torch.zeros(len(self.names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("users", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Scores, target: Targets, seen: Int[Tensor, "batch seen"] | None = None) -> None:
        """Add a batch: (batch, N) scores, true items and items out of the candidates, both 0-padded."""
        if scores.shape[1] != self.num_items:
            raise DiffrecError(f"scores of {scores.shape[1]} items where {self.num_items} are expected")
        values = torch.stack([*metrics_from_ranks(target_ranks(scores, target, seen).mean, self.cutoffs).values()])
        self.total += values.nansum(1).to(self.total.device)
        self.users += (target > 0).any(1).sum().to(self.users.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Module:
        """What `Module.to` and its like call with the change they make to each tensor."""
        return self if fn(torch.zeros(1)).device.type == "mps" else super()._apply(fn, exclude_state)

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """Scalars by name; NaN before the first user with a target."""
        return dict(zip(self.names, self.total / self.users, strict=True))
