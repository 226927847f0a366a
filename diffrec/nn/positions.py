"""Learned positions of the sequence models."""

from __future__ import annotations

import torch
from torch import nn

from diffrec.typing import Bool, Float, Tensor


class PositionsFromEnd(nn.Embedding):
    """The last of n real slots has the last position, the first has P - n, as in a left-padded window.

    Sequences themselves are padded on the right; positions of empty slots mean nothing.
    """

    def __init__(self, length: int, dim: int, init_std: float = 0.02) -> None:
        super().__init__(length, dim)
        nn.init.normal_(self.weight, std=init_std)

    def forward(self, real: Bool[Tensor, "batch length"]) -> Float[Tensor, "batch length dim"]:
        """real: which slots hold something."""
        slots = torch.arange(real.shape[1], device=real.device)
        positions = self.num_embeddings - real.sum(1, keepdim=True) + slots
        return super().forward(positions.clamp(max=self.num_embeddings - 1))
