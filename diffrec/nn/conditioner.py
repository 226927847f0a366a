"""What a denoiser is told of the history, and the learned stand-in for "nothing"."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from diffrec.nn.dropout import Dropout
from diffrec.typing import Float, History, Tensor


class SlotConditioner(nn.Module):
    """(batch, length, dim + 1): LN(Dropout(embedding)) of every slot, and behind it 1 where the slot is real.

    pad_to: every history gets so many slots, for denoisers that look at the empty ones; None: as many as the batch.
    There is no stand-in for an unknown history.
    """

    null = None

    def __init__(self, dim: int, dropout: float, pad_to: int | None = None) -> None:
        super().__init__()
        self.dropout, self.norm, self.pad_to = Dropout(dropout), nn.LayerNorm(dim, eps=1e-12), pad_to

    def forward(self, history: History, embed: Callable[[Tensor], Tensor]) -> Float[Tensor, "batch slots dim_and_one"]:
        """The states of all slots."""
        if self.pad_to is not None:
            history = nn.functional.pad(history, (0, self.pad_to - history.shape[1]))
        states = self.norm(self.dropout(embed(history)))
        return torch.cat([states, (history > 0).to(states.dtype)[..., None]], dim=2)

    def dropped(self, history: History, embed: Callable[[Tensor], Tensor]) -> Float[Tensor, "batch slots dim_and_one"]:
        """The same: no history is hidden."""
        return self(history, embed)


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
