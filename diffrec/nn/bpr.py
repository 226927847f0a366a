"""Bayesian personalised ranking: an item that a user has against one that the user does not have."""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from diffrec.typing import Float, Tensor, Vectors


def bpr_loss(user: Vectors, positive: Vectors, negative: Vectors) -> Float[Tensor, ""]:
    """-ln sigmoid(<u, i> - <u, j>), the mean over the batch (Rendle et al., UAI 2009, eq. 4)."""
    return softplus((user * (negative - positive)).sum(1)).mean()


def half_squares(*vectors: Vectors) -> Float[Tensor, ""]:
    """|v|^2 / 2 of all vectors together, divided by the batch."""
    return torch.stack([v.square().sum() for v in vectors]).sum() / (2 * len(vectors[0]))
