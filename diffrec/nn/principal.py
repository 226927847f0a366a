"""The widest directions of vectors."""

from __future__ import annotations

import torch

from diffrec.typing import Float, Tensor


def principal(vectors: Float[Tensor, "items raw"], dim: int, whiten: bool) -> Float[Tensor, "items dim"]:
    """(e - mean) U over the `dim` largest eigenvalues of the covariance, widest last, in float64.

    whiten: each direction is divided by (eigenvalue + 1e-7)^1/2, so that all vary by 1.
    """
    centred = vectors.double() - vectors.double().mean(0)
    values, directions = torch.linalg.eigh(centred.T @ centred / (len(vectors) - 1))
    turned = centred @ directions[:, -dim:]
    return turned / (values[-dim:].clamp(min=0) + 1e-7).sqrt() if whiten else turned


def whitened(vectors: Float[Tensor, "items raw"], dim: int) -> Float[Tensor, "items dim"]:
    """(e - mean) U diag(eigenvalue + 1e-7)^-1/2 over the `dim` largest eigenvalues of the covariance, in float64."""
    return principal(vectors, dim, whiten=True)
