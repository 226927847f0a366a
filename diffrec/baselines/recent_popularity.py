"""Recent popularity: the same list for everybody, of what was met lately."""

from __future__ import annotations

import numpy as np
import torch

from diffrec.data.ragged import Ragged
from diffrec.data.splits import Split
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import UsageError, check_numbers
from diffrec.recommender import ClosedFormRecommender
from diffrec.typing import History, Scores

_DAY = 86_400  # seconds


class RecentPopularity(ClosedFormRecommender):
    """score_j = sum over training interactions with item j of exp(-(t_end - t) / tau), t_end being the latest of all.

    Repeats count. It needs the times of interactions: order in a file, or gaps inside a sequence, say nothing of what
    was popular when. tau_days: tau in days. Buffer `recent`: (N,) float32, divided by its largest entry.
    """

    recent: torch.Tensor

    def __init__(self, num_items: int, tau_days: float = 30.0) -> None:
        super().__init__(num_items)
        check_numbers(above=0.0, tau_days=tau_days)
        self.tau_days = tau_days
        self.register_buffer("recent", torch.zeros(num_items))

    def prepare_on(self, split: Split) -> None:
        """Raises UsageError for a dataset without times."""
        if split.timestamps is None:
            raise UsageError(
                "recent popularity needs the times of interactions, which this dataset does not have; 'popularity' "
                "needs none, and 'diffrec data import FILE --timestamp COLUMN' brings data with times"
            )
        self.solve_dated(split.train, split.timestamps)

    def solve(self, sequences: Ragged) -> None:
        """UsageError: sequences alone have no times."""
        raise UsageError("recent popularity is solved from sequences and their times: solve_dated(sequences, times)")

    def solve_dated(self, sequences: Ragged, times: Ragged) -> None:
        """times: the second of every item of `sequences`, on one clock for all rows."""
        if len(times.values) == 0:
            return
        age = (times.values.max() - times.values.astype(np.float64)) / (_DAY * self.tau_days)
        summed = np.bincount(sequences.values - 1, weights=np.exp(-age), minlength=self.num_items)
        self.recent = torch.from_numpy(summed / summed.max()).float().to(self.device)

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        return self.recent.expand(len(history), -1)
