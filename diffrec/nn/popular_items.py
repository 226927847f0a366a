"""Negative examples that popular items are more often."""

from __future__ import annotations

import torch
from torch import nn

from diffrec.typing import Float, Int, Tensor


class PopularItems(nn.Module):
    """Draws of columns 0..N-1 with probability count^power, by torch's generator; 0 draws all alike.

    Nothing of this is in a checkpoint: it is worked out from the training sequences again.
    """

    cumulative: Tensor
    log_counts: Tensor

    def __init__(self, num_items: int, power: float) -> None:
        super().__init__()
        self.power = power
        self.register_buffer("cumulative", torch.empty(0, dtype=torch.float64), persistent=False)
        self.register_buffer("log_counts", torch.empty(0), persistent=False)
        self.fit(torch.ones(num_items, dtype=torch.int64))

    def fit(self, counts: Int[Tensor, " items"]) -> None:
        """How often training meets each item; one at least."""
        device = self.cumulative.device
        weights = counts.double().cpu().pow(self.power)
        self.cumulative = (weights.cumsum(0) / weights.sum()).to(device)
        self.log_counts = counts.clamp(min=1).float().log().to(device)

    def draw(self, count: int) -> Int[Tensor, " count"]:
        """Columns, repeats included. By search in the cumulated shares: `multinomial` is refused on an accelerator."""
        points = torch.rand(count, dtype=torch.float64, device=self.cumulative.device)
        return torch.searchsorted(self.cumulative, points, right=True).clamp(max=len(self.cumulative) - 1)

    def log_weights(self, columns: Int[Tensor, " columns"]) -> Float[Tensor, " columns"]:
        """log count^power of items that training met; they are drawn in proportion to count^power."""
        return self.power * self.log_counts[columns]
