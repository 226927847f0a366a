"""The interaction vector of a user as the thing diffused."""

from __future__ import annotations

import torch
from torch import nn

from diffrec.errors import UsageError
from diffrec.typing import Float, History, Scores


class InteractionSpace(nn.Module):
    """x_0 is the multi-hot vector of the history, scattered batch by batch; x_0 is the score.

    recency: (w_min, w_max) gives the i-th of n items the weight of a ramp from w_min (oldest) to
    w_max (T-DiffRec, section 3.4); None gives every item the weight 1.
    """

    def __init__(self, num_items: int, recency: tuple[float, float] | None = None) -> None:
        super().__init__()
        if recency is not None and not 0 <= recency[0] <= recency[1]:
            raise UsageError(f"recency must be (w_min, w_max) with 0 <= w_min <= w_max, got {tuple(recency)}")
        self.num_items, self.recency = num_items, recency

    @property
    def shape(self) -> tuple[int]:
        """Of one x_0: (N,)."""
        return (self.num_items,)

    def encode(self, history: History) -> Float[torch.Tensor, "batch items"]:
        """(batch, N) vectors of (batch, length) histories; an item met twice keeps its largest weight."""
        vectors = torch.zeros(history.shape[0], self.num_items + 1, device=history.device)
        weights = self._weights(history)
        if self.recency is None:
            return vectors.scatter_(1, history, weights)[:, 1:]
        return vectors.scatter_reduce_(1, history, weights, "amax", include_self=True)[:, 1:]

    def _weights(self, history: History) -> Float[torch.Tensor, "batch length"]:
        if self.recency is None:
            return torch.ones(history.shape, device=history.device)
        low, high = self.recency
        sizes = (history > 0).sum(1, keepdim=True)
        place = torch.arange(history.shape[1], device=history.device)
        return low + (high - low) * place / (sizes - 1).clamp(min=1)

    def score(self, x0: Float[torch.Tensor, "batch items"]) -> Scores:
        """The vector itself."""
        return x0
