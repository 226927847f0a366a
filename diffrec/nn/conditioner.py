"""What a denoiser is told of the history, and the learned stand-in for "nothing"."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from diffrec.typing import Float, History, Tensor


class NullableConditioner(nn.Module):
    """A history encoder with the learned null condition of classifier-free guidance.

    embed: items -> embeddings, shared with the space; encoder: (embeddings, real slots) -> (batch, dim);
    in training each example's condition is replaced by `null` with probability `drop`.
    """

    def __init__(self, encoder: nn.Module, dim: int, drop: float) -> None:
        super().__init__()
        self.encoder, self.drop = encoder, drop
        self.null = nn.Parameter(torch.randn(1, dim))

    def forward(self, history: History, embed: Callable[[Tensor], Tensor]) -> Float[Tensor, "batch dim"]:
        """The condition of each history."""
        return self.encoder(embed(history), history > 0)

    def dropped(self, history: History, embed: Callable[[Tensor], Tensor]) -> Float[Tensor, "batch dim"]:
        """The same with examples dropped at random."""
        return self.drop_where(self(history, embed), torch.rand(len(history), device=history.device))

    def drop_where(
        self, condition: Float[Tensor, "batch dim"], uniform: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch dim"]:
        """`null` where uniform < drop, the condition elsewhere."""
        return torch.where((uniform < self.drop)[:, None], self.null, condition)
