"""Bayesian personalised ranking: an item that a user has against one that the user does not have."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from diffrec.typing import Float, Int, Tensor, Vectors


def bpr_loss(user: Vectors, positive: Vectors, negative: Vectors) -> Float[Tensor, ""]:
    """-ln sigmoid(<u, i> - <u, j>), the mean over the batch (Rendle et al., UAI 2009, eq. 4)."""
    return softplus((user * (negative - positive)).sum(1)).mean()


def half_squares(*vectors: Vectors) -> Float[Tensor, ""]:
    """|v|^2 / 2 of all vectors together, divided by the batch."""
    return _HalfSquares.apply(*vectors)


def half_squares_of_rows(table: Float[Tensor, "rows dim"], chosen: Int[Tensor, "roles batch"]) -> Float[Tensor, ""]:
    """`half_squares` of the chosen rows of a table, each as often as it is chosen; the rows are not gathered."""
    times = torch.bincount(chosen.flatten(), minlength=len(table)).to(table.dtype)
    return (table.square().sum(1) @ times) / (2 * chosen.shape[1])


class _HalfSquares(Function):
    """One product for the value and one for each gradient: nothing of the batch's size is kept in between."""

    @staticmethod
    def forward(ctx: Any, *vectors: Tensor) -> Tensor:
        ctx.save_for_backward(*vectors)
        return torch.stack([v.flatten().dot(v.flatten()) for v in vectors]).sum() / (2 * len(vectors[0]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        share = grad / len(ctx.saved_tensors[0])
        return tuple(v * share for v in ctx.saved_tensors)
